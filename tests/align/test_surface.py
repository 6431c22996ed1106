"""The surface of clouds whose true surface has a closed form."""

import numpy as np
import pytest

from holdprep.align.surface import Surface
from holdprep.errors import HoldprepError

from .synthetic import BAR_LENGTH_M, BAR_RADIUS_M, bar_cloud


def box_cloud(size, count=3000, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-0.5, 0.5, (count, 3))
    rows, axis = np.arange(count), rng.integers(0, 3, count)
    points[rows, axis] = np.sign(points[rows, axis]) * 0.5
    return points * size


def bar_distance(points):
    outside = np.stack([np.hypot(points[:, 0], points[:, 1]) - BAR_RADIUS_M, np.abs(points[:, 2]) - BAR_LENGTH_M / 2], axis=1)
    return np.linalg.norm(np.maximum(outside, 0), axis=1) + np.minimum(outside.max(axis=1), 0)


def near_bar(seed=1, count=2000):
    """Points within 10 mm of the bar's side, away from its rims."""
    rng = np.random.default_rng(seed)
    angle, radius = rng.uniform(0, 2 * np.pi, count), BAR_RADIUS_M + rng.uniform(-0.01, 0.01, count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), rng.uniform(-0.06, 0.06, count)], axis=1)


@pytest.mark.parametrize("noise_m", [0.0, 0.0005])
def test_a_bars_distance_and_slope(noise_m):
    cloud = bar_cloud().numpy()
    surface = Surface.of(cloud + noise_m * np.random.default_rng(2).normal(size=cloud.shape), cloud)
    asked = near_bar()
    error = surface.distance(asked) - bar_distance(asked)
    assert np.median(np.abs(error)) < 0.0006 + noise_m
    assert np.percentile(np.abs(error), 95) < 0.0015 + 2 * noise_m
    outward = np.concatenate([asked[:, :2], np.zeros((len(asked), 1))], axis=1) / np.linalg.norm(asked[:, :2], axis=1)[:, None]
    assert np.median((surface.gradient(asked) * outward).sum(axis=1)) > 0.97


def test_a_boxs_distance_inside_and_out():
    surface = Surface.of(size := box_cloud((0.09, 0.05, 0.08)), size)
    for x, expected in ((0.045, 0.0), (0.055, 0.01), (0.035, -0.01), (0.2, 0.155)):
        assert surface.distance(np.array([[x, 0.0, 0.0]]))[0] == pytest.approx(expected, abs=0.001)
    assert surface.distance(np.zeros((2, 5, 3))).shape == (2, 5)
    assert (surface.distance(np.zeros((1, 3))) < -0.015).all()


def test_unobserved_parts_are_closed_by_the_hull():
    cloud = box_cloud((0.09, 0.05, 0.08))
    seen = cloud[(cloud[:, 0] < 0.044) | (np.abs(cloud[:, 1]) > 0.02)]
    surface = Surface.of(seen, seen)
    assert surface.distance(np.array([[0.055, 0.0, 0.0]]))[0] == pytest.approx(0.01, abs=0.002)


def test_isolated_points_do_not_change_the_surface():
    cloud = box_cloud((0.09, 0.05, 0.08))
    spoilt = np.concatenate([cloud, [[0.3, 0.1, 0.1], [-0.2, 0.3, 0.0]]])
    assert len(Surface.of(spoilt, spoilt).points) <= len(cloud)
    assert Surface.of(spoilt, spoilt).distance(np.array([[0.055, 0.0, 0.0]]))[0] == pytest.approx(0.01, abs=0.001)


def test_the_unit_of_the_cloud_does_not_matter():
    cloud, asked = bar_cloud().numpy(), near_bar(count=50)
    expected = Surface.of(cloud, cloud).distance(asked)
    np.testing.assert_allclose(Surface.of(cloud * 1e6, cloud).distance(asked * 1e6) / 1e6, expected, atol=1e-4)


def test_clouds_without_a_surface_are_refused():
    flat = box_cloud((0.09, 0.05, 0.0))
    with pytest.raises(HoldprepError, match="cloud of 3000 points is flat"):
        Surface.of(flat, flat)
    with pytest.raises(HoldprepError, match="has 5 points, 20 are needed"):
        Surface.of(flat[:5], flat[:5])
