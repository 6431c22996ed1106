"""Every frame's pose anew against the model: its own, its neighbours' and their mirror images compete, and the motion decides among equals.

Frames that SfM lost are reached from their neighbours: by their matches, and by points that optical flow carries over.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pycolmap

from holdprep.geometry.rigid import rotation_angle_deg
from holdprep.object.colmap import Crop, Features, Model, read_crop
from holdprep.object.evidence import camera_of, smoothest
from holdprep.object.views import View, errors_px, to_matrix, turn_cost, views

_MIN_INLIERS = 12
_REACH_FRAMES = 4  # a neighbour farther away says nothing about a pose
_PLENTY = 150  # matches that need no optical flow beside them
_FLOW_ROUND_PX = 1.0  # of the enlarged crop: points that flow there and back this far off are lost
_MATCH_PX = 3.0  # a point that flow carries on belongs to no keypoint: it counts where no keypoint's point is this near


@dataclass(frozen=True)
class Resection:
    T_cam_obj: np.ndarray
    num_inliers: int


def resect(
    names: Sequence[str], model: Model, features: Features, principal_px: tuple[float, float], folder: Path, crop: Crop
) -> dict[int, Resection]:
    """The pose of every frame that the model's points support, by index into `names`, which is the order of time.

    A frame's keypoints take the points of the keypoints that they match in other frames. Of the poses that refinement reaches from its own,
    its neighbours', a random sample's and their mirror images, the one is taken that costs least together with the turns between frames.
    Frames that the model lacks are reached inwards from those it has. Frames with fewer than 12 inliers are left out.
    """
    camera = camera_of(model, principal_px)
    known = {t: model.poses[name] for t, name in enumerate(names) if name in model.poses}
    points_at = dict(model.point_of_keypoint)
    candidates: dict[int, list[View]] = {}
    for t in sorted(known):
        keypoints, points = _votes(names[t], features, points_at)
        candidates[t] = _solve(t, known, features.keypoints_px[names[t]][keypoints], model.points[points], camera)
    for t in _inwards(names, set(known), features):
        keypoints, points = _votes(names[t], features, points_at)
        px, xyz = features.keypoints_px[names[t]][keypoints], model.points[points]
        nearest = min(known, key=lambda s: abs(s - t))
        if len(px) < _PLENTY:
            px, xyz = _joined((px, xyz), _flown(folder, crop, names[nearest], names[t], features, points_at, model))
        candidates[t] = _solve(t, known, px, xyz, camera)
        if not candidates[t]:
            continue
        best = min(candidates[t], key=lambda view: _against(known[nearest], abs(nearest - t), view))
        known[t] = best.T_cam_obj
        points_at[names[t]] = np.full(len(features.keypoints_px[names[t]]), -1)
        inliers = best.inliers[: len(keypoints)]
        points_at[names[t]][keypoints[inliers]] = points[inliers]
    return _smoothed({t: found for t, found in candidates.items() if found})


def _smoothed(candidates: dict[int, list[View]]) -> dict[int, Resection]:
    times = sorted(candidates)
    poses = [np.stack([view.T_cam_obj for view in candidates[t]]) for t in times]
    costs = [np.array([view.cost for view in candidates[t]]) for t in times]
    taken = [(t, candidates[t][i]) for t, i in zip(times, smoothest(np.array(times), poses, costs), strict=True)]
    return {t: Resection(view.T_cam_obj, int(view.inliers.sum())) for t, view in taken}


def _inwards(names: Sequence[str], known: set[int], features: Features) -> list[int]:
    """Frames to be found, each within reach of one that is known or comes before it."""
    order: list[int] = []
    reached, pending = set(known), {t for t, name in enumerate(names) if t not in known and name in features.matches}
    while pending:
        gap, t = min((min((abs(t - s) for s in reached), default=len(names)), t) for t in pending)
        if gap > _REACH_FRAMES:
            break
        pending.remove(t)
        reached.add(t)
        order.append(t)
    return order


def _against(T: np.ndarray, gap: int, view: View) -> float:
    return view.cost + float(turn_cost(rotation_angle_deg(T[:3, :3], view.T_cam_obj[:3, :3]), gap))


def _votes(name: str, features: Features, points_at: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints of a frame and the model points (M,), (M,) that most of their matches stand for."""
    votes: dict[int, Counter[int]] = {}
    for other, pairs in features.matches[name].items():
        if other in points_at:
            points = points_at[other][pairs[:, 1]]
            for own, point in zip(pairs[points >= 0, 0].tolist(), points[points >= 0].tolist(), strict=True):
                votes.setdefault(own, Counter())[point] += 1
    keypoints = sorted(votes)
    return np.array(keypoints, int), np.array([votes[k].most_common(1)[0][0] for k in keypoints], int)


def _flown(
    folder: Path, crop: Crop, source: str, target: str, features: Features, points_at: dict[str, np.ndarray], model: Model
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (M, 2) in frame `target` of the model points (M, 3) seen in `source`, carried over by optical flow."""
    at = np.flatnonzero(points_at[source] >= 0)
    if not len(at):
        return np.zeros((0, 2)), np.zeros((0, 3))
    pictures = [read_crop(folder, name) for name in (source, target)]
    start = crop.to_window(features.keypoints_px[source][at]).astype(np.float32)[:, None]
    flow = {"winSize": (31, 31), "maxLevel": 4}
    there, ok, _ = cv2.calcOpticalFlowPyrLK(*pictures, start, None, **flow)  # type: ignore[call-overload]
    back, ok_back, _ = cv2.calcOpticalFlowPyrLK(*pictures[::-1], there, None, **flow)  # type: ignore[call-overload]
    off = np.linalg.norm(back - start, axis=2)[:, 0]
    kept = (ok[:, 0] > 0) & (ok_back[:, 0] > 0) & (off < _FLOW_ROUND_PX)
    return crop.from_window(there[kept, 0]), model.points[points_at[source][at[kept]]]


def _joined(matched: tuple[np.ndarray, np.ndarray], flown: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What was matched, then what was carried by flow to other places."""
    if not len(matched[0]) or not len(flown[0]):
        return matched if len(matched[0]) else flown
    new = np.linalg.norm(flown[0][:, None] - matched[0][None], axis=2).min(axis=1) > _MATCH_PX
    return np.concatenate([matched[0], flown[0][new]]), np.concatenate([matched[1], flown[1][new]])


def _solve(t: int, known: dict[int, np.ndarray], px: np.ndarray, xyz: np.ndarray, camera: pycolmap.Camera) -> list[View]:
    """The poses of frame `t` that its correspondences support."""
    if len(px) < _MIN_INLIERS:
        return []
    starts = [known[t]] if t in known else []
    for side in (range(t - 1, t - 1 - _REACH_FRAMES, -1), range(t + 1, t + 1 + _REACH_FRAMES)):
        starts += [known[s] for s in side if s in known][:1]
    sampling = pycolmap.AbsolutePoseEstimationOptions()
    sampling.ransac.max_error, sampling.ransac.random_seed = _MATCH_PX, 0
    estimate = pycolmap.estimate_absolute_pose(px, xyz, camera, sampling)
    if estimate is not None:
        starts.append(to_matrix(estimate["cam_from_world"]))
    found = views(starts, px, xyz, camera)
    return [view for view in found if (errors_px(view.T_cam_obj, px, xyz, camera) < _MATCH_PX).sum() >= _MIN_INLIERS]
