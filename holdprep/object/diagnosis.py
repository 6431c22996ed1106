"""Failure diagnosis: at which step of structure from motion frames were lost, and what the user can do about it.

Each step is checked separately (features, verified matches, initial pairs, camera limits, PnP), so that, for example, only a
lack of features is attributed to missing texture.
"""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap

from holdprep.errors import HoldprepError
from holdprep.object.colmap import Features, open_database

MIN_MATCHES = 12  # between two frames, or of a frame with a model's points; fewer do not constrain a pose
INITIAL_MATCHES = 50  # minimal number of verified matches of the initial pair of a model
TEXTURED_MATCHES = 36  # with the frame before or after; an object with texture shares 50 to 400
FEW_FEATURES = 100  # on the object, median over frames: with fewer, pairs of frames rarely share INITIAL_MATCHES
INITIAL_ANGLE_DEG = 8.0  # minimal triangulation angle of the initial pair
FOCAL_RATIOS = (0.1, 10.0)  # focal length / longer image side, outside of which COLMAP drops images
_MAX_TESTED_PAIRS = 200  # those with most matches, whose triangulation angle is estimated

Cause = Literal["no mask", "few features", "little texture", "few matches", "no pose fits"]
_DESCRIPTION: dict[Cause, str] = {
    "no mask": "without a usable mask",
    "few features": f"with fewer than {MIN_MATCHES} features",
    "little texture": f"with fewer than {FEW_FEATURES} features and {TEXTURED_MATCHES} matches with the frames next to them",
    "few matches": f"with fewer than {MIN_MATCHES} matches with a registered frame",
    "no pose fits": "with matches that are consistent with no pose",
}
_REMEDY: dict[Cause, str] = {
    "no mask": "complete the object's masks there, or cut the clip there (create.start/create.end)",
    "few features": "film closer and sharper, raise object_pose.upsample or max_features, or put tape with a pattern on the "
    "object: it has too little texture",
    "little texture": "the object shows too little texture there, or is blurred: film closer, sharper and slower, put tape with a pattern on it, "
    "cut the clip to a part with texture (create.start/create.end), or use object_pose=auto, which also tries learned features and silhouettes",
    "few matches": "keep more frames (lower create.stride), raise object_pose.num_pairs, film slower, or cut the clip to one "
    "connected part",
    "no pose fits": "check that the masks contain one rigid object and no background (object_pose.erode_px=3), give the true "
    "camera (object_pose.focal_px), or try another seed (seed=1)",
}


@dataclass(frozen=True)
class MappingRun:
    """Outcome of incremental mapping from one initial pair."""

    max_frames: int  # registered at any time
    frames: int  # registered in the end, 0 without points
    focal_ratio: float  # last focal length / longer image side

    @property
    def camera_rejected(self) -> bool:
        """Whether COLMAP dropped images because of the camera's focal length."""
        return self.frames < self.max_frames and not FOCAL_RATIOS[0] <= self.focal_ratio <= FOCAL_RATIOS[1]


def require_features(names: Sequence[str], features: Features) -> None:
    """Raises HoldprepError unless two of the frames `names` have enough features for an initial pair."""
    count = [len(features.keypoints_px.get(name, ())) for name in names]
    sufficient = sum(n >= INITIAL_MATCHES for n in count)
    if sufficient < 2:
        raise HoldprepError(
            f"object poses: no features: {sufficient} of {len(count)} frames have {INITIAL_MATCHES} or more on the object "
            f"(median {np.median(count):.0f}), 2 are needed: {_REMEDY['few features']}"
        )


def require_matches(features: Features) -> None:
    """Raises HoldprepError unless two frames share enough verified matches for a relative pose."""
    most = max((len(pairs) for others in features.matches.values() for pairs in others.values()), default=0)
    if most < MIN_MATCHES:
        median = np.median([len(px) for px in features.keypoints_px.values()])
        raise HoldprepError(
            f"object poses: no matches: frames have {median:.0f} features (median), but no two share more than {most} verified "
            f"matches, {MIN_MATCHES} are needed: keep more frames (lower create.stride), film slower, and check that all masks "
            "show the same object"
        )


def require_model(runs: Sequence[MappingRun], folder: Path, num_frames: int, min_pct: float) -> None:
    """Raises HoldprepError if there was no initial pair, no third frame, or COLMAP filtered the frames of a sufficiently large model.

    `min_pct` percent of `num_frames` are needed; `folder` contains the database.
    """
    if not runs:
        raise HoldprepError(f"object poses: no initial pair: {_diagnose_initial_pairs(folder)}")
    needed, final_frames = min_pct / 100 * num_frames, max(run.frames for run in runs)
    if final_frames >= needed:
        return
    if rejected := [run for run in runs if run.camera_rejected]:
        raise HoldprepError(
            f"object poses: camera rejected: in {len(rejected)} of {len(runs)} models the focal length became "
            f"{rejected[0].focal_ratio:.3g} times the longer image side, COLMAP accepts {FOCAL_RATIOS[0]:g} to "
            f"{FOCAL_RATIOS[1]:g}: give the true focal length in pixels of images/ (object_pose.focal_px), or rotate the "
            "object further"
        )
    largest = max(runs, key=lambda run: run.max_frames)
    if largest.max_frames <= 2:
        raise HoldprepError(f"object poses: no third frame: {_diagnose_growth(folder, num_frames)}")
    if final_frames == 0 or largest.max_frames >= needed:
        raise HoldprepError(
            f"object poses: frames filtered: the largest of {len(runs)} models had {largest.max_frames} of {num_frames} frames "
            f"and {largest.frames} after filtering, at least {min_pct:.0f} % are needed: its points are not consistent with the "
            f"images: {_REMEDY['no pose fits']}"
        )


def _diagnose_growth(folder: Path, num_frames: int) -> str:
    """Why no model grew beyond its initial pair, and what to try."""
    with open_database(folder) as database:
        median = np.median([database.num_keypoints_for_image(image.image_id) for image in database.read_all_images()])
        _, geometries = database.read_two_view_geometries()
    shared = sum(len(geometry.inlier_matches) >= INITIAL_MATCHES for geometry in geometries)
    cause: Cause = "few features" if median < FEW_FEATURES else "few matches" if shared < num_frames else "no pose fits"
    return (
        f"no model grew beyond the first 2 of {num_frames} frames; frames have {median:.0f} features on the object (median), and pairs of "
        f"frames that share {INITIAL_MATCHES} matches or more: {shared}: {_REMEDY[cause]}"
    )


def _diagnose_initial_pairs(folder: Path) -> str:
    """Why no pair of frames can initialise a model, and what to try."""
    with open_database(folder) as database:
        (camera,) = database.read_all_cameras()
        found = [
            (len(geometry.inlier_matches), *pycolmap.pair_id_to_image_pair(pair), geometry)
            for pair, geometry in zip(*database.read_two_view_geometries(), strict=True)
        ]
        most = max((count for count, *_ in found), default=0)
        if most < INITIAL_MATCHES:
            return (
                f"no two frames share more than {most} verified matches, {INITIAL_MATCHES} are needed: raise "
                "object_pose.max_features or upsample, keep more frames (lower create.stride), film slower and sharper"
            )
        ranked = sorted((each for each in found if each[0] >= INITIAL_MATCHES), key=lambda each: -each[0])
        tested = ranked[:_MAX_TESTED_PAIRS]
        ids = {i for each in tested for i in each[1:3]}
        px = {i: np.asarray(database.read_keypoints(i))[:, :2].astype(float) for i in ids}
    angles = [
        float(np.degrees(geometry.tri_angle))
        for _, a, b, geometry in tested
        if pycolmap.estimate_two_view_geometry_pose(camera, px[a], camera, px[b], geometry)
    ]
    widest = max(angles, default=0.0)
    if widest >= INITIAL_ANGLE_DEG:
        problem = (
            f"those with a triangulation angle of {INITIAL_ANGLE_DEG:g} deg or more (at most {widest:.1f}) only move along the "
            "line of sight"
        )
        remedy = "rotate the object further"
    else:
        problem = f"the widest angle between two views is {widest:.1f} deg, {INITIAL_ANGLE_DEG:g} are needed"
        remedy = f"rotate the object by {math.ceil(INITIAL_ANGLE_DEG - widest)} deg more"
    return (
        f"{len(ranked)} pairs of frames share {INITIAL_MATCHES} matches or more, but {problem}: {remedy}, keep a "
        "longer part of the clip (create.start/create.end), or give the true camera (object_pose.focal_px)"
    )


def require_poses(names: Sequence[str], posed: Collection[str], features: Features, min_pct: float) -> None:
    """Raises HoldprepError with the reasons when fewer than `min_pct` percent of the frames `names` are `posed`."""
    if len(posed) < min_pct / 100 * len(names):
        raise HoldprepError(
            f"object poses: {len(posed)} of {len(names)} frames ({100 * len(posed) / len(names):.0f} %) registered, at least "
            f"{min_pct:.0f} % are needed: {explain_missing_poses(names, posed, features)}"
        )


def require_smooth(num_trusted: int, num_frames: int, min_pct: float) -> None:
    """Raises HoldprepError when fewer than `min_pct` percent of the frames are free of implausible rotations."""
    if num_trusted < min_pct / 100 * num_frames:
        raise HoldprepError(
            f"object poses: {num_trusted} of {num_frames} frames ({100 * num_trusted / num_frames:.0f} %) registered without "
            f"implausible rotations, at least {min_pct:.0f} % are needed: the object's pose flips, because it is symmetric, has a "
            "repeating pattern or shows only one face; put tape with a pattern on it, keep more frames (lower create.stride), "
            "or try another seed (seed=1)"
        )


def explain_missing_poses(names: Sequence[str], posed: Collection[str], features: Features) -> str:
    """Counts of the causes for frames without a pose, and the remedy for the most frequent one."""
    beside = {name: [*names[max(t - 1, 0) : t], *names[t + 1 : t + 2]] for t, name in enumerate(names)}
    causes = Counter(_cause(name, posed, features, beside[name]) for name in names if name not in posed)
    counted = ", ".join(f"{causes[cause]} {_DESCRIPTION[cause]}" for cause in _DESCRIPTION if causes[cause])
    return f"{counted}: {_REMEDY[max(_DESCRIPTION, key=lambda cause: causes[cause])]}"


def _cause(name: str, posed: Collection[str], features: Features, beside: Sequence[str]) -> Cause:
    """The first step at which a frame was lost, given the frames `beside` it."""
    if name not in features.keypoints_px:
        return "no mask"
    if len(features.keypoints_px[name]) < MIN_MATCHES:
        return "few features"
    counts = {other: len(pairs) for other, pairs in features.matches.get(name, {}).items()}
    if max((count for other, count in counts.items() if other in posed), default=0) >= MIN_MATCHES:
        return "no pose fits"
    is_plain = (
        len(features.keypoints_px[name]) < FEW_FEATURES and max((counts.get(other, 0) for other in beside), default=0) < TEXTURED_MATCHES
    )
    return "little texture" if is_plain else "few matches"
