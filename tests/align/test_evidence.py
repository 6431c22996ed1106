"""Weights estimated from samples of known variances."""

import numpy as np
import pytest
import torch

from holdprep.align import evidence as ev


def test_keypoint_variance_of_gaussian_residuals():
    g = torch.Generator().manual_seed(0)
    pixels = 4.0 * torch.randn(500, 21, 2, generator=g, dtype=torch.float64)
    weight = torch.ones(500, 21, dtype=torch.float64)
    assert ev.keypoint_variance(pixels, weight, 0.0) == pytest.approx(16.0, rel=0.03)
    assert ev.keypoint_variance(pixels, weight, 0.25 * 500 * 42) == pytest.approx(16.0 / 0.75, rel=0.03)
    weight[:, 5:], pixels[:, 5:] = 0.0, 1e4
    assert ev.keypoint_variance(pixels, weight, 0.0) == pytest.approx(16.0, rel=0.06)
    assert ev.keypoint_variance(0 * pixels, weight[:, :], 0.0) == ev.MIN_NOISE_PX**2


def test_the_share_that_the_data_determine():
    blocks = np.array([np.diag([4.0 + 1.0, 0.0 + 1.0, 1.0 + 1.0])] * 3)
    np.testing.assert_allclose(ev.determined_share(blocks, np.ones(3)), [0.8, 0.0, 0.5], atol=1e-5)


@pytest.mark.parametrize("tau_rad", [0.03, 0.2])
def test_prior_weight_converges_to_the_departures_variance(tau_rad):
    """A linear model, y = x + noise of 0.1 rad: evidence must estimate the variance of x."""
    g = torch.Generator().manual_seed(1)
    y = tau_rad * torch.randn(4000, 45, generator=g, dtype=torch.float64) + 0.1 * torch.randn(4000, 45, generator=g, dtype=torch.float64)
    variance, weight = 25.0, 40.0
    data = variance / (21 * 0.1**2)
    for _ in range(40):
        share = data / (data + weight)
        weight = ev.prior_weight(variance, share * y, share, weight)
    assert (variance / (21 * weight)) ** 0.5 == pytest.approx(tau_rad, rel=0.05)


def test_prior_weight_stays_within_its_range():
    least, most = (25.0 / (21 * tau**2) for tau in reversed(ev.DEPARTURE_RAD))
    assert ev.prior_weight(25.0, torch.zeros(5, 3), 1e-6, 40.0) == pytest.approx(most)
    assert ev.prior_weight(25.0, torch.ones(5, 3), 1.0, 40.0) == pytest.approx(least)
