"""Frames solved anew against a model whose points are exact: a rendered box, its keypoints and matches made by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from holdprep.geometry.rigid import from_rt, rotation_angle_deg
from holdprep.object.colmap import Crop, Features, Model
from holdprep.object.resection import resect
from tests.object.boxes import exact_box

T = 12
NAMES = [f"{t:02d}" for t in range(T)]
LOST = 6


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray, Model, Features, Crop, Path]:
    """True poses, K, the true model without frame LOST, its features: that frame matches no other; crop and folder of the pictures."""
    box = exact_box(tmp_path_factory.mktemp("crops"), T, noise_px=0.3)
    lost = NAMES[LOST]
    poses, index = ({n: x for n, x in of.items() if n != lost} for of in (box.model.poses, box.model.point_of_keypoint))
    matches = {a: {} if a == lost else {b: pairs for b, pairs in found.items() if b != lost} for a, found in box.features.matches.items()}
    model = replace(box.model, poses=poses, point_of_keypoint=index)
    return box.poses, box.K, model, replace(box.features, matches=matches), box.crop, box.folder


def angles(found: dict, poses: np.ndarray) -> dict[int, float]:
    return {t: float(rotation_angle_deg(resection.T_cam_obj[:3, :3], poses[t, :3, :3])) for t, resection in found.items()}


def test_a_frame_without_matches_is_reached_by_optical_flow(scene: tuple) -> None:
    poses, K, model, features, crop, folder = scene
    found = resect(NAMES, model, features, (K[0, 2], K[1, 2]), folder, crop)
    assert sorted(found) == list(range(T))
    off = angles(found, poses)
    assert off.pop(LOST) < 1.0
    assert max(off.values()) < 0.3
    assert found[LOST].num_inliers > 30
    assert found[0].num_inliers > 0.9 * (model.point_of_keypoint[NAMES[0]] >= 0).sum()


def test_frames_turned_over_are_turned_back(scene: tuple) -> None:
    poses, K, model, features, crop, folder = scene
    over = from_rt(Rotation.from_euler("xy", (20, 60), degrees=True).as_matrix(), np.zeros(3))
    wrong = {NAMES[t]: poses[t] @ over for t in (3, 4, 11)}
    turned = replace(model, poses=model.poses | wrong)
    off = angles(resect(NAMES, turned, features, (K[0, 2], K[1, 2]), folder, crop), poses)
    assert max(off[t] for t in (3, 4, 11)) < 0.3


def test_frames_out_of_reach_or_unknown_are_left_out(scene: tuple) -> None:
    _, K, model, features, crop, folder = scene
    few = {name: model.poses[name] for name in NAMES[:3]}
    alone = Model(
        0, model.focal_px, model.distortion, few, model.points, model.colors, {n: model.point_of_keypoint[n] for n in few}, folder
    )
    unmatched = Features(features.keypoints_px, {n: {} for n in NAMES[:9]})
    unmatched.matches.update({n: features.matches[n] for n in NAMES[:3]})
    found = resect(NAMES, alone, unmatched, (K[0, 2], K[1, 2]), folder, crop)
    assert {0, 1, 2} <= set(found)
    assert not set(found) & {9, 10, 11}  # no picture of them is known
