"""Ground truth with known errors, instead of a hand tracker, masks or SfM, to measure single stages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import trimesh
from scipy.spatial.transform import Rotation

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import distort, project
from holdprep.geometry.rigid import apply, from_rt
from holdprep.hand.model import Side
from holdprep.hand.trackers.tracks import VertexTrack
from holdprep.object.reconstruction import ObjectReconstruction, Observations, RawReconstruction, assemble
from holdprep.quality.truth import GroundTruth

Drop = Literal["random", "bursts", "ends"]
BURST = 6  # frames: 0.2 s at 30 fps, as lost by trackers at fast rotations of the hand
OTHER: dict[Side, Side] = {"right": "left", "left": "right"}
CLOUD_POINTS = 2500
CLOUD_NOISE_PX = 0.3  # SIFT's precision on sharp images, and the size of SfM's residuals
SFM_UNITS_PER_M = 7.3  # arbitrary, as SfM's unit


@dataclass(frozen=True)
class HandErrors:
    """Errors of a tracker.

    `noise_px` standard deviation of each keypoint, `depth_noise_pct` standard deviation of the hand's distance per frame, `drop_pct` of the
    frames without a hand (`drop`: at random, in bursts, at both ends), `size_error_pct` of the hand's size, `swap` of left and right.
    """

    noise_px: float = 0.0
    depth_noise_pct: float = 0.0
    drop_pct: float = 0.0
    drop: Drop = "random"
    size_error_pct: float = 0.0
    swap: bool = False


def frame_index(truth: GroundTruth, names: Sequence[str]) -> np.ndarray:
    """(T,) rows of the truth for frames `names`; raises HoldprepError where one has no truth."""
    row_of = {name: i for i, name in enumerate(truth.names)}
    missing = [name for name in names if name not in row_of]
    if missing:
        raise HoldprepError(f"the ground truth has no frame {missing[0]} ({len(missing)} of {len(names)} such)")
    return np.array([row_of[name] for name in names])


def hand_track(truth: GroundTruth, names: Sequence[str], errors: HandErrors, seed: int) -> VertexTrack:
    """The track of a tracker with these errors, of every true hand in frames `names`.

    A size error changes size and distance together, as in monocular trackers, with unchanged pixels. Distance noise moves the hand
    along its ray. Raises HoldprepError where the truth has no hand meshes.
    """
    rng = np.random.default_rng(seed)
    index = frame_index(truth, names)
    vertices_m: dict[Side, np.ndarray] = {}
    j2d_px: dict[Side, np.ndarray] = {}
    for side, hand in truth.hands.items():
        if hand.vertices_m is None or hand.joints_m is None:
            raise HoldprepError(f"the ground truth holds no mesh of the {side} hand: it cannot replace a tracker")
        vertices, joints = hand.vertices_m[index], hand.joints_m[index]
        lost = dropped_frames(len(names), errors.drop_pct, errors.drop, rng)
        depth_error = errors.depth_noise_pct / 100 * rng.standard_normal((len(names), 1, 1)) * joints[:, :1]
        seen_px = _project(joints, truth) + errors.noise_px * rng.standard_normal((*joints.shape[:2], 2))
        label: Side = OTHER[side] if errors.swap else side
        vertices_m[label] = np.where(lost[:, None, None], np.nan, vertices * (1 + errors.size_error_pct / 100) + depth_error)
        j2d_px[label] = np.where(lost[:, None, None], np.nan, seen_px)
    return VertexTrack(vertices_m, j2d_px, truth.K, tuple(names), ("ground truth instead of a tracker",))


def dropped_frames(frames: int, pct: float, how: Drop, rng: np.random.Generator) -> np.ndarray:
    """(T,) bool: `pct` percent of the frames, at random, in bursts of `BURST`, or at both ends; at least one frame is kept."""
    count = min(round(frames * pct / 100), frames - 1)
    lost = np.zeros(frames, bool)
    if how == "ends":
        lost[: count // 2] = lost[frames - (count - count // 2) :] = True
        return lost
    if how == "random":
        lost[rng.choice(frames, count, replace=False)] = True
        return lost
    starts = rng.permutation(range(0, frames, BURST))
    order = [t for start in starts for t in range(start, min(start + BURST, frames))]
    lost[order[:count]] = True
    return lost


def corrupt_masks(
    masks: Mapping[str, np.ndarray], erode_px: int = 0, dilate_px: int = 0, leak_pct: float = 0.0, seed: int = 0
) -> dict[str, np.ndarray]:
    """Masks (T, H, W) bool by entity, eroded, dilated, and enlarged by a disc at their edge of `leak_pct` percent of their area."""
    rng = np.random.default_rng(seed)
    return {entity: np.stack([_corrupt_mask(m, erode_px, dilate_px, leak_pct, rng) for m in stack]) for entity, stack in masks.items()}


def _corrupt_mask(mask: np.ndarray, erode_px: int, dilate_px: int, leak_pct: float, rng: np.random.Generator) -> np.ndarray:
    out: np.ndarray = mask.astype(np.uint8)
    for pixels, change in ((erode_px, cv2.erode), (dilate_px, cv2.dilate)):
        if pixels:
            disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
            out = change(out, disc, borderType=cv2.BORDER_REPLICATE)
    edge = np.argwhere(cv2.morphologyEx(out, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)))
    if leak_pct and len(edge):
        y, x = edge[rng.integers(len(edge))]
        # half of a disc at the edge lies outside the mask
        radius = np.sqrt(2 * leak_pct / 100 * out.sum() / np.pi)
        cv2.circle(out, (int(x), int(y)), max(1, round(radius)), 1, -1)
    return out > 0


def object_reconstruction(
    truth: GroundTruth,
    names: Sequence[str],
    masks: Sequence[np.ndarray],
    *,
    drop_pct: float = 0.0,
    focal_error_pct: float = 0.0,
    seed: int = 0,
) -> ObjectReconstruction:
    """SfM's reconstruction of frames `names` with no other errors: surface points, with an arbitrary frame and unit.

    Points are observed where the object's visible mask (H, W) bool and their normals permit. A wrong focal length changes all depths by the
    same factor and does not change sizes. Raises HoldprepError without a true mesh.
    """
    if truth.T_cam_obj is None or truth.object_vertices_m is None or truth.object_faces is None:
        raise HoldprepError("the ground truth holds no object mesh or poses: it cannot replace SfM")
    rng = np.random.default_rng(seed)
    T_cam_obj = truth.T_cam_obj[frame_index(truth, names)]
    mesh = trimesh.Trimesh(truth.object_vertices_m, truth.object_faces, process=False)
    points, face = trimesh.sample.sample_surface(mesh, CLOUD_POINTS, seed=seed)
    known = ~dropped_frames(len(names), drop_pct, "random", rng)
    seen = _observations(np.asarray(points), mesh.face_normals[face], T_cam_obj, known, masks, truth, rng)
    R_sfm_obj = Rotation.random(rng=rng).as_matrix()
    origin = truth.object_vertices_m.mean(axis=0) + 0.02 * rng.standard_normal(3)  # SfM's origin is arbitrary
    R_cam_sfm = T_cam_obj[:, :3, :3] @ R_sfm_obj.T
    transl = SFM_UNITS_PER_M * (T_cam_obj[:, :3, :3] @ origin + T_cam_obj[:, :3, 3])
    factor = 1 + focal_error_pct / 100
    transl[:, 2] *= factor
    K = truth.K.copy()
    K[[0, 1], [0, 1]] *= factor
    lens = np.array([truth.distortion * factor**2]) if truth.distortion else np.zeros(0)
    cloud = SFM_UNITS_PER_M * (points - origin) @ R_sfm_obj.T
    return assemble(RawReconstruction(names, K, from_rt(R_cam_sfm, transl), known, cloud, seen, lens))


def _observations(
    points: np.ndarray,
    normals: np.ndarray,
    T_cam_obj: np.ndarray,
    known: np.ndarray,
    masks: Sequence[np.ndarray],
    truth: GroundTruth,
    rng: np.random.Generator,
) -> Observations:
    frames, ids, pixels = [], [], []
    for t in np.flatnonzero(known).tolist():
        cam = apply(T_cam_obj[t], points)
        facing = ((normals @ T_cam_obj[t, :3, :3].T) * cam).sum(axis=1) < -0.2 * np.linalg.norm(cam, axis=1)
        px = _project(cam, truth)
        u, v = np.round(px).astype(int).T
        inside = (u >= 0) & (v >= 0) & (u < masks[t].shape[1]) & (v < masks[t].shape[0])
        inside[inside] = masks[t][v[inside], u[inside]]
        shown = np.flatnonzero(facing & inside)
        frames.append(np.full(len(shown), t))
        ids.append(shown)
        pixels.append(px[shown] + CLOUD_NOISE_PX * rng.standard_normal((len(shown), 2)))
    if not sum(map(len, ids)):
        raise HoldprepError("no point of the true object is visible in any frame: check the object's masks")
    return Observations(np.concatenate(frames), np.concatenate(ids), np.concatenate(pixels))


def _project(points_cam: np.ndarray, truth: GroundTruth) -> np.ndarray:
    return project(distort(points_cam, truth.distortion), truth.K)
