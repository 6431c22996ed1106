"""PnP re-estimation against a model with exact points: a rendered box with synthetic keypoints and matches."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from holdprep.geometry.rigid import from_rt, rotation_angle_deg
from holdprep.object.colmap import Features, Model
from holdprep.object.resection import resect_frames
from holdprep.object.workspace import Workspace
from tests.object.boxes import exact_box

T = 12
NAMES = [f"{t:02d}" for t in range(T)]
LOST = 6


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, Workspace, Model, Features]:
    """True poses, workspace, the exact model without frame LOST, and features in which that frame has no matches."""
    box = exact_box(tmp_path_factory.mktemp("crops"), T, noise_px=0.3)
    lost = NAMES[LOST]
    poses, index = ({n: x for n, x in of.items() if n != lost} for of in (box.model.poses, box.model.point_of_keypoint))
    matches = {a: {} if a == lost else {b: pairs for b, pairs in found.items() if b != lost} for a, found in box.features.matches.items()}
    model = replace(box.model, poses=poses, point_of_keypoint=index)
    return box.poses, box.workspace, model, replace(box.features, matches=matches)


def rotation_errors_deg(found: dict, poses: np.ndarray) -> dict[int, float]:
    return {t: float(rotation_angle_deg(resection.T_cam_obj[:3, :3], poses[t, :3, :3])) for t, resection in found.items()}


def test_a_frame_without_matches_is_registered_by_optical_flow(scene: tuple) -> None:
    poses, workspace, model, features = scene
    found = resect_frames(workspace, model, features)
    assert sorted(found) == list(range(T))
    errors = rotation_errors_deg(found, poses)
    assert errors.pop(LOST) < 1.0
    assert max(errors.values()) < 0.3
    assert found[LOST].num_inliers > 30
    assert found[0].num_inliers > 0.9 * (model.point_of_keypoint[NAMES[0]] >= 0).sum()


def test_wrong_rotations_are_corrected(scene: tuple) -> None:
    poses, workspace, model, features = scene
    error = from_rt(Rotation.from_euler("xy", (20, 60), degrees=True).as_matrix(), np.zeros(3))
    wrong = {NAMES[t]: poses[t] @ error for t in (3, 4, 11)}
    wrong_model = replace(model, poses=model.poses | wrong)
    errors = rotation_errors_deg(resect_frames(workspace, wrong_model, features), poses)
    assert max(errors[t] for t in (3, 4, 11)) < 0.3


def test_frames_beyond_the_maximal_gap_or_without_matches_are_left_out(scene: tuple) -> None:
    _, workspace, model, features = scene
    few = {name: model.poses[name] for name in NAMES[:3]}
    small = replace(model, poses=few, point_of_keypoint={name: model.point_of_keypoint[name] for name in few})
    unmatched = Features(features.keypoints_px, {n: {} for n in NAMES[:9]})
    unmatched.matches.update({n: features.matches[n] for n in NAMES[:3]})
    found = resect_frames(workspace, small, unmatched)
    assert {0, 1, 2} <= set(found)
    assert not set(found) & {9, 10, 11}  # missing in features.matches
