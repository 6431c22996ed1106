"""PnP re-estimation (resection) of every frame against a model, with both poses of planar views as candidates.

Frames that the model lacks are estimated from their neighbours, by matches and by points tracked with optical flow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pycolmap

from holdprep.geometry.rigid import rotation_angle_deg
from holdprep.object.colmap import Features, Model, read_crop
from holdprep.object.model_selection import viterbi_path
from holdprep.object.single_view import PoseHypothesis, pose_hypotheses, reprojection_errors_px, rotation_cost, to_matrix
from holdprep.object.workspace import Workspace
from holdprep.threads import in_order

_MIN_INLIERS = 12
_MAX_NEIGHBOUR_GAP = 4  # frames; a pose more frames away is no useful initial guess
_ENOUGH_MATCHES = 150  # with which optical flow is not needed
_FLOW_CONSISTENCY_PX = 1.0  # of the enlarged crop: maximal forward-backward error of optical flow
_INLIER_PX = 3.0  # maximal reprojection error; tracked points closer to a matched keypoint are duplicates


@dataclass(frozen=True)
class Resection:
    """The estimated pose of a frame and its number of inliers."""

    T_cam_obj: np.ndarray
    num_inliers: int


def resect_frames(workspace: Workspace, model: Model, features: Features) -> dict[int, Resection]:
    """Pose of every frame that has at least 12 inliers, by index into `workspace.names`.

    A frame's 2D-3D correspondences come from the points of the keypoints it is matched with. Hypotheses are refined from
    the frame's own pose, its neighbours' poses, RANSAC PnP and the flipped counterparts of all three; Viterbi selects
    among them over reprojection cost and rotation change. Frames that the model lacks are added in order of their distance
    in time from known ones.
    """
    names, camera = workspace.names, model.camera(workspace.principal_px)
    known = {t: model.poses[name] for t, name in enumerate(names) if name in model.poses}
    point_of_keypoint = dict(model.point_of_keypoint)

    def candidates_of(t: int) -> list[PoseHypothesis]:
        keypoints, points = _correspondences(names[t], features, model.point_of_keypoint)
        return _pnp_candidates(t, known, features.keypoints_px[names[t]][keypoints], model.points[points], camera)

    mapped, threads = sorted(known), workspace.num_threads
    candidates = dict(zip(mapped, in_order(candidates_of, mapped, threads, ahead=len(mapped)), strict=True))
    for t in _propagation_order(names, set(known), features):
        keypoints, points = _correspondences(names[t], features, point_of_keypoint)
        px, xyz = features.keypoints_px[names[t]][keypoints], model.points[points]
        nearest = min(known, key=lambda s: abs(s - t))
        if len(px) < _ENOUGH_MATCHES:
            index = point_of_keypoint[names[nearest]]
            tracked = _track_by_optical_flow(workspace, names[nearest], names[t], features, index)
            px, xyz = _merge_correspondences(px, xyz, tracked[0], model.points[tracked[1]])
        candidates[t] = _pnp_candidates(t, known, px, xyz, camera)
        if not candidates[t]:
            continue
        best = min(candidates[t], key=lambda hypothesis: _temporal_cost(known[nearest], abs(nearest - t), hypothesis))
        known[t] = best.T_cam_obj
        point_of_keypoint[names[t]] = np.full(len(features.keypoints_px[names[t]]), -1)
        inliers = best.inliers[: len(keypoints)]
        point_of_keypoint[names[t]][keypoints[inliers]] = points[inliers]
    return _select_by_viterbi({t: found for t, found in candidates.items() if found})


def _select_by_viterbi(candidates: dict[int, list[PoseHypothesis]]) -> dict[int, Resection]:
    """One hypothesis per frame."""
    times = sorted(candidates)
    poses = [np.stack([hypothesis.T_cam_obj for hypothesis in candidates[t]]) for t in times]
    costs = [np.array([hypothesis.cost for hypothesis in candidates[t]]) for t in times]
    path = viterbi_path(np.array(times), poses, costs)
    selected = [(t, candidates[t][i]) for t, i in zip(times, path, strict=True)]
    return {t: Resection(hypothesis.T_cam_obj, int(hypothesis.inliers.sum())) for t, hypothesis in selected}


def _propagation_order(names: Sequence[str], known: set[int], features: Features) -> list[int]:
    """Frames without a pose, in the order of their distance (frames) from a known or estimated pose; beyond the maximal gap they are left out."""
    order: list[int] = []
    reached, pending = set(known), {t for t, name in enumerate(names) if t not in known and name in features.matches}
    while pending:
        gap, t = min((min((abs(t - s) for s in reached), default=len(names)), t) for t in pending)
        if gap > _MAX_NEIGHBOUR_GAP:
            break
        pending.remove(t)
        reached.add(t)
        order.append(t)
    return order


def _temporal_cost(T_neighbour: np.ndarray, gap_frames: int, hypothesis: PoseHypothesis) -> float:
    """Reprojection cost plus the cost of the rotation from a neighbour's pose."""
    angle_deg = rotation_angle_deg(T_neighbour[:3, :3], hypothesis.T_cam_obj[:3, :3])
    return hypothesis.cost + float(rotation_cost(angle_deg, gap_frames))


def _correspondences(
    name: str,
    features: Features,
    point_of_keypoint: dict[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (M,) of a frame and the model points (M,) that most of their matches belong to; of equally many, the first."""
    own, of_own = [np.zeros(0, int)], [np.zeros(0, int)]
    for other, pairs in features.matches[name].items():
        if other in point_of_keypoint:
            points = point_of_keypoint[other][pairs[:, 1]]
            own.append(pairs[points >= 0, 0])
            of_own.append(points[points >= 0])
    points = np.concatenate(of_own)
    num_points = int(points.max(initial=0)) + 1
    votes, first, count = np.unique(np.concatenate(own) * num_points + points, return_index=True, return_counts=True)
    best = np.lexsort([first, -count, votes // num_points])
    keypoints, at = np.unique(votes[best] // num_points, return_index=True)
    return keypoints, votes[best][at] % num_points


def _track_by_optical_flow(
    workspace: Workspace, source: str, target: str, features: Features, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (M, 2) in frame `target` and indices (M,) of the model points seen in `source`.

    `index` (K,) gives the model point of every keypoint of `source`, -1 for none.
    """
    at = np.flatnonzero(index >= 0)
    if not len(at):
        return np.zeros((0, 2)), np.zeros(0, int)
    images = [read_crop(workspace.folder, name) for name in (source, target)]
    start = workspace.crop.to_window(features.keypoints_px[source][at]).astype(np.float32)[:, None]
    flow = {"winSize": (31, 31), "maxLevel": 4}
    forward, ok, _ = cv2.calcOpticalFlowPyrLK(*images, start, None, **flow)  # type: ignore[call-overload]
    backward, ok_backward, _ = cv2.calcOpticalFlowPyrLK(*images[::-1], forward, None, **flow)  # type: ignore[call-overload]
    error = np.linalg.norm(backward - start, axis=2)[:, 0]
    kept = (ok[:, 0] > 0) & (ok_backward[:, 0] > 0) & (error < _FLOW_CONSISTENCY_PX)
    return workspace.crop.from_window(forward[kept, 0]), index[at[kept]]


def _merge_correspondences(
    px: np.ndarray, xyz: np.ndarray, tracked_px: np.ndarray, tracked_xyz: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Matched correspondences, followed by tracked ones that are not close to a matched keypoint."""
    if not len(px) or not len(tracked_px):
        return (px, xyz) if len(px) else (tracked_px, tracked_xyz)
    new = np.linalg.norm(tracked_px[:, None] - px[None], axis=2).min(axis=1) > _INLIER_PX
    return np.concatenate([px, tracked_px[new]]), np.concatenate([xyz, tracked_xyz[new]])


def _pnp_candidates(
    t: int,
    known: dict[int, np.ndarray],
    px: np.ndarray,
    xyz: np.ndarray,
    camera: pycolmap.Camera,
) -> list[PoseHypothesis]:
    """Pose hypotheses of frame `t` with enough inliers among its correspondences px (M, 2), xyz (M, 3)."""
    if len(px) < _MIN_INLIERS:
        return []
    initial = [known[t]] if t in known else []
    for side in (range(t - 1, t - 1 - _MAX_NEIGHBOUR_GAP, -1), range(t + 1, t + 1 + _MAX_NEIGHBOUR_GAP)):
        initial += [known[s] for s in side if s in known][:1]
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.ransac.max_error, options.ransac.random_seed = _INLIER_PX, 0
    estimate = pycolmap.estimate_absolute_pose(px, xyz, camera, options)
    if estimate is not None:
        initial.append(to_matrix(estimate["cam_from_world"]))
    found = pose_hypotheses(initial, px, xyz, camera)
    errors = [reprojection_errors_px(each.T_cam_obj, px, xyz, camera) for each in found]
    return [each for each, error in zip(found, errors, strict=True) if (error < _INLIER_PX).sum() >= _MIN_INLIERS]
