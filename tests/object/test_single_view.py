"""Planar pose ambiguity and costs, against closed forms."""

import numpy as np
import pycolmap
import pytest
from scipy.spatial.transform import Rotation

from holdprep.geometry.rigid import apply, from_rt, rotation_angle_deg
from holdprep.object.single_view import (
    fit_plane,
    flip_pose,
    pose_hypotheses,
    reprojection_errors_px,
    rotation_cost,
    truncated_cost,
)

CAMERA = pycolmap.Camera(model="SIMPLE_RADIAL", width=1, height=1, params=[600.0, 320.0, 240.0, 0.0])
PLANE = np.array([[x, y, 0.0] for x in np.linspace(-0.05, 0.05, 9) for y in np.linspace(-0.04, 0.04, 7)])
FACE = fit_plane(PLANE)
TILT_DEG = 25.0


def tilted(angle_deg: float) -> np.ndarray:
    return from_rt(Rotation.from_euler("zy", (20, angle_deg), degrees=True).as_matrix(), np.array([0.0, 0.0, 0.7]))


def projected(T: np.ndarray) -> np.ndarray:
    return np.asarray(CAMERA.img_from_cam(apply(T, PLANE)))


def test_the_flipped_pose_of_a_tilted_plane_has_opposite_tilt() -> None:
    assert flip_pose(tilted(TILT_DEG), FACE) == pytest.approx(tilted(-TILT_DEG), abs=1e-12)
    assert flip_pose(flip_pose(tilted(TILT_DEG), FACE), FACE) == pytest.approx(tilted(TILT_DEG), abs=1e-12)
    off = np.linalg.norm(projected(tilted(TILT_DEG)) - projected(tilted(-TILT_DEG)), axis=1)
    assert off.max() < 4  # px, on a plane of 86 px


@pytest.mark.parametrize("start_deg", [TILT_DEG + 5, -TILT_DEG + 5])
def test_both_poses_are_found_from_either_side_and_the_correct_one_is_first(start_deg: float) -> None:
    px = projected(tilted(TILT_DEG)) + np.random.default_rng(0).normal(0, 0.3, (len(PLANE), 2))
    px[:5] += 40  # outliers
    first, second = pose_hypotheses([tilted(start_deg)], px, PLANE, CAMERA)
    assert rotation_angle_deg(first.T_cam_obj[:3, :3], tilted(TILT_DEG)[:3, :3]) < 3
    assert rotation_angle_deg(second.T_cam_obj[:3, :3], tilted(-TILT_DEG)[:3, :3]) < 6
    assert not first.inliers[:5].any()
    assert first.inliers[5:].mean() > 0.9
    assert second.cost > 1.5 * first.cost


def test_a_non_planar_object_has_one_pose() -> None:
    body = PLANE + np.array([0, 0, 1.0]) * np.random.default_rng(1).uniform(-0.04, 0.04, (len(PLANE), 1))
    px = np.asarray(CAMERA.img_from_cam(apply(tilted(TILT_DEG), body)))
    assert rotation_angle_deg(pose_hypotheses([tilted(-TILT_DEG)], px, body, CAMERA)[0].T_cam_obj[:3, :3], tilted(TILT_DEG)[:3, :3]) < 0.01


def test_costs() -> None:
    assert truncated_cost(np.array([1.0, 2.0, 100.0, np.inf])) == pytest.approx(0.5 + 2.0 + 4.5 + 4.5)
    assert float(rotation_cost(20.0, 1)) == pytest.approx(2.0)
    assert float(rotation_cost(20.0, 2)) == pytest.approx(1.0)
    assert float(rotation_cost(180.0, 1)) == 20.0


def test_points_behind_the_camera_have_infinite_error() -> None:
    behind = from_rt(np.eye(3), np.array([0.0, 0.0, -1.0]))
    assert np.isinf(reprojection_errors_px(behind, np.zeros((len(PLANE), 2)), PLANE, CAMERA)).all()
    each = np.stack([tilted(10.0), behind])
    assert reprojection_errors_px(each, projected(tilted(10.0))[:2], PLANE[:2], CAMERA).tolist() == pytest.approx([0.0, np.inf])
