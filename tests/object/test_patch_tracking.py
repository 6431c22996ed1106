"""Patch tracking on a rendered box, from perturbed poses."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from holdprep.geometry.cameras import project
from holdprep.geometry.rigid import apply, from_rt
from holdprep.object.colmap import Features
from holdprep.object.patch_tracking import track_patches
from tests.object.boxes import ExactBox, exact_box


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> ExactBox:
    return exact_box(tmp_path_factory.mktemp("patches"), 10, noise_px=0.0)


def perturbed(box: ExactBox, rotation_deg: float, shift_m: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        name: from_rt(Rotation.from_rotvec(np.radians(rng.normal(0, rotation_deg, 3))).as_matrix(), rng.normal(0, shift_m, 3)) @ pose
        for name, pose in box.model.poses.items()
    }


def errors_px(box: ExactBox, tracked: dict) -> np.ndarray:
    """Distances from the true projections, all frames together."""
    true = [project(apply(box.model.poses[name], box.model.points[found.points]), box.K) for name, found in tracked.items()]
    return np.linalg.norm(np.concatenate(true) - np.concatenate([found.px for found in tracked.values()]), axis=1)


def test_patches_are_tracked_from_perturbed_poses(box: ExactBox) -> None:
    model = replace(box.model, poses=perturbed(box, 0.1, 0.0005))
    predicted = [
        np.linalg.norm(project(apply(model.poses[n], box.model.points), box.K) - project(apply(pose, box.model.points), box.K), axis=1)
        for n, pose in box.model.poses.items()
    ]
    assert np.median(predicted) > 0.8
    tracked = track_patches(box.workspace, model, box.features)
    off = errors_px(box, tracked)
    assert len(off) > 0.5 * sum((index >= 0).sum() for index in box.model.point_of_keypoint.values())
    assert np.median(off) < 0.07
    assert np.percentile(off, 95) < 0.25


def test_points_are_tracked_in_frames_without_their_features(box: ExactBox) -> None:
    # each point was observed in the frames 04 and 05 only
    index = {name: np.where([name in ("04", "05")], found, -1) for name, found in box.model.point_of_keypoint.items()}
    tracked = track_patches(box.workspace, replace(box.model, point_of_keypoint=index), box.features)
    for name in ("02", "07"):
        assert len(tracked[name].points) > 40
    assert np.median(errors_px(box, tracked)) < 0.07


def test_a_frame_without_matching_patches_keeps_its_features(box: ExactBox) -> None:
    elsewhere = box.model.poses | {"03": from_rt(np.eye(3), np.array([0.0, 0.01, 0.0])) @ box.model.poses["03"]}
    moved = {**box.features.keypoints_px, "03": box.features.keypoints_px["03"] + [0.0, 20.0]}
    features = Features(moved, box.features.matches)
    tracked = track_patches(box.workspace, replace(box.model, poses=elsewhere), features)
    index = box.model.point_of_keypoint["03"]
    kept = np.isin(index[index >= 0], tracked["03"].points)
    assert kept.all()
