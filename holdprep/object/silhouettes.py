"""Object poses and shape from silhouettes, for objects without texture: the hand's motion predicts, silhouettes correct.

While the grasp is static, the object moves with the palm. A convex shape and the poses are estimated together from the outlines of all
masks (shape from silhouette across time: Cheung, Baker, Kanade 2005), around the palm's motion; the visual hull then has the object's
concave parts. Some frames are held out of shape and hull, to measure whether these predict silhouettes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from tqdm import tqdm

from holdprep.errors import HoldprepError
from holdprep.geometry.rigid import rotation_angle_deg
from holdprep.object.palm_motion import PalmMotion
from holdprep.object.reconstruction import ObjectReconstruction, RawReconstruction, SilhouetteEvidence, assemble
from holdprep.object.silhouette_fit import Noise, SilhouetteProblem, minimise
from holdprep.object.silhouette_start import MIN_LINES, first_fit, place_in_hand
from holdprep.object.support_lines import SupportLines, support_lines
from holdprep.object.trajectory import dominant_rotation
from holdprep.object.visual_hull import Hull, silhouette_iou, visual_hull

MIN_FRAMES = 8  # with MIN_LINES
MIN_HULL = 100  # points; small objects on the grid have 1000
FREE_SHARE = 0.12  # of the object's radius, by which its outline moves per radian of rotation about an axis that hardly shows
MARGIN_SHARE = 1 / 160  # of the picture's longer side: an outline this near to a hand is hidden
CLOUD_POINTS = 4000
STEPS = 5  # of the progress bar


@dataclass(frozen=True)
class SilhouetteOptions:
    """One frame in `held_out_every` is held out of the shape; `max_gap` as in `assemble`."""

    held_out_every: int = 5
    max_gap: int = 10
    noise: Noise = field(default_factory=Noise)
    progress: bool = False


def reconstruct(
    names: Sequence[str],
    masks: Sequence[np.ndarray],
    hands: Sequence[np.ndarray],
    palm: PalmMotion,
    K: np.ndarray,
    options: SilhouetteOptions,
) -> ObjectReconstruction:
    """Poses of every frame and a cloud on the visual hull (metres as the hand's), from `masks` of the object and `hands`, (H, W) bool each.

    `hands` are the pixels of all hands together, `palm` the motion of the one that holds the object. Frames whose silhouette corrects the
    pose are registered; others have the hand's motion, or are filled in. Raises HoldprepError where too few frames show enough of the
    object's outline.
    """
    with tqdm(total=STEPS, desc="silhouettes", disable=not options.progress, leave=False) as bar:
        lines = support_lines(masks, hands, max(2, round(MARGIN_SHARE * max(masks[0].shape))))
        bar.update()
        corrected = lines.is_exact.sum(axis=1) >= MIN_LINES
        _require_outlines(corrected)
        held_out = np.zeros(len(corrected), bool)
        held_out[np.flatnonzero(corrected)[options.held_out_every // 2 :: options.held_out_every]] = True
        problem = _fit(lines, palm, K, held_out, options.noise, bar)
        shown = np.flatnonzero(corrected & ~held_out).tolist()
        hull = visual_hull(problem.at.shape, ((masks[t], hands[t]) for t in shown), problem.T_cam_obj[shown], K)
        bar.update()
    if len(hull.vertices) < MIN_HULL:
        raise HoldprepError(
            f"object poses from silhouettes: the visual hull has {len(hull.vertices)} points, {MIN_HULL} are needed: the masks contradict one "
            "rigid object that follows the hand; check the masks and the hand's overlays"
        )
    raw = RawReconstruction(names, K, problem.T_cam_obj, corrected | palm.found, hull.points(CLOUD_POINTS))
    found = assemble(raw, options.max_gap)
    return replace(
        found,
        registered=corrected,
        origin=[_origin(how, by_outline) for how, by_outline in zip(found.origin, corrected.tolist(), strict=True)],
        silhouettes=SilhouetteEvidence(
            iou=_held_out_iou(hull, problem.T_cam_obj, K, masks, hands, held_out),
            departure_deg=_departure_deg(problem.T_cam_obj, palm, corrected),
            finger_motion_mm=palm.finger_motion_mm,
            free_axes_obj=_free_axes(problem),
        ),
    )


def _origin(how: str, by_outline: bool) -> str:
    """How the pose of a frame was found: 'silhouettes', 'hand' (its motion alone), or filled in."""
    return how if how != "sfm" else "silhouettes" if by_outline else "hand"


def _require_outlines(corrected: np.ndarray) -> None:
    if corrected.sum() < MIN_FRAMES:
        raise HoldprepError(
            f"object poses from silhouettes: {corrected.sum()} of {len(corrected)} frames show enough of the object's outline, "
            f"{MIN_FRAMES} are needed: complete the object's masks, or hold it so that the hand hides less of it"
        )


def _fit(lines: SupportLines, palm: PalmMotion, K: np.ndarray, held_out: np.ndarray, noise: Noise, bar: "tqdm[None]") -> SilhouetteProblem:
    """Shape from the frames that are not held out, then poses of all frames with this shape."""
    training = lines.without(held_out)
    T_predicted, radius_m = place_in_hand(lines, palm.T_cam_palm, K)
    first = first_fit(training, T_predicted, palm.found, radius_m, K, noise)
    bar.update()
    noise = noise.with_lines(first.line_px)
    both = minimise(SilhouetteProblem(training, K, T_predicted, palm.found, first.shape, noise, first.T_cam_obj))
    bar.update()
    posed = minimise(SilhouetteProblem(lines, K, T_predicted, palm.found, both.at.shape, noise, both.T_cam_obj, shape_is_fixed=True))
    bar.update()
    return posed


def _free_axes(problem: SilhouetteProblem) -> np.ndarray:
    """(N, 3) orthogonal axes in the object's frame, rotations about which hardly move the outline: the axis of a can, three of a ball."""
    square, axes = np.linalg.eigh(problem.rotation_information())
    radius_px = problem.K[0, 0] * problem.at.shape.mean_size_m / float(np.median(problem.at.t[:, 2].numpy()))
    return np.asarray(axes.T[np.sqrt(np.maximum(square, 0)) < FREE_SHARE * radius_px])


def _departure_deg(T_cam_obj: np.ndarray, palm: PalmMotion, corrected: np.ndarray) -> np.ndarray:
    """(T,) angle between the object's rotation and that of a static grasp; NaN where the hand or the outline was not seen."""
    both = palm.found & corrected
    angles = np.full(len(both), np.nan)
    if both.any():
        R_obj, R_palm = T_cam_obj[both, :3, :3], palm.T_cam_palm[both, :3, :3]
        angles[both] = rotation_angle_deg(R_obj, R_palm @ dominant_rotation(R_obj, R_palm))
    return angles


def _held_out_iou(
    hull: Hull, T_cam_obj: np.ndarray, K: np.ndarray, masks: Sequence[np.ndarray], hands: Sequence[np.ndarray], held_out: np.ndarray
) -> np.ndarray:
    """(T,) IoU of the hull's silhouette and the mask in frames that were held out, else NaN."""
    iou = np.full(len(held_out), np.nan)
    for t in np.flatnonzero(held_out).tolist():
        height, width = masks[t].shape
        iou[t] = silhouette_iou(hull.silhouette(T_cam_obj[t], K, (width, height)), masks[t], hands[t])
    return iou
