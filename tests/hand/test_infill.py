"""Gaps are filled from their neighbours, outliers found, good frames left where they are."""

import pytest
import roma
import torch

from holdprep.errors import HoldprepError
from holdprep.hand import infill
from holdprep.hand.model import ManoParams, load_hand_model


def turning(frames: int) -> ManoParams:
    t = torch.arange(frames, dtype=torch.float64)
    zero = torch.zeros_like(t)
    return ManoParams(
        torch.stack([0.1 * t, zero, zero], dim=1),
        torch.zeros(frames, 45).double(),
        torch.zeros(10).double(),
        torch.stack([t, 2 * t, zero], dim=1),
    )


def test_gaps_and_ends():
    p = turning(10)
    valid = torch.tensor([0, 0, 1, 1, 0, 0, 0, 1, 0, 0]).bool()
    broken = ManoParams(
        *(torch.where(valid[:, None], x, float("nan")) if x.ndim == 2 else x for x in (p.global_orient, p.hand_pose, p.betas, p.transl))
    )
    filled = infill.infill(broken, valid)
    expected = torch.arange(10).clamp(2, 7).double()
    turned = roma.rotvec_geodesic_distance(filled.global_orient, p.global_orient[expected.long()])
    torch.testing.assert_close(turned, torch.zeros(10).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(filled.transl[:, 0], expected)
    torch.testing.assert_close(filled.transl[valid], p.transl[valid], atol=0, rtol=0)


def test_no_valid_frame_is_an_error():
    with pytest.raises(HoldprepError, match="none of 4 frames"):
        infill.infill(turning(4), torch.zeros(4).bool())


@pytest.mark.parametrize("kind", ["error", "motion"])
def test_outliers(kind: str):
    model = load_hand_model("right", dtype=torch.float64)
    p = turning(30)
    transl = 0.002 * p.transl
    error = 1e-3 + 1e-4 * torch.rand(30, generator=torch.Generator().manual_seed(0)).double()
    if kind == "error":
        error[12] = 0.05
    else:
        transl[12] += 0.4
    found = infill.outliers(model, ManoParams(p.global_orient, p.hand_pose, p.betas, transl), error, torch.ones(30).bool())
    assert found[12]
    assert found.sum() <= 3  # a jump may take its neighbours with it


def test_an_even_sequence_has_no_outliers():
    model = load_hand_model("right", dtype=torch.float64)
    p = turning(30)
    small = ManoParams(p.global_orient, p.hand_pose, p.betas, 0.002 * p.transl)
    assert not infill.outliers(model, small, torch.full((30,), 1e-6).double(), torch.ones(30).bool()).any()
