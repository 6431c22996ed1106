"""Every cause of failure has its own message: structure from motion on known features with one defect each."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from holdprep.errors import HoldprepError
from holdprep.object.colmap import Features
from holdprep.object.diagnosis import MappingRun, explain_missing_poses, require_model, require_poses, require_smooth
from holdprep.object.sfm import reconstruct
from holdprep.object.sfm_options import SfmOptions
from tests.object.clouds import Cloud, KnownFeatures, PinholeCamera, cloud, halves

PLACE = (200.0, 150.0)
SMALL = PinholeCamera((320, 240))


def few_features() -> Cloud:
    return cloud(PLACE, camera=SMALL, num_points=20, num_frames=6)


def no_matches() -> Cloud:
    """Ten matches per pair: verification needs more."""
    scene = cloud(PLACE, camera=SMALL, num_frames=5)
    ten = {a: {b: found[:10] for b, found in others.items()} for a, others in scene.source.matches.items()}
    return replace(scene, source=KnownFeatures(scene.source.keypoints_px, ten))


def few_matches() -> Cloud:
    scene = cloud(PLACE, camera=SMALL, num_frames=5)
    thirty = {a: {b: found[:30] for b, found in others.items()} for a, others in scene.source.matches.items()}
    return replace(scene, source=KnownFeatures(scene.source.keypoints_px, thirty))


def hardly_rotated() -> Cloud:
    return cloud(PLACE, camera=SMALL, num_points=70, num_frames=5, degrees=3.0, noise_px=0.02)


def two_halves() -> Cloud:
    """No matches between the first five frames and the others."""
    return halves(cloud(PLACE, camera=SMALL, num_frames=12), 5)


def one_pair(num_points: int) -> Cloud:
    """Two frames share all points, and no others match: a model begins, and no frame can be added."""
    scene = cloud(PLACE, camera=SMALL, num_points=num_points, num_frames=9)
    a, b = scene.names[0], scene.names[4]
    return replace(scene, source=KnownFeatures(scene.source.keypoints_px, {a: {b: scene.source.matches[a][b]}}))


def one_pair_of_few() -> Cloud:
    return one_pair(70)


def one_pair_of_many() -> Cloud:
    return one_pair(200)


@pytest.mark.parametrize(
    ("scene", "cause"),
    [
        (few_features, r"no features: 0 of 6 frames have 50 or more on the object \(median 20\), 2 are needed: film closer.*texture"),
        (no_matches, r"no matches: frames have 60 features \(median\), but no two share more than \d verified matches, 12 are needed"),
        (few_matches, r"no initial pair: no two frames share more than (29|30) verified matches, 50 are needed"),
        (
            hardly_rotated,
            r"no initial pair: 8 pairs .* widest angle between two views is [23]\.\d deg, 8 are needed: rotate the object by [56] deg more,",
        ),
        (
            one_pair_of_few,
            r"no third frame: no model grew beyond the first 2 of 9 frames; frames have 70 features on the object \(median\), and pairs .*: 1: "
            "film closer",
        ),
        (one_pair_of_many, r"no third frame: .* have 200 features .*: keep more frames"),
        (
            two_halves,
            r"7 of 12 frames \(58 %\) registered, at least 60 % .*: 5 with fewer than 12 matches with a registered frame: keep more",
        ),
    ],
)
def test_each_cause_has_its_message(scene: Callable[[], Cloud], cause: str, tmp_path: Path) -> None:
    case = scene()
    with_mask = [name for name, mask in zip(case.names, case.masks, strict=True) if mask.any()]
    px = {name: case.source.keypoints_px[name] for name in with_mask}
    options = SfmOptions(
        source=KnownFeatures(px, case.source.matches),
        upsample=1.0,
        focal_px=float(case.K[0, 0]),
        min_mappings=1,
        max_mappings=1,
        num_threads=1,
    )
    with pytest.raises(HoldprepError, match=f"^object poses: {cause}") as error:
        reconstruct(case.images, case.masks, case.names, tmp_path, options)
    assert "\n" not in str(error.value)
    assert ("texture" in str(error.value)) == (scene in (few_features, one_pair_of_few))


def test_filtered_frames_and_rejected_cameras_are_reported(tmp_path: Path) -> None:
    filtered, bad = MappingRun(40, 0, 1.2), MappingRun(3, 3, 1.2)
    with pytest.raises(HoldprepError, match=r"frames filtered: the largest of 2 models had 40 of 50 frames and 0 after filtering, .*masks"):
        require_model([filtered, bad], tmp_path, 50, 60.0)
    with pytest.raises(HoldprepError, match=r"frames filtered: the largest of 1 models had 3 of 50 frames and 0 after filtering"):
        require_model([MappingRun(3, 0, 1.2)], tmp_path, 50, 60.0)
    with pytest.raises(HoldprepError, match=r"camera rejected: in 1 of 2 models the focal length became 0\.05 times"):
        require_model([MappingRun(40, 0, 0.05), bad], tmp_path, 50, 60.0)
    require_model([filtered, MappingRun(45, 45, 1.2)], tmp_path, 50, 60.0)  # another initial pair succeeded
    require_model([bad], tmp_path, 50, 60.0)  # the matches of its frames are more informative


def features(counts: dict[str, int], matched: dict[tuple[str, str], int]) -> Features:
    found: dict[str, dict[str, np.ndarray]] = {name: {} for name in counts}
    for (a, b), count in matched.items():
        found[a][b] = found[b][a] = np.zeros((count, 2), int)
    return Features({name: np.zeros((count, 2)) for name, count in counts.items()}, found)


def test_causes_of_missing_poses_are_counted_and_the_most_frequent_decides() -> None:
    known = features(
        {"a": 99, "b": 99, "c": 5, "d": 99, "e": 99, "f": 99}, {("a", "b"): 60, ("a", "d"): 11, ("d", "e"): 60, ("a", "f"): 12}
    )
    assert explain_missing_poses(list("abdf"), {"a", "b", "d"}, known).startswith(
        "1 with matches that are consistent with no pose: check that the masks"
    )
    with pytest.raises(
        HoldprepError,
        match=r"2 of 7 frames \(29 %\) registered, at least 60 % are needed: 1 without a usable mask, 1 with fewer than 12 features, "
        r"2 with fewer than 12 matches with a registered frame, 1 with matches that are consistent with no pose: keep more frames",
    ):
        require_poses(list("abcdefg"), {"a", "b"}, known, 60.0)
    require_poses(list("ab"), {"a", "b"}, known, 100.0)


@pytest.mark.parametrize(
    ("num_features", "beside", "cause"),
    [
        (50, 20, "3 with fewer than 100 features and 36 matches with the frames next to them: the object shows too little texture"),
        (50, 40, "3 with fewer than 12 matches with a registered frame: keep more frames"),  # textured, but not connected
        (300, 20, "3 with fewer than 12 matches with a registered frame: keep more frames"),  # moved too far between frames
    ],
)
def test_few_matches_with_the_next_frame_are_little_texture_only_where_features_are_few(num_features: int, beside: int, cause: str) -> None:
    known = features(dict.fromkeys("abcde", num_features), {("a", "b"): 60, ("c", "d"): beside, ("d", "e"): beside})
    assert explain_missing_poses(list("abcde"), {"a", "b"}, known).startswith(cause)


def test_flips_are_not_attributed_to_missing_texture() -> None:
    with pytest.raises(HoldprepError, match=r"20 of 50 frames \(40 %\) registered without implausible rotations.*symmetric") as error:
        require_smooth(20, 50, 60.0)
    assert "texture" not in str(error.value)
    require_smooth(30, 50, 60.0)
