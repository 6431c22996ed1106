"""Which of several models the matches speak for, frame by frame: registered frames and reprojection errors of a model do not tell.

A flipped stretch makes points of its own and fits them well. But its keypoints were matched with keypoints outside it, and there their
points are elsewhere: counted over all verified matches, a wrong pose costs more than the right one, whatever model it stands in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pycolmap

from holdprep.geometry.rigid import from_rt, rotation_angle_deg
from holdprep.object.colmap import Features, Model
from holdprep.object.trajectory import common_rotation, disagreement_deg
from holdprep.object.views import OUTLIER_COST, errors_px, spread, turn_cost

ALIKE_DEG = 8.0  # two models that differ more at a frame tell two stories about it
_LARGE = 0.5  # share of the largest model's frames from which a model may tell how exact keypoints are
DECIDED = 0.05  # share by which a story about a stretch of frames must cost more than another to be out of the question


@dataclass(frozen=True)
class Evidence:
    """What T frames cost under each of M models, and the models' poses in the object frame of the best."""

    cost: np.ndarray  # (M, T) per keypoint that has a match half its squared error in standard deviations, cut off, summed
    poses: np.ndarray  # (M, T, 4, 4) T_cam_obj, NaN where a model has none

    @property
    def best(self) -> int:
        """The model under which all frames together cost least."""
        return int(self.cost.sum(axis=1).argmin())


def weigh(names: Sequence[str], models: Sequence[Model], features: Features, principal_px: tuple[float, float]) -> Evidence:
    """The evidence for each of `models` over all frames `names`, pixels being those of the full image."""
    errors = [_errors(names, model, features, principal_px) for model in models]
    # of the large models: one of three frames fits itself too well
    large = [each for model, each in zip(models, errors, strict=True) if len(model.poses) >= _LARGE * max(len(m.poses) for m in models)]
    sigma = min(spread(np.concatenate([e[np.isfinite(e)] for _, e in each])) for each in large)
    cost = np.array([[_frame_cost(keypoints, e / sigma) for keypoints, e in each] for each in errors])
    poses = np.full((len(models), len(names), 4, 4), np.nan)
    for model, row in zip(models, poses, strict=True):
        for t, name in enumerate(names):
            if name in model.poses:
                row[t] = model.poses[name]
    best = poses[int(cost.sum(axis=1).argmin())].copy()
    return Evidence(cost, np.stack([_aligned(row, best) for row in poses]))


def alike(a: Model, b: Model) -> float:
    """Share of the common frames at which two models tell the same rotation, 0 when they have none in common."""
    angles = disagreement_deg(a.poses, b.poses)
    return float(np.mean([angle < ALIKE_DEG for angle in angles.values()])) if angles else 0.0


def camera_of(model: Model, principal_px: tuple[float, float]) -> pycolmap.Camera:
    """COLMAP's camera for pixels of the full image that count from 0."""
    return pycolmap.Camera(model="SIMPLE_RADIAL", width=1, height=1, params=[model.focal_px, *principal_px, *model.distortion])


def _errors(
    names: Sequence[str], model: Model, features: Features, principal_px: tuple[float, float]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per frame, for all its matches: the keypoint (K,) and the distance (K,) from it at which its match's point is seen.

    Where the match has no point, the keypoint's own is taken; infinite where there is none, or no pose.
    """
    camera, found = camera_of(model, principal_px), []
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
            error[at] = errors_px(model.poses[name], features.keypoints_px[name][keypoint[at]], model.points[point[at]], camera)
        found.append((keypoint, error))
    return found


def _frame_cost(keypoint: np.ndarray, sigmas: np.ndarray) -> float:
    """Each keypoint counts once, with the mean over its matches."""
    matches = np.bincount(keypoint)
    total = np.bincount(keypoint, np.minimum(sigmas**2 / 2, OUTLIER_COST))
    return float((total[matches > 0] / matches[matches > 0]).sum())


def _aligned(T: np.ndarray, T_reference: np.ndarray) -> np.ndarray:
    """Poses (T, 4, 4) in the object frame and the unit of others, by the frames at which the two agree; NaN where there is none."""
    common = np.isfinite(T[:, 0, 0]) & np.isfinite(T_reference[:, 0, 0])
    if not common.any():
        return np.full_like(T, np.nan)
    R, R_reference = T[common, :3, :3], T_reference[common, :3, :3]
    turn = common_rotation(R_reference, R)
    alike = rotation_angle_deg(R_reference, R @ turn) < ALIKE_DEG
    # X = scale * turn @ X_reference + shift: linear in scale and shift over the translations
    t, t_reference = T[common, :3, 3][alike], T_reference[common, :3, 3][alike]
    rows = np.concatenate([-t_reference[..., None], R[alike]], axis=2).reshape(-1, 4)
    scale, *shift = np.linalg.lstsq(rows, -t.ravel(), rcond=None)[0]
    return from_rt(T[:, :3, :3] @ turn, (T[:, :3, :3] @ np.array(shift) + T[:, :3, 3]) / scale)


def choose(evidence: Evidence) -> np.ndarray:
    """(T,) which model's pose to take at each frame: the least that frames and the turns between them cost together.

    The best model's, but where it has none or another tells another story; -1 where none has a pose.
    """
    posed, best = np.isfinite(evidence.poses[:, :, 0, 0]), evidence.best
    R = np.where(posed[..., None, None], evidence.poses[..., :3, :3], np.eye(3))
    other = posed & (~posed[best] | (rotation_angle_deg(R[[best]].repeat(len(R), 0), R) > ALIKE_DEG))
    other[best] = posed[best]
    times = np.flatnonzero(other.any(axis=0))
    at = [np.flatnonzero(other[:, t]) for t in times]
    poses = [evidence.poses[models, t] for models, t in zip(at, times, strict=True)]
    costs = [evidence.cost[models, t] for models, t in zip(at, times, strict=True)]
    chosen = np.full(posed.shape[1], -1)
    for t, models, best in zip(times, at, smoothest(times, poses, costs), strict=True):
        chosen[t] = models[best]
    return chosen


def smoothest(times: np.ndarray, poses: Sequence[np.ndarray], costs: Sequence[np.ndarray]) -> list[int]:
    """Of each frame's candidates the one on the path of least cost: `costs` (C,) of its `poses` (C, 4, 4), and the turns between them."""
    if not len(times):
        return []
    total, back = costs[0], []
    for i in range(1, len(times)):
        turns = rotation_angle_deg(poses[i - 1][:, None, :3, :3].repeat(len(poses[i]), 1), poses[i][None, :, :3, :3].repeat(len(total), 0))
        step = total[:, None] + turn_cost(turns, times[i] - times[i - 1])
        back.append(step.argmin(axis=0))
        total = step.min(axis=0) + costs[i]
    path = [int(total.argmin())]
    for previous in reversed(back):
        path.append(int(previous[path[-1]]))
    return path[::-1]


def contested(evidence: Evidence, kept: int) -> np.ndarray:
    """(T,) bool: frames about which another model tells another story than model `kept`, and the matches do not say which is right.

    Judged by stretches of frames at which the two differ: the other's must cost a twentieth more.
    """
    found = np.zeros(evidence.cost.shape[1], bool)
    for other in range(len(evidence.cost)):
        both = np.isfinite(evidence.poses[[kept, other], :, 0, 0]).all(axis=0)
        R, R_other = (np.where(both[:, None, None], evidence.poses[m, :, :3, :3], np.eye(3)) for m in (kept, other))
        differ = rotation_angle_deg(R, R_other) > ALIKE_DEG
        edges = np.flatnonzero(np.diff(np.concatenate([[False], differ, [False]]).astype(int)))
        for start, stop in edges.reshape(-1, 2):
            mine, its = (float(evidence.cost[m, start:stop].sum()) for m in (kept, other))
            found[start:stop] |= its < (1 + DECIDED) * mine
    return found
