"""Why frames have no pose: at which step of structure from motion they were lost, and what helps there.

Every step has its own evidence (features, verified matches, first pairs, COLMAP's verdict on the camera, poses that fit), and only lack of
features speaks of texture.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap

from holdprep.errors import HoldprepError
from holdprep.object.colmap import Features, open_database

MIN_MATCHES = 12  # between two frames, or of a frame with a model's points; fewer say nothing about a pose
START_MATCHES = 50  # verified, between the two frames that a model begins from
START_ANGLE_DEG = 8.0  # of triangulation between them, at least
FOCAL_RATIOS = (0.1, 10.0)  # focal length / longer side of the camera's picture, beyond which COLMAP drops its images
_PAIRS = 200  # whose angle is measured, those with most matches

Cause = Literal["no mask", "few features", "few matches", "no pose fits"]
_LACK: dict[Cause, str] = {
    "no mask": "without a usable mask",
    "few features": f"with fewer than {MIN_MATCHES} features",
    "few matches": f"with fewer than {MIN_MATCHES} matches with a registered frame",
    "no pose fits": "with matches that fit no pose",
}
_REMEDY: dict[Cause, str] = {
    "no mask": "add key frames for the object where its mask ends (prompts.yaml), or cut the clip there (create.start/create.end)",
    "few features": "film closer and sharper, raise object_pose.upsample or max_features, or put tape with a pattern on the object: it has too "
    "little texture",
    "few matches": "keep more frames (lower create.stride), raise object_pose.num_pairs, film slower, or cut the clip to one connected part",
    "no pose fits": "check that the masks hold this one rigid object and no background (object_pose.erode_px=3), give the true camera "
    "(object_pose.focal_px), or try another seed (seed=1)",
}


@dataclass(frozen=True)
class Start:
    """What became of one pair of frames that a mapping began from."""

    most_frames: int  # registered at a time
    frames: int  # left in the end, 0 without points
    focal_ratio: float  # focal length / longer side of the picture, as COLMAP last judged it

    @property
    def camera_rejected(self) -> bool:
        """COLMAP dropped the images for the camera's sake."""
        return self.frames < self.most_frames and not FOCAL_RATIOS[0] <= self.focal_ratio <= FOCAL_RATIOS[1]


def require_features(names: Sequence[str], features: Features) -> None:
    """Raises HoldprepError unless two of the frames `names` have the features that a model begins with."""
    count = [len(features.keypoints_px.get(name, ())) for name in names]
    enough = sum(n >= START_MATCHES for n in count)
    if enough < 2:
        raise HoldprepError(
            f"object poses: no features: {enough} of {len(count)} frames have {START_MATCHES} or more on the object "
            f"(median {np.median(count):.0f}), 2 are needed: {_REMEDY['few features']}"
        )


def require_matches(features: Features) -> None:
    """Raises HoldprepError unless two frames share enough verified matches to be placed against one another."""
    most = max((len(pairs) for others in features.matches.values() for pairs in others.values()), default=0)
    if most < MIN_MATCHES:
        median = np.median([len(px) for px in features.keypoints_px.values()])
        raise HoldprepError(
            f"object poses: no matches: frames have {median:.0f} features (median), but no two share more than {most} verified matches, "
            f"{MIN_MATCHES} are needed: keep more frames (lower create.stride), film slower, and check that all masks show the same object"
        )


def require_starts(starts: Sequence[Start], folder: Path, num_frames: int, min_pct: float) -> None:
    """Raises HoldprepError where no mapping could begin, or COLMAP dropped the frames of a large enough model again.

    `min_pct` percent of `num_frames` are needed; `folder` holds the database.
    """
    max_frames = max((start.frames for start in starts), default=0)
    if not starts:
        raise HoldprepError(f"object poses: no initial pair: {_about_pairs(folder)}")
    if max_frames >= min_pct / 100 * num_frames:
        return
    if rejected := [start for start in starts if start.camera_rejected]:
        raise HoldprepError(
            f"object poses: camera rejected: in {len(rejected)} of {len(starts)} models the focal length became {rejected[0].focal_ratio:.3g} "
            f"times the picture's longer side, COLMAP takes {FOCAL_RATIOS[0]:g} to {FOCAL_RATIOS[1]:g}: give the true focal length in pixels "
            "of images/ (object_pose.focal_px), or rotate the object further"
        )
    largest = max(starts, key=lambda start: start.most_frames)
    if max_frames == 0 or largest.most_frames >= min_pct / 100 * num_frames:
        raise HoldprepError(
            f"object poses: frames filtered: the largest of {len(starts)} models had {largest.most_frames} of {num_frames} frames and was left "
            f"with {largest.frames}, at least {min_pct:.0f} % are needed: its points do not agree with the pictures: {_REMEDY['no pose fits']}"
        )


def _about_pairs(folder: Path) -> str:
    """What the best pair of frames lacks to begin from, and what to try."""
    with open_database(folder) as database:
        (camera,) = database.read_all_cameras()
        found = [
            (len(geometry.inlier_matches), *pycolmap.pair_id_to_image_pair(pair), geometry)
            for pair, geometry in zip(*database.read_two_view_geometries(), strict=True)
        ]
        most = max((count for count, *_ in found), default=0)
        if most < START_MATCHES:
            return (
                f"no two frames share more than {most} verified matches, {START_MATCHES} are needed: raise object_pose.max_features or "
                "upsample, keep more frames (lower create.stride), film slower and sharper"
            )
        ranked = sorted((each for each in found if each[0] >= START_MATCHES), key=lambda each: -each[0])
        px = {i: np.asarray(database.read_keypoints(i))[:, :2].astype(float) for i in {i for each in ranked[:_PAIRS] for i in each[1:3]}}
    angles = [
        float(np.degrees(geometry.tri_angle))
        for _, a, b, geometry in ranked[:_PAIRS]
        if pycolmap.estimate_two_view_geometry_pose(camera, px[a], camera, px[b], geometry)
    ]
    widest = max(angles, default=0.0)
    if widest >= START_ANGLE_DEG:
        lack = f"those seen {START_ANGLE_DEG:g} deg apart or more (at most {widest:.1f}) differ by a motion along the line of sight alone"
    else:
        lack = f"the widest angle between two views is {widest:.1f} deg, {START_ANGLE_DEG:g} are needed"
    return (
        f"{len(ranked)} pairs of frames share {START_MATCHES} matches or more, but {lack}: rotate the object further before the camera, keep a "
        "longer part of the clip (create.start/create.end), or give the true camera (object_pose.focal_px)"
    )


def require_poses(names: Sequence[str], posed: Collection[str], features: Features, min_pct: float) -> None:
    """Raises HoldprepError when fewer than `min_pct` percent of the frames `names` are `posed`, with what the others lack."""
    if len(posed) < min_pct / 100 * len(names):
        raise HoldprepError(
            f"object poses: {len(posed)} of {len(names)} frames ({100 * len(posed) / len(names):.0f} %) registered, at least {min_pct:.0f} % "
            f"are needed: {why_lost(names, posed, features)}"
        )


def require_smooth(num_trusted: int, num_frames: int, min_pct: float) -> None:
    """Raises HoldprepError when fewer than `min_pct` percent of the frames hang together by plausible rotations."""
    if num_trusted < min_pct / 100 * num_frames:
        raise HoldprepError(
            f"object poses: {num_trusted} of {num_frames} frames ({100 * num_trusted / num_frames:.0f} %) registered without implausible "
            f"rotations, at least {min_pct:.0f} % are needed: the object flips, it is symmetric, repeats itself or shows one face; put tape "
            "with a pattern on it, keep more frames (lower create.stride), or try another seed (seed=1)"
        )


def why_lost(names: Sequence[str], posed: Collection[str], features: Features) -> str:
    """What the frames without a pose lack, counted, and the remedy for the most frequent cause."""
    causes = Counter(_cause(name, posed, features) for name in names if name not in posed)
    counted = ", ".join(f"{causes[cause]} {_LACK[cause]}" for cause in _LACK if causes[cause])
    return f"{counted}: {_REMEDY[max(_LACK, key=lambda cause: causes[cause])]}"


def _cause(name: str, posed: Collection[str], features: Features) -> Cause:
    """The first step at which a frame was lost."""
    if name not in features.keypoints_px:
        return "no mask"
    if len(features.keypoints_px[name]) < MIN_MATCHES:
        return "few features"
    seen = [len(pairs) for other, pairs in features.matches.get(name, {}).items() if other in posed]
    return "few matches" if max(seen, default=0) < MIN_MATCHES else "no pose fits"
