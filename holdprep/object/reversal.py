"""Stretches that stand upside down: where a video shows one face frontally, it turns smoothly into the wrong one of the two ways to go on.

No single frame tells them apart there, and what is seen later is built upon the choice: corners turned outside in, by points that fit
(the Necker cube). No frame can then be solved the right way either, for the points have followed. So whole stretches are turned over
at once, poses and points alike, adjusted, and the matches decide between the two stories.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pycolmap

from holdprep.object.bundle import rebuild
from holdprep.object.colmap import Crop, Features, Model
from holdprep.object.evidence import DECIDED, camera_of, weigh
from holdprep.object.views import FLOOR_PX, Plane, cut_cost, errors_px, mirrored, plane_through, refine, spread

_FLAT = 0.06  # relief up to which a frame shows one face; cubes have 0.01 to 0.04 there, 0.1 to 0.3 where they show two
_MIN_POINTS = 12
_MIN_FRAMES = 3
_HOPEFUL = 3.0  # times its cost a stretch may cost turned over, before adjustment: wrongly turned ones came down from 1.5 and 2.3
_SAMPLE_FRAMES = 12  # tell how hopeful a stretch is
_MAX_TRIED = 4
_MAX_TURNED = 3  # stretches, one after another
_TRIAL_FRAMES = 100  # more say nothing more about a stretch


@dataclass(frozen=True)
class Stretch:
    """Frames that might be turned over together, about the plane of a face."""

    names: list[str]
    face: Plane


def set_upright(
    names: Sequence[str],
    model: Model,
    features: Features,
    principal_px: tuple[float, float],
    folder: Path,
    crop: Crop,
    *,
    refine_focal: bool,
) -> Model:
    """`model`, with the stretches turned over by which its matches are explained better; itself where there are none.

    `names` is the order of time. Of long videos evenly chosen frames are tried, and stretches that hold some of these.
    """
    posed = [name for name in names if name in model.poses]
    some = posed[:: -(-len(posed) // _TRIAL_FRAMES)]
    for _ in range(_MAX_TURNED):
        tried = [s for s in hopeful(posed, model, features, principal_px) if len(set(some) & set(s.names)) >= _MIN_FRAMES][:_MAX_TRIED]
        if not tried:
            break
        stories = [model.poses, *(model.poses | turned_over(each, model, features, principal_px) for each in tried)]
        built = [rebuild(folder, crop, model, {name: poses[name] for name in some}, refine_focal=refine_focal) for poses in stories]
        evidence = weigh(some, built, features, principal_px)
        best = evidence.best
        if best == 0 or not _spoken_for(evidence.cost[[0, best]], [name in tried[best - 1].names for name in some]):
            break
        model = rebuild(folder, crop, replace(model, focal_px=built[best].focal_px), stories[best], refine_focal=refine_focal)
    return model


def _spoken_for(cost: np.ndarray, turned: Sequence[bool]) -> bool:
    """Whether the frames that were turned over cost decisively less in the second of two stories, `cost` (2, T): the rest is noise."""
    before, after = cost[:, np.array(turned)].sum(axis=1)
    return bool(after < (1 - DECIDED) * before)


def hopeful(names: Sequence[str], model: Model, features: Features, principal_px: tuple[float, float]) -> list[Stretch]:
    """The stretches of a model's frames `names` that cost little more when turned over, those first that cost least.

    A stretch begins or ends where one face is seen most frontally of all frames that show it alone, and goes on to either end of those
    frames, or of the video.
    """
    camera = camera_of(model, principal_px)
    sigma = max(
        FLOOR_PX, spread(np.concatenate([_errors(name, model, model.points, model.poses[name], features, camera) for name in names]))
    )
    ranked: list[tuple[float, Stretch]] = []
    for stretch in _stretches(names, model):
        sample = replace(stretch, names=stretch.names[:: -(-len(stretch.names) // _SAMPLE_FRAMES)])
        turned, points = turned_over(sample, model, features, principal_px), _reflected(model.points, stretch.face)
        before, after = (
            sum(cut_cost(_errors(name, model, xyz, poses[name], features, camera) / sigma) for name in sample.names)
            for xyz, poses in ((model.points, model.poses), (points, turned))
        )
        if after < _HOPEFUL * before:
            ranked.append((after / before, stretch))
    return [stretch for _, stretch in sorted(ranked, key=lambda each: each[0])]


def turned_over(stretch: Stretch, model: Model, features: Features, principal_px: tuple[float, float]) -> dict[str, np.ndarray]:
    """Frame name -> T_cam_obj (4, 4) of a stretch's frames when they and their points are turned over, as well as these fit."""
    camera, points, found = camera_of(model, principal_px), _reflected(model.points, stretch.face), {}
    for name in stretch.names:
        index = model.point_of_keypoint[name]
        px, xyz = features.keypoints_px[name][index >= 0], points[index[index >= 0]]
        found[name] = refine(mirrored(model.poses[name], stretch.face), px, xyz, camera)
    return found


def _reflected(points: np.ndarray, face: Plane) -> np.ndarray:
    return np.asarray(points - 2 * ((points - face.middle) @ face.normal)[:, None] * face.normal)


def _errors(name: str, model: Model, points: np.ndarray, T_cam_obj: np.ndarray, features: Features, camera: pycolmap.Camera) -> np.ndarray:
    """(M,) how far a frame's points project from its keypoints, were they at `points` and it at `T_cam_obj`."""
    index = model.point_of_keypoint[name]
    return errors_px(T_cam_obj, features.keypoints_px[name][index >= 0], points[index[index >= 0]], camera)


def _stretches(names: Sequence[str], model: Model) -> Iterator[Stretch]:
    faces = [_face(name, model) for name in names]
    flat = np.array([face is not None and face.relief < _FLAT for face in faces])
    # a single frame among others like it is noise
    flat = np.convolve(np.pad(flat, 1, mode="edge"), np.ones(3), "valid") >= 2
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(int)))
    for start, stop in edges.reshape(-1, 2).tolist():
        facing = [(_frontal(model.poses[names[t]], face), t) for t in range(start, stop) if (face := faces[t]) and face.relief < _FLAT]
        hinge = max(facing)[1] if facing else start
        face = faces[hinge]
        for first, last in sorted({(start, hinge), (0, hinge), (hinge, stop), (hinge, len(names)), (start, stop)}):
            if face is not None and last - first >= _MIN_FRAMES:
                yield Stretch(list(names[first:last]), face)


def _face(name: str, model: Model) -> Plane | None:
    index = model.point_of_keypoint[name]
    return plane_through(model.points[index[index >= 0]]) if np.count_nonzero(index >= 0) >= _MIN_POINTS else None


def _frontal(T_cam_obj: np.ndarray, face: Plane) -> float:
    """Cosine of the angle between a face's normal and the line of sight."""
    centre = T_cam_obj[:3, :3] @ face.middle + T_cam_obj[:3, 3]
    return abs(float(centre @ T_cam_obj[:3, :3] @ face.normal)) / float(np.linalg.norm(centre))
