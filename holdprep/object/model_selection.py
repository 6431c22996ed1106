"""Model selection: compare sparse models per frame by their cost over all verified matches.

The number of registered frames and a model's own reprojection error do not reveal flipped frames: a flipped range of
frames triangulates its own points and fits them well. Its keypoints are also matched with keypoints in other frames,
whose points lie elsewhere. Over all verified matches a wrong pose therefore costs more than the right one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from holdprep.geometry.rigid import from_rt, rotation_angle_deg
from holdprep.object.colmap import Features, Model
from holdprep.object.single_view import OUTLIER_COST, reprojection_errors_px, robust_sigma, rotation_cost
from holdprep.object.trajectory import disagreement_deg, dominant_rotation

AGREEMENT_DEG = 8.0  # rotations of two models that differ by more are competing hypotheses
_MIN_SIGMA_FRAMES = 0.5  # models with fewer frames, relative to the largest one, are not used to estimate sigma
REJECTION_MARGIN = 0.05  # relative cost margin above which the competing hypothesis is rejected


@dataclass(frozen=True)
class ModelScores:
    """Costs of T frames under each of M models, and all poses in the object frame of the best model."""

    cost: np.ndarray  # (M, T) truncated squared match errors, summed over the keypoints that have a match
    poses: np.ndarray  # (M, T, 4, 4) T_cam_obj, NaN where a model has none

    @property
    def best(self) -> int:
        """Index of the model with the lowest total cost."""
        return int(self.cost.sum(axis=1).argmin())


def score_models(
    names: Sequence[str],
    models: Sequence[Model],
    features: Features,
    principal_px: tuple[float, float],
) -> ModelScores:
    """Score `models` over all frames `names`; pixels are those of the full image."""
    errors = [_match_errors(names, model, features, principal_px) for model in models]
    # small models underestimate the noise: one of three frames overfits
    largest = max(len(model.poses) for model in models)
    large = [each for model, each in zip(models, errors, strict=True) if len(model.poses) >= _MIN_SIGMA_FRAMES * largest]
    sigma = min(robust_sigma(np.concatenate([e[np.isfinite(e)] for _, e in each])) for each in large)
    cost = np.array([[_frame_cost(keypoints, e / sigma) for keypoints, e in each] for each in errors])
    poses = np.full((len(models), len(names), 4, 4), np.nan)
    for model, row in zip(models, poses, strict=True):
        for t, name in enumerate(names):
            if name in model.poses:
                row[t] = model.poses[name]
    reference = poses[int(cost.sum(axis=1).argmin())].copy()
    return ModelScores(cost, np.stack([_align_poses(row, reference) for row in poses]))


def rotation_agreement(a: Model, b: Model) -> float:
    """Share of common frames at which the rotations of two models agree within 8 degrees, 0 without common frames."""
    angles = disagreement_deg(a.poses, b.poses)
    return float(np.mean([angle < AGREEMENT_DEG for angle in angles.values()])) if angles else 0.0


def _match_errors(
    names: Sequence[str], model: Model, features: Features, principal_px: tuple[float, float]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per frame, over all its matches: keypoint index (K,) and reprojection error (K,) of the matched keypoint's point.

    If the matched keypoint has no point, the keypoint's own is used; infinite if it has none either, or no pose.
    """
    camera, found = model.camera(principal_px), []
    for name in names:
        own, points = [np.zeros(0, int)], [np.zeros(0, int)]
        for other, pairs in features.matches.get(name, {}).items():
            own.append(pairs[:, 0])
            points.append(model.point_of_keypoint[other][pairs[:, 1]] if other in model.poses else np.full(len(pairs), -1))
        keypoint, point = np.concatenate(own), np.concatenate(points)
        error = np.full(len(keypoint), np.inf)
        if name in model.poses:
            point = np.where(point < 0, model.point_of_keypoint[name][keypoint], point)
            at = np.flatnonzero(point >= 0)
            px, xyz = features.keypoints_px[name][keypoint[at]], model.points[point[at]]
            error[at] = reprojection_errors_px(model.poses[name], px, xyz, camera)
        found.append((keypoint, error))
    return found


def _frame_cost(keypoint: np.ndarray, sigmas: np.ndarray) -> float:
    """Sum over keypoints of the mean truncated cost of their matches."""
    matches = np.bincount(keypoint)
    total = np.bincount(keypoint, np.minimum(sigmas**2 / 2, OUTLIER_COST))
    return float((total[matches > 0] / matches[matches > 0]).sum())


def _align_poses(T: np.ndarray, T_reference: np.ndarray) -> np.ndarray:
    """Poses (T, 4, 4) transformed to the object frame and scale of `T_reference` (T, 4, 4); NaN without common frames.

    The similarity transform is estimated from the frames at which both agree.
    """
    common = np.isfinite(T[:, 0, 0]) & np.isfinite(T_reference[:, 0, 0])
    if not common.any():
        return np.full_like(T, np.nan)
    R, R_reference = T[common, :3, :3], T_reference[common, :3, :3]
    R_align = dominant_rotation(R_reference, R)
    agrees = rotation_angle_deg(R_reference, R @ R_align) < AGREEMENT_DEG
    # X = scale * R_align @ X_reference + shift: linear in scale and shift over the translations
    t, t_reference = T[common, :3, 3][agrees], T_reference[common, :3, 3][agrees]
    rows = np.concatenate([-t_reference[..., None], R[agrees]], axis=2).reshape(-1, 4)
    scale, *shift = np.linalg.lstsq(rows, -t.ravel(), rcond=None)[0]
    return from_rt(T[:, :3, :3] @ R_align, (T[:, :3, :3] @ np.array(shift) + T[:, :3, 3]) / scale)


def select_per_frame(scores: ModelScores) -> np.ndarray:
    """(T,) model index per frame, chosen by Viterbi over match cost and rotation change; -1 if no model registered it.

    Candidates are the best model's pose and those of other models that disagree with it, or fill in a frame it lacks.
    """
    posed, best = np.isfinite(scores.poses[:, :, 0, 0]), scores.best
    R = np.where(posed[..., None, None], scores.poses[..., :3, :3], np.eye(3))
    candidate = posed & (~posed[best] | (rotation_angle_deg(R[[best]].repeat(len(R), 0), R) > AGREEMENT_DEG))
    candidate[best] = posed[best]
    times = np.flatnonzero(candidate.any(axis=0))
    at = [np.flatnonzero(candidate[:, t]) for t in times]
    poses = [scores.poses[models, t] for models, t in zip(at, times, strict=True)]
    costs = [scores.cost[models, t] for models, t in zip(at, times, strict=True)]
    selected = np.full(posed.shape[1], -1)
    for t, models, i in zip(times, at, viterbi_path(times, poses, costs), strict=True):
        selected[t] = models[i]
    return selected


def viterbi_path(times: np.ndarray, poses: Sequence[np.ndarray], costs: Sequence[np.ndarray]) -> list[int]:
    """Index of each frame's pose on the path of least total cost.

    A frame at `times[i]` has candidates `poses[i]` (C, 4, 4) with `costs[i]` (C,); the rotation between consecutive
    frames is charged with `rotation_cost`.
    """
    if not len(times):
        return []
    total, back = costs[0], []
    for i in range(1, len(times)):
        R_before, R = poses[i - 1][:, None, :3, :3], poses[i][None, :, :3, :3]
        angles = rotation_angle_deg(R_before.repeat(len(poses[i]), 1), R.repeat(len(total), 0))
        step = total[:, None] + rotation_cost(angles, times[i] - times[i - 1])
        back.append(step.argmin(axis=0))
        total = step.min(axis=0) + costs[i]
    path = [int(total.argmin())]
    for previous in reversed(back):
        path.append(int(previous[path[-1]]))
    return path[::-1]


def contested_frames(scores: ModelScores, reference: int) -> np.ndarray:
    """(T,) bool: frames at which another model disagrees with model `reference` and is not rejected by the match cost.

    Decided per run of consecutive frames at which two models differ, by the relative margin `REJECTION_MARGIN`.
    """
    contested = np.zeros(scores.cost.shape[1], bool)
    for other in range(len(scores.cost)):
        both = np.isfinite(scores.poses[[reference, other], :, 0, 0]).all(axis=0)
        R, R_other = (np.where(both[:, None, None], scores.poses[m, :, :3, :3], np.eye(3)) for m in (reference, other))
        differ = rotation_angle_deg(R, R_other) > AGREEMENT_DEG
        edges = np.flatnonzero(np.diff(np.concatenate([[False], differ, [False]]).astype(int)))
        for start, stop in edges.reshape(-1, 2):
            own, competing = (float(scores.cost[m, start:stop].sum()) for m in (reference, other))
            contested[start:stop] |= competing < (1 + REJECTION_MARGIN) * own
    return contested
