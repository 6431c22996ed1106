"""The similarity that SfM leaves free, found again under noise and outliers."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from holdprep.geometry.rigid import from_rt, invert
from holdprep.quality.gauge import camera_motion, fit_gauge, rotation_gauge

T = 40
R_FREE = Rotation.from_euler("xyz", [100, -30, 55], degrees=True).as_matrix()


def poses(degrees: float = 150.0) -> np.ndarray:
    s = np.linspace(0, 1, T)
    R = Rotation.from_rotvec(np.radians(degrees * s)[:, None] * np.array([0.6, 0.8, 0.0])).as_matrix()
    return from_rt(R, np.stack([0.05 * np.sin(5 * s), 0.02 * s, 0.5 + 0.05 * s], axis=1))


def test_a_similarity_is_found_again_although_a_fifth_of_the_frames_is_wrong():
    T_true = poses()
    T_est = T_true.copy()
    T_est[:, :3, 3] *= 1.7
    T_est = T_est @ invert(from_rt(R_FREE, np.array([1.0, 2.0, 3.0])))
    T_est[::5, :3, 3] += np.random.default_rng(1).normal(size=(8, 3))
    gauge = fit_gauge(T_est, T_true)
    assert pytest.approx(R_FREE, abs=1e-6) == gauge.R
    assert gauge.scale == pytest.approx(1.7, rel=0.002)
    assert gauge.origin == pytest.approx(np.array([1.0, 2.0, 3.0]), abs=0.002)


def test_the_camera_s_spread_about_an_object():
    # an object at 0.5 m turned by 0 and 180 degrees: the camera stands at -0.5 and +0.5 in its frame, 1.0 of its distance from the middle
    T_true = from_rt(np.stack([np.eye(3), np.diag([-1.0, 1.0, -1.0])]), np.array([0.0, 0.0, 0.5]))
    assert camera_motion(T_true) == pytest.approx(1.0)


def test_the_scale_s_standard_error_is_what_repetition_shows():
    T_true, errors, claimed = poses(60.0), [], []
    for seed in range(60):
        noisy = T_true.copy()
        noisy[:, :3, 3] += 0.002 * np.random.default_rng(seed).normal(size=(T, 3))
        gauge = fit_gauge(noisy, T_true)
        errors.append(gauge.scale - 1)
        claimed.append(gauge.scale_sd)
    assert np.median(claimed) == pytest.approx(np.std(errors), rel=0.25)
    assert abs(np.mean(errors)) < np.std(errors)


def test_the_rotation_gauge_stands_nearly_half_of_the_frames_being_wrong():
    R_true = poses()[:, :3, :3]
    R_est = R_true @ R_FREE.T
    R_est[:18] = Rotation.random(18, random_state=3).as_matrix()
    assert rotation_gauge(R_est, R_true) == pytest.approx(R_FREE, abs=1e-3)
