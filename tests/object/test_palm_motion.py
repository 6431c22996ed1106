"""The palm's motion from noisy joints, and the motion of fingers in the palm."""

import numpy as np
import pytest

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from holdprep.geometry.rigid import rotation_angle_deg
from holdprep.object.palm_motion import palm_motion
from holdprep.quality.gauge import rotation_gauge
from tests.object.held import K, held


def test_the_palm_moves_as_the_object_across_lost_frames():
    scene = held("box_plain", drift_deg=0)
    joints = scene.joints_m.copy()
    joints[15:19] = np.nan
    found = palm_motion(joints, scene.j2d_px, K)
    assert np.flatnonzero(~found.found).tolist() == [15, 16, 17, 18]
    R, R_true = found.T_cam_palm[:, :3, :3], scene.T_cam_obj[:, :3, :3]
    errors = rotation_angle_deg(R @ rotation_gauge(R, R_true), R_true)
    assert np.median(errors) < 3
    assert errors.max() < 8
    assert found.finger_motion_mm < 9


def test_only_directions_of_the_joints_are_used_and_the_keypoints_place_them():
    scene = held("box_plain", drift_deg=0, noise_m=0)
    far = scene.joints_m + np.array([0.3, -0.2, 1.0])
    found = palm_motion(far, project(scene.joints_m, K), K, smooth_frames=0.1)
    assert found.T_cam_palm[:, :3, 3] == pytest.approx(scene.joints_m[:, [0, 1, 4, 7, 10, 13]].mean(axis=1), abs=1e-6)


def test_fingers_that_move_in_the_palm_are_measured():
    scene = held("box_plain", drift_deg=0, noise_m=0)
    joints = scene.joints_m.copy()
    joints[:, 16:21] += np.linspace(-0.03, 0.03, len(joints))[:, None, None] * scene.T_cam_obj[:, None, :3, 0]
    assert palm_motion(joints, project(joints, K), K).finger_motion_mm == pytest.approx(27, abs=3)


def test_too_few_hands_are_refused():
    scene = held("box_plain")
    joints = np.full_like(scene.joints_m, np.nan)
    joints[:3] = scene.joints_m[:3]
    with pytest.raises(HoldprepError, match="found in 3 of 30 frames, 5 are needed"):
        palm_motion(joints, scene.j2d_px, K)
