"""A distorted picture made straight, against the formula the other way round."""

import cv2
import numpy as np
import pytest

from holdprep.geometry.cameras import distort, pinhole_K, project
from holdprep.geometry.lens import Lens

LENS = Lens(pinhole_K(500.0, 640, 480), -0.12, (640, 480))


def test_points_are_straightened_exactly() -> None:
    cam = np.array([[x, y, 1.0] for x in np.linspace(-0.6, 0.6, 7) for y in np.linspace(-0.45, 0.45, 5)]).reshape(7, 5, 3)
    bent = project(distort(cam, LENS.k), LENS.K)
    assert np.linalg.norm(bent - project(cam, LENS.K), axis=-1).max() > 20
    assert LENS.points(bent) == pytest.approx(project(cam, LENS.K), abs=1e-6)
    assert LENS.distorted_points(project(cam, LENS.K)) == pytest.approx(bent, abs=1e-6)
    assert np.isnan(LENS.points(np.array([[np.nan, 3.0], [10.0, 3.0]]))).tolist() == [[True, True], [False, False]]
    assert LENS.points(np.zeros((0, 2))).shape == (0, 2)


def test_the_corner_moves_by_what_the_formula_says() -> None:
    x, y = 319.5 / 500, 239.5 / 500
    assert LENS.corner_shift_px() == pytest.approx(500 * np.hypot(x, y) * 0.12 * (x**2 + y**2))


def test_a_dot_in_the_picture_goes_where_its_point_goes() -> None:
    at = np.array([545.0, 390.0])
    y, x = np.mgrid[:480, :640]
    blob = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 18).astype(np.float32)
    straight = LENS.undistorted(blob)
    seen = np.array([(x * straight).sum(), (y * straight).sum()]) / straight.sum()
    assert seen == pytest.approx(LENS.points(at), abs=0.2)
    labels = np.zeros((480, 640), np.uint8)
    labels[300:, 400:] = 150
    assert set(np.unique(LENS.undistorted(labels, cv2.INTER_NEAREST))) == {0, 150}


def test_beyond_the_observed_radius_pixels_move_as_far_as_at_it() -> None:
    radius = 0.3
    known = Lens(LENS.K, LENS.k, LENS.image_size, radius)
    assert known.corner_shift_px() == pytest.approx(500 * 0.12 * radius**3)
    near, far = np.array([[380.0, 260.0]]), np.array([[600.0, 440.0]])
    assert known.points(near) == pytest.approx(LENS.points(near), abs=1e-9)
    shift = known.points(far) - far
    assert np.linalg.norm(shift) == pytest.approx(500 * 0.12 * radius**3, abs=1e-6)
    assert known.distorted_points(far + shift) == pytest.approx(far, abs=1e-6)
    assert np.linalg.norm(LENS.points(far) - far) > 10 * np.linalg.norm(shift)
    y, x = np.mgrid[:480, :640]
    blob = np.exp(-((x - far[0, 0]) ** 2 + (y - far[0, 1]) ** 2) / 18).astype(np.float32)
    straight = known.undistorted(blob)
    assert [(x * straight).sum() / straight.sum(), (y * straight).sum() / straight.sum()] == pytest.approx((far + shift)[0], abs=0.1)
