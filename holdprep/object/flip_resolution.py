"""Resolve the two-fold planar pose ambiguity (Necker reversal) over frame ranges.

Where a video shows one face frontally, the motion can continue smoothly into the wrong one of two poses, and points
triangulated afterwards are consistent with that choice. PnP against these points cannot correct it. Instead the poses
and points of a whole range of frames are flipped together and bundle-adjusted, and the match cost decides between both
hypotheses.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pycolmap

from holdprep.object.bundle_adjustment import retriangulate
from holdprep.object.colmap import Features, Model
from holdprep.object.model_selection import REJECTION_MARGIN, score_models
from holdprep.object.single_view import (
    MIN_SIGMA_PX,
    Plane,
    fit_plane,
    flip_pose,
    refine_pose,
    reprojection_errors_px,
    robust_sigma,
    truncated_cost,
)
from holdprep.object.workspace import Workspace

_MAX_RELIEF = 0.06  # of a frame that shows one face; cubes have 0.01 to 0.04 there, 0.1 to 0.3 where two faces show
_MIN_POINTS = 12  # of a frame, to fit a plane
_MIN_FRAMES = 3  # of a range
# Maximal cost ratio, flipped to unflipped, of a candidate: flips that proved correct had 1.5 and 2.3 before adjustment.
_MAX_COST_RATIO = 3.0
_SAMPLE_FRAMES = 12  # of a range, evenly spaced, on which the cost ratio is estimated
_MAX_CANDIDATES = 4  # ranges per round that are flipped and bundle-adjusted
_MAX_ROUNDS = 3  # one range is flipped per round
# relative decrease of the cost at which a trial's adjustment ends; with 1e-6 the same costs, to 1 %, take twice as long
_TRIAL_TOLERANCE = 1e-4
TRIAL_FRAMES = 100  # evenly spaced; the comparison of longer videos uses no more


@dataclass(frozen=True)
class FlipRange:
    """Consecutive frames that may have been reconstructed with the flipped pose of a plane."""

    names: list[str]
    plane: Plane


def resolve_flips(workspace: Workspace, model: Model, features: Features, trial_frames: int = TRIAL_FRAMES) -> Model:
    """`model` with those frame ranges flipped that lower the match cost decisively; `model` itself if there are none.

    Long videos are compared on `trial_frames` evenly spaced frames, and only ranges that contain enough of these are tried.
    """
    principal_px = workspace.principal_px
    posed = [name for name in workspace.names if name in model.poses]
    trial = posed[:: -(-len(posed) // trial_frames)]
    for _ in range(_MAX_ROUNDS):
        candidates = flip_candidates(posed, model, features, principal_px)
        ranges = [each for each in candidates if len(set(trial) & set(each.names)) >= _MIN_FRAMES][:_MAX_CANDIDATES]
        if not ranges:
            break
        hypotheses = [model.poses, *(model.poses | flip_range(each, model, features, principal_px) for each in ranges)]
        models = [retriangulate(workspace, model, {name: poses[name] for name in trial}, _TRIAL_TOLERANCE) for poses in hypotheses]
        scores = score_models(trial, models, features, principal_px)
        best = scores.best
        if best == 0 or not lowers_cost(scores.cost[[0, best]], [name in ranges[best - 1].names for name in trial]):
            break
        model = retriangulate(workspace, replace(model, focal_px=models[best].focal_px), hypotheses[best])
    return model


def lowers_cost(cost: np.ndarray, flipped: Sequence[bool]) -> bool:
    """Whether the second of two hypotheses, `cost` (2, T), is decisively cheaper over the flipped frames (T,).

    Cost changes at other frames are random effects of the new triangulation.
    """
    before, after = cost[:, np.array(flipped)].sum(axis=1)
    return bool(after < (1 - REJECTION_MARGIN) * before)


def flip_candidates(
    names: Sequence[str],
    model: Model,
    features: Features,
    principal_px: tuple[float, float],
) -> list[FlipRange]:
    """Ranges of a model's frames `names` whose cost rises little when they are flipped, lowest cost ratio first.

    In a run of frames that show a single face, a range starts or ends at the most frontal one. It extends to either end
    of the run, or of the video.
    """
    camera = model.camera(principal_px)
    errors = [_reprojection_errors(name, model, model.points, model.poses[name], features, camera) for name in names]
    sigma = max(MIN_SIGMA_PX, robust_sigma(np.concatenate(errors)))
    ranked: list[tuple[float, FlipRange]] = []
    for each in _planar_ranges(names, model):
        sample = replace(each, names=each.names[:: -(-len(each.names) // _SAMPLE_FRAMES)])
        flipped, points = flip_range(sample, model, features, principal_px), _reflect(model.points, each.plane)
        before, after = (
            sum(truncated_cost(_reprojection_errors(name, model, xyz, poses[name], features, camera) / sigma) for name in sample.names)
            for xyz, poses in ((model.points, model.poses), (points, flipped))
        )
        if after < _MAX_COST_RATIO * before:
            ranked.append((after / before, each))
    return [each for _, each in sorted(ranked, key=lambda entry: entry[0])]


def flip_range(
    frames: FlipRange,
    model: Model,
    features: Features,
    principal_px: tuple[float, float],
) -> dict[str, np.ndarray]:
    """Frame name -> flipped T_cam_obj (4, 4) of a range, refined against the equally flipped points."""
    camera, points, flipped = model.camera(principal_px), _reflect(model.points, frames.plane), {}
    for name in frames.names:
        index = model.point_of_keypoint[name]
        px, xyz = features.keypoints_px[name][index >= 0], points[index[index >= 0]]
        flipped[name] = refine_pose(flip_pose(model.poses[name], frames.plane), px, xyz, camera)
    return flipped


def _reflect(points: np.ndarray, plane: Plane) -> np.ndarray:
    """Points (N, 3) reflected through a plane."""
    return np.asarray(points - 2 * ((points - plane.centroid) @ plane.normal)[:, None] * plane.normal)


def _reprojection_errors(
    name: str, model: Model, points: np.ndarray, T_cam_obj: np.ndarray, features: Features, camera: pycolmap.Camera
) -> np.ndarray:
    """(M,) errors of a frame's keypoints if the model's points were `points` (N, 3) and its pose `T_cam_obj` (4, 4)."""
    index = model.point_of_keypoint[name]
    return reprojection_errors_px(T_cam_obj, features.keypoints_px[name][index >= 0], points[index[index >= 0]], camera)


def _planar_ranges(names: Sequence[str], model: Model) -> Iterator[FlipRange]:
    """Ranges that start or end in a run of frames that show a single face."""
    planes = [_fit_frame_plane(name, model) for name in names]
    planar = np.array([plane is not None and plane.relief < _MAX_RELIEF for plane in planes])
    # majority of three: single frames are noise
    planar = np.convolve(np.pad(planar, 1, mode="edge"), np.ones(3), "valid") >= 2
    edges = np.flatnonzero(np.diff(np.concatenate([[False], planar, [False]]).astype(int)))
    for start, stop in edges.reshape(-1, 2).tolist():
        frontality = [
            (_frontality(model.poses[names[t]], plane), t)
            for t in range(start, stop)
            if (plane := planes[t]) and plane.relief < _MAX_RELIEF
        ]
        pivot = max(frontality)[1] if frontality else start
        plane = planes[pivot]
        for first, end in sorted({(start, pivot), (0, pivot), (pivot, stop), (pivot, len(names)), (start, stop)}):
            if plane is not None and end - first >= _MIN_FRAMES:
                yield FlipRange(list(names[first:end]), plane)


def _fit_frame_plane(name: str, model: Model) -> Plane | None:
    """Dominant plane of the points seen in a frame."""
    index = model.point_of_keypoint[name]
    return fit_plane(model.points[index[index >= 0]]) if np.count_nonzero(index >= 0) >= _MIN_POINTS else None


def _frontality(T_cam_obj: np.ndarray, plane: Plane) -> float:
    """Absolute cosine of the angle between a plane's normal and the viewing direction."""
    centroid = T_cam_obj[:3, :3] @ plane.centroid + T_cam_obj[:3, 3]
    return abs(float(centroid @ T_cam_obj[:3, :3] @ plane.normal)) / float(np.linalg.norm(centroid))
