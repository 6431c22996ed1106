"""Keyframe selection in long videos."""

from itertools import combinations
from pathlib import Path

import numpy as np

from holdprep.object.colmap import Features
from holdprep.object.keyframes import select_keyframes
from holdprep.object.pairs import temporal_neighbours
from holdprep.object.sfm import reconstruct
from holdprep.object.sfm_options import SfmOptions
from tests.object.test_sfm import rotation_errors_deg
from tests.synthetic import box_sequence


def features(names: list[str], lost_share: np.ndarray) -> Features:
    """Frames with 400 features, a share of which is lost from each frame to the next."""
    matches: dict[str, dict[str, np.ndarray]] = {name: {} for name in names}
    for a, b in combinations(range(len(names)), 2):
        if b - a <= 6:
            count = int(400 * np.prod(1 - lost_share[a:b]))
            matches[names[a]][names[b]] = matches[names[b]][names[a]] = np.zeros((count, 2), int)
    return Features({}, matches)


def test_up_to_two_hundred_frames_are_all_mapped_and_about_a_hundred_of_more() -> None:
    for total, step in ((3, 1), (200, 1), (201, 3), (300, 3), (600, 4), (2000, 4)):
        names = [f"{t:04d}" for t in range(total)]
        keys = select_keyframes(names, features(names, np.full(total, 0.05)))
        assert keys == [*names[:-1:step], names[-1]]


def test_no_frame_is_skipped_where_the_image_changes_fast() -> None:
    names = [f"{t:04d}" for t in range(600)]
    lost = np.where((np.arange(600) > 300) & (np.arange(600) < 340), 0.6, 0.05)
    at = np.array([int(name) for name in select_keyframes(names, features(names, lost))])
    assert np.diff(at[(at > 301) & (at < 340)]).tolist() == [1] * 37
    assert set(np.diff(at[at < 300]).tolist()) == {4}


def test_frames_without_matches_do_not_end_the_selection() -> None:
    names = [f"{t:04d}" for t in range(210)]
    assert select_keyframes(names, Features({}, {})) == names


def test_temporal_neighbours_are_paired_once() -> None:
    assert temporal_neighbours(["c", "a", "b", "d"], 2) == [("c", "a"), ("c", "b"), ("a", "b"), ("a", "d"), ("b", "d")]


def test_frames_between_keyframes_are_as_accurate_as_keyframes(tmp_path: Path) -> None:
    images, masks, K, poses = box_sequence(36)
    names = [f"{t:03d}" for t in range(36)]
    found = reconstruct(images, masks, names, tmp_path, SfmOptions(num_keyframes=30, num_threads=1))
    assert [m.num_registered for m in found.models] == [13] * len(found.models)
    assert found.registered.all() and set(found.origin) == {"sfm"}
    errors = rotation_errors_deg(found.T_cam_obj[:, :3, :3], poses[:, :3, :3])
    is_key = np.arange(36) % 3 == 0
    assert np.median(errors[~is_key]) < 1.2 * np.median(errors[is_key]) < 0.4
    assert errors.max() < 1.0
    assert abs(found.focal_px / K[0, 0] - 1) < 0.02
    assert found.warnings == []
