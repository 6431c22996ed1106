"""Infill of gaps from neighbouring frames, detection of outliers, unchanged valid frames."""

import numpy as np
import pytest
import roma
import torch

from holdprep.errors import HoldprepError
from holdprep.hand import infill
from holdprep.hand.model import ManoParams, load_hand_model


def rotating_hand(frames: int) -> ManoParams:
    t = torch.arange(frames, dtype=torch.float64)
    zero = torch.zeros_like(t)
    return ManoParams(
        torch.stack([0.1 * t, zero, zero], dim=1),
        torch.zeros(frames, 45).double(),
        torch.zeros(10).double(),
        torch.stack([t, 2 * t, zero], dim=1),
    )


def test_gaps_and_ends():
    p = rotating_hand(10)
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


def test_every_joint_is_filled_by_slerp():
    """Each joint rotates uniformly, with its own axis and rate: SLERP at the centre of the gap reproduces its rotation."""
    g = torch.Generator().manual_seed(0)
    axes = torch.nn.functional.normalize(torch.randn(15, 3, generator=g, dtype=torch.float64), dim=1)
    rates = torch.linspace(0.02, 0.3, 15, dtype=torch.float64)
    frames = torch.arange(9, dtype=torch.float64)
    start = roma.rotvec_to_rotmat(torch.randn(15, 3, generator=g, dtype=torch.float64))
    truth = roma.rotvec_to_rotmat(frames[:, None, None] * (rates[:, None] * axes)) @ start
    p = rotating_hand(9)
    pose = roma.rotmat_to_rotvec(truth).flatten(1)
    valid = torch.tensor([1, 0, 0, 1, 0, 0, 0, 0, 1]).bool()
    broken = torch.where(valid[:, None], pose, float("nan"))
    filled = infill.infill(ManoParams(p.global_orient, broken, p.betas, p.transl), valid).hand_pose
    np.testing.assert_allclose(roma.rotvec_to_rotmat(filled.reshape(-1, 15, 3)), truth, atol=1e-12)
    assert torch.equal(filled[valid], pose[valid])


def test_one_shape_per_frame_is_filled_with_the_mean_of_the_five_nearest():
    p, valid = rotating_hand(9), torch.tensor([1, 1, 0, 1, 1, 1, 1, 1, 1]).bool()
    betas = torch.where(valid[:, None], torch.arange(9).double()[:, None].expand(9, 10), float("nan"))
    filled = infill.infill(ManoParams(p.global_orient, p.hand_pose, betas, p.transl), valid).betas
    assert filled[2].tolist() == pytest.approx([(0 + 1 + 3 + 4 + 5) / 5] * 10)
    assert torch.equal(filled[valid], betas[valid])


def test_no_valid_frame_is_an_error():
    with pytest.raises(HoldprepError, match="none of 4 frames"):
        infill.infill(rotating_hand(4), torch.zeros(4).bool())


@pytest.mark.parametrize("kind", ["error", "motion", "volume"])
def test_outliers(kind: str):
    model = load_hand_model("right", dtype=torch.float64)
    p = rotating_hand(30)
    transl, betas = 0.002 * p.transl, torch.zeros(30, 10).double()
    error = 1e-3 + 1e-4 * torch.rand(30, generator=torch.Generator().manual_seed(0)).double()
    valid = torch.ones(30).bool()
    valid[20] = False
    if kind == "error":
        error[[12, 20]] = 0.05
    elif kind == "motion":
        transl[12] += 0.4
    else:
        betas[12, 0] = 5.0  # a hand of another size
    found = infill.outliers(model, ManoParams(p.global_orient, p.hand_pose, betas, transl), error, valid)
    assert found[12] and not found[20]  # invalid frames are not outliers
    assert found.sum() <= (3 if kind == "motion" else 1)  # neighbours of a jump may be outliers too


def test_standard_deviations_are_robust_and_z_is_their_number():
    """Errors of median 1 mm and median absolute deviation 0.5 mm: sigma is 1.4826 x 0.5 mm, six of them end at 5.45 mm."""
    model, p = load_hand_model("right", dtype=torch.float64), rotating_hand(17)
    error = 1e-3 * torch.tensor([0.5] * 8 + [1.0] + [1.5] * 4 + [5.40, 5.50, 40, 50]).double()
    still, valid = ManoParams(p.global_orient, p.hand_pose, p.betas, 0 * p.transl), torch.ones(17).bool()
    assert infill.outliers(model, still, error, valid, z=6).nonzero()[:, 0].tolist() == [14, 15, 16]
    assert infill.outliers(model, still, error, valid, z=5.9).nonzero()[:, 0].tolist() == [13, 14, 15, 16]


def test_a_uniform_sequence_has_no_outliers():
    model = load_hand_model("right", dtype=torch.float64)
    p = rotating_hand(30)
    small = ManoParams(p.global_orient, p.hand_pose, p.betas, 0.002 * p.transl)
    assert not infill.outliers(model, small, torch.full((30,), 1e-6).double(), torch.ones(30).bool()).any()
