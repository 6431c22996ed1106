"""Robust losses against their definitions, and their weights against autograd."""

import pytest
import torch

from holdprep.geometry.robust import GemanMcClure, Huber, SmoothNorm, Square


def test_geman_mcclure_is_quadratic_near_zero_and_bounded():
    x = torch.tensor([1e-3, 25.0, 1e6], dtype=torch.float64)
    assert GemanMcClure(25.0).value(x).tolist() == pytest.approx([1e-6, 312.5, 625.0], rel=1e-6)


@pytest.mark.parametrize("loss", [Square(), Huber(5.0), GemanMcClure(5.0), GemanMcClure(25.0), SmoothNorm(1e-3), SmoothNorm(3.0)])
def test_weights_have_the_losses_gradient(loss):
    x = torch.linspace(-60, 60, 24, dtype=torch.float64).reshape(8, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(loss.value(x).sum(), x)
    assert torch.allclose(2 * loss.weight(x) * x, gradient)


def test_smooth_norm_is_the_norm_away_from_zero():
    x = torch.tensor([[0.03, 0.0, 0.04], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert SmoothNorm(1e-3).value(x)[:, 0].tolist() == pytest.approx([0.049, 0.0], abs=1e-4)
