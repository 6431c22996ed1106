"""Poses for single frames against a model, beginning at the neighbours' poses: what settles a planar face's two-fold ambiguity."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pycolmap

from holdprep.geometry.rigid import apply, from_rt, rotation_angle_deg
from holdprep.object.colmap import Features, Model

_MIN_INLIERS = 12
_INLIER_PX = 3.0
_REACH_FRAMES = 4  # a neighbour farther away says nothing about which of two solutions is right


@dataclass(frozen=True)
class Resection:
    T_cam_obj: np.ndarray
    num_inliers: int


def resect(
    names: Sequence[str], trusted: np.ndarray, model: Model, features: Features, K: np.ndarray, limit_deg: float
) -> dict[int, Resection]:
    """Poses of frames outside `trusted` (T,) bool that the trusted frames' points support, spreading from the trusted frames inwards.

    A frame's keypoints take the 3D points of the keypoints they match in trusted or already resected frames. The pose is refined
    robustly from each resolved neighbour's; of the solutions with nearly the best support the one nearest the neighbours is taken.
    Frames with fewer than 12 inliers, or that would turn more than `limit_deg` (times the root of the gap) are left out.
    """
    points_at = _solid_points(model, [name for name, ok in zip(names, trusted, strict=True) if ok])
    poses = {t: model.poses[names[t]] for t in np.flatnonzero(trusted).tolist()}
    radial = float(model.distortion[0]) if len(model.distortion) else 0.0
    camera = pycolmap.Camera(model="SIMPLE_RADIAL", width=1, height=1, params=[K[0, 0], K[0, 2], K[1, 2], radial])
    found: dict[int, Resection] = {}
    pending = [t for t in range(len(names)) if t not in poses and names[t] in features.matches]
    while pending:
        gap, frame = min((min((abs(t - p) for p in poses), default=len(names)), t) for t in pending)
        pending.remove(frame)
        if gap > _REACH_FRAMES:
            continue
        keypoints, points = _correspondences(names[frame], features, points_at)
        near = sorted((t for t in poses if abs(t - frame) <= _REACH_FRAMES), key=lambda t: abs(t - frame))[:4]
        pixels, xyz = features.keypoints_px[names[frame]][keypoints], model.points[points]
        best = _solve(pixels, xyz, camera, {abs(t - frame) + 1e-3 * i: poses[t] for i, t in enumerate(near)}, limit_deg)
        if best is None:
            continue
        T, inliers = best
        found[frame], poses[frame] = Resection(T, int(inliers.sum())), T
        points_at[names[frame]] = np.full(len(features.keypoints_px[names[frame]]), -1)
        points_at[names[frame]][keypoints[inliers]] = points[inliers]
    return found


def _solid_points(model: Model, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Point index per keypoint of the named frames, -1 where the point has fewer than two observations among them."""
    seen = np.concatenate([model.point_of_keypoint[name] for name in names])
    count = np.bincount(seen[seen >= 0], minlength=len(model.points) + 1)
    return {name: np.where(count[model.point_of_keypoint[name]] >= 2, model.point_of_keypoint[name], -1) for name in names}


def _correspondences(name: str, features: Features, points_at: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints of a frame and the model points (M,), (M,) that most of their matches stand for."""
    votes: dict[int, Counter[int]] = {}
    for other, pairs in features.matches[name].items():
        if other in points_at:
            for own, point in zip(pairs[:, 0], points_at[other][pairs[:, 1]], strict=True):
                if point >= 0:
                    votes.setdefault(int(own), Counter())[int(point)] += 1
    keypoints = sorted(votes)
    return np.array(keypoints, int), np.array([votes[k].most_common(1)[0][0] for k in keypoints], int)


def _solve(
    pixels: np.ndarray, xyz: np.ndarray, camera: pycolmap.Camera, neighbours: dict[float, np.ndarray], limit_deg: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """The best-supported pose that continues the neighbours' (gap in frames -> pose), with its inliers (M,) bool."""
    if len(pixels) < _MIN_INLIERS:
        return None
    starts = list(neighbours.values())
    ransac = pycolmap.AbsolutePoseEstimationOptions()
    ransac.ransac.max_error, ransac.ransac.random_seed = _INLIER_PX, 0
    estimate = pycolmap.estimate_absolute_pose(pixels, xyz, camera, ransac)
    if estimate is not None:
        pose = estimate["cam_from_world"]
        starts.append(from_rt(pose.rotation.matrix(), np.asarray(pose.translation)))
    solved = [(T, _inliers(T, pixels, xyz, camera)) for T in (_refine(T, pixels, xyz, camera) for T in starts)]
    most = max(inliers.sum() for _, inliers in solved)
    gap, nearest = min(neighbours.items())
    good = [(T, i) for T, i in solved if i.sum() >= max(_MIN_INLIERS, 0.7 * most)]
    good = [(T, i) for T, i in good if rotation_angle_deg(nearest[:3, :3], T[:3, :3]) <= limit_deg * max(gap, 1) ** 0.5]
    return min(good, key=lambda s: float(rotation_angle_deg(nearest[:3, :3], s[0][:3, :3])) - 0.1 * s[1].sum() / most, default=None)


def _refine(T: np.ndarray, pixels: np.ndarray, xyz: np.ndarray, camera: pycolmap.Camera) -> np.ndarray:
    """Robust refinement, the scale of the loss narrowing as the pose settles."""
    pose = pycolmap.Rigid3d(T[:3])
    for scale_px in (10.0, 1.0):
        options = pycolmap.AbsolutePoseRefinementOptions()
        options.loss_function_scale, options.gradient_tolerance = scale_px, 1e-8
        refined = pycolmap.refine_absolute_pose(pose, pixels, xyz, np.ones(len(pixels), bool), camera, options)
        pose = refined["cam_from_world"] if refined is not None else pose
    return from_rt(pose.rotation.matrix(), np.asarray(pose.translation))


def _inliers(T: np.ndarray, pixels: np.ndarray, xyz: np.ndarray, camera: pycolmap.Camera) -> np.ndarray:
    cam = apply(T, xyz)
    error = np.linalg.norm(camera.img_from_cam(np.where(cam[:, 2:] > 0, cam, [0.0, 0.0, 1.0])) - pixels, axis=1)
    return (cam[:, 2] > 0) & (error < _INLIER_PX)
