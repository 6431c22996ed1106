"""Patches on a rendered box: found where the box is, though the model has it elsewhere."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from holdprep.geometry.cameras import project
from holdprep.geometry.rigid import apply, from_rt
from holdprep.object.colmap import Features
from holdprep.object.patches import locate
from tests.object.boxes import ExactBox, exact_box


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> ExactBox:
    return exact_box(tmp_path_factory.mktemp("patches"), 10, noise_px=0.0)


def shaken(box: ExactBox, turn_deg: float, shift_m: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        name: from_rt(Rotation.from_rotvec(np.radians(rng.normal(0, turn_deg, 3))).as_matrix(), rng.normal(0, shift_m, 3)) @ pose
        for name, pose in box.model.poses.items()
    }


def errors_px(box: ExactBox, located: dict) -> np.ndarray:
    """How far off the places are, all frames together."""
    true = [project(apply(box.model.poses[name], box.model.points[found.points]), box.K) for name, found in located.items()]
    return np.linalg.norm(np.concatenate(true) - np.concatenate([found.px for found in located.values()]), axis=1)


def test_patches_are_found_where_the_box_is(box: ExactBox) -> None:
    model = replace(box.model, poses=shaken(box, 0.1, 0.0005))
    predicted = [
        np.linalg.norm(project(apply(model.poses[n], box.model.points), box.K) - project(apply(pose, box.model.points), box.K), axis=1)
        for n, pose in box.model.poses.items()
    ]
    assert np.median(predicted) > 0.8
    located = locate(box.names, model, box.features, box.principal_px, box.folder, box.crop)
    off = errors_px(box, located)
    assert len(off) > 0.5 * sum((index >= 0).sum() for index in box.model.point_of_keypoint.values())
    assert np.median(off) < 0.07
    assert np.percentile(off, 95) < 0.25


def test_frames_that_features_missed_a_point_in_are_found(box: ExactBox) -> None:
    # each point is known from the two middle frames alone
    index = {name: np.where([name in ("04", "05")], found, -1) for name, found in box.model.point_of_keypoint.items()}
    located = locate(box.names, replace(box.model, point_of_keypoint=index), box.features, box.principal_px, box.folder, box.crop)
    for name in ("02", "07"):
        assert len(located[name].points) > 40
    assert np.median(errors_px(box, located)) < 0.07


def test_a_frame_that_shows_something_else_keeps_its_features(box: ExactBox) -> None:
    elsewhere = box.model.poses | {"03": from_rt(np.eye(3), np.array([0.0, 0.01, 0.0])) @ box.model.poses["03"]}
    moved = {**box.features.keypoints_px, "03": box.features.keypoints_px["03"] + [0.0, 20.0]}
    features = Features(moved, box.features.matches)
    located = locate(box.names, replace(box.model, poses=elsewhere), features, box.principal_px, box.folder, box.crop)
    index = box.model.point_of_keypoint["03"]
    kept = np.isin(index[index >= 0], located["03"].points)
    assert kept.all()
