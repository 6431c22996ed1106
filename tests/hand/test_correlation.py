"""Effective numbers of frames against closed forms: independent errors, shared errors, mixtures."""

import pytest
import roma
import torch

from holdprep.hand.correlation import frames_repeated, in_hand_frame

FRAMES, POINTS = 200, 21
AXIS = torch.tensor([0.0, 0.6, 0.8])


def residual(shared: float, own: float) -> torch.Tensor:
    """Errors (T, Q, 3) with the standard deviations of a part shared by all frames and of an independent part."""
    g = torch.Generator().manual_seed(0)
    return shared * torch.randn(1, POINTS, 3, generator=g) + own * torch.randn(FRAMES, POINTS, 3, generator=g)


def test_independent_errors_give_one():
    assert frames_repeated(residual(0.0, 1.0), torch.ones(FRAMES, POINTS)) == pytest.approx(1.0, abs=0.4)


def test_one_error_in_all_frames_counts_once():
    assert frames_repeated(residual(1.0, 0.0), torch.ones(FRAMES, POINTS)) == pytest.approx(FRAMES, rel=1e-6)


@pytest.mark.parametrize("shared", [0.2, 0.5, 1.0, 2.0])
def test_a_mixture_is_that_of_its_intraclass_correlation(shared: float):
    """1 + (N - 1) r with r the shared part of the variance (Kish); the realised shared part is used, since there is one draw of it."""
    values = residual(shared, 1.0)
    realised = float(residual(shared, 0.0)[0].square().mean())
    r = realised / (realised + 1.0)
    assert frames_repeated(values, torch.ones(FRAMES, POINTS)) == pytest.approx(1 + (FRAMES - 1) * r, rel=0.1)


def test_frames_of_zero_or_small_weight_have_no_effect():
    values = residual(1.0, 0.0)
    weight = torch.ones(FRAMES, POINTS)
    weight[50:] = 0
    assert frames_repeated(values, weight) == pytest.approx(50, rel=1e-6)
    weight[50:] = 1e-3
    assert frames_repeated(values, weight) == pytest.approx((50 + 0.15) ** 2 / (50 + 1.5e-4), rel=1e-3)
    assert frames_repeated(values[:1], torch.ones(1, POINTS)) == 1.0


def test_an_error_fixed_to_the_hand_is_shared_although_the_hand_rotates():
    g = torch.Generator().manual_seed(0)
    rotations = roma.rotvec_to_rotmat(torch.linspace(0, 20, FRAMES)[:, None] * AXIS)
    fixed = torch.randn(1, POINTS, 3, generator=g)
    fixed -= (fixed @ AXIS)[..., None] * AXIS  # across the axis of rotation
    seen = (rotations[:, None] @ fixed[..., None])[..., 0]
    ones = torch.ones(FRAMES, POINTS)
    assert frames_repeated(seen, ones) < 5
    assert frames_repeated(in_hand_frame(seen, rotations), ones) == pytest.approx(FRAMES, rel=1e-3)
