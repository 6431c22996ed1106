import pytest
import roma
import torch

from holdprep.align import residuals as res
from holdprep.geometry.cameras import linear_translation, projection_jacobian

K = torch.tensor([[700.0, 0, 320], [0, 690, 240], [0, 0, 1]], dtype=torch.float64)


def points(count=7):
    g = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, generator=g, dtype=torch.float64) * 0.1 + torch.tensor([0.0, 0.0, 0.7], dtype=torch.float64)


def test_reprojection_jacobian_is_autograds():
    full = torch.autograd.functional.jacobian(lambda x: res.reprojection(x, K, torch.zeros(7, 2)), points())
    expected = torch.stack([full[i, :, i] for i in range(7)])
    assert torch.allclose(projection_jacobian(points(), K), expected)


def test_reprojection_of_the_target_is_zero():
    pixel = points() @ K.T
    assert res.reprojection(points(), K, pixel[:, :2] / pixel[:, 2:]).abs().max() < 1e-10


def test_too_near_is_zero_beyond_the_threshold():
    assert res.too_near(torch.tensor([-0.1, 0.04, 0.3]), 0.05).tolist() == pytest.approx([0.15, 0.01, 0.0])


def test_signed_gap_derivative_by_log_scale():
    """Of a sphere of radius 0.3 about (0.1, 0, 2) in the unit of SfM."""
    centre, point = torch.tensor([0.1, 0.0, 2.0]).double(), torch.tensor([[0.05, 0.03, 0.9]]).double()

    def gap(log_scale: torch.Tensor) -> torch.Tensor:
        return log_scale.exp() * ((point / log_scale.exp() - centre).norm(dim=-1) - 0.3)

    at = torch.tensor(-0.7).double()
    away = point / at.exp() - centre
    slope = away / away.norm(dim=-1, keepdim=True)
    by_scale = torch.autograd.functional.jacobian(gap, at)
    assert torch.allclose(by_scale, res.signed_gap_by_log_scale(gap(at), slope, point))


def test_signed_gap_derivative_by_the_objects_pose():
    """Of a ball of radius 0.3 off the object's origin, in the unit of SfM, whose scale is 0.5 m."""
    R, centre, t = roma.random_rotmat(dtype=torch.float64), torch.tensor([0.1, 0.0, 0.2]).double(), torch.tensor([0.2, 0.1, 2.0]).double()
    point = torch.tensor([[0.05, 0.03, 0.9]]).double()

    def gap(pose: torch.Tensor) -> torch.Tensor:
        rotated = roma.rotvec_to_rotmat(pose[:3]) @ R
        return 0.5 * (((point / 0.5 - t - pose[3:]) @ rotated - centre).norm(dim=-1) - 0.3)

    away = (point / 0.5 - t) @ R - centre
    slope = (away / away.norm()) @ R.T
    by_pose = torch.autograd.functional.jacobian(gap, torch.zeros(6).double() + 1e-12)
    assert torch.allclose(by_pose, res.signed_gap_by_pose(slope, point, 0.5 * t, torch.full((3,), 0.5).double()), atol=1e-9)


def test_drift_derivative_by_the_objects_pose():
    R, anchor = roma.random_rotmat(1, dtype=torch.float64), torch.tensor([[0.03, -0.02, 0.05]]).double()

    def away(pose: torch.Tensor) -> torch.Tensor:
        return res.drift(torch.zeros(1, 3).double(), roma.rotvec_to_rotmat(pose[:3]) @ R, 0.5 * pose[3:], anchor)

    by_pose = torch.autograd.functional.jacobian(away, torch.zeros(6).double() + 1e-12)
    assert torch.allclose(by_pose, res.drift_by_pose(R, anchor, torch.full((3,), 0.5).double()), atol=1e-9)


def test_drift_derivatives_are_autograds():
    g = torch.Generator().manual_seed(3)
    h, t, anchor = (torch.randn(5, 3, generator=g, dtype=torch.float64) for _ in range(3))
    R = roma.random_rotmat(5, dtype=torch.float64)
    log_scale = torch.tensor(-1.3, dtype=torch.float64)
    by_scale, by_anchor = torch.autograd.functional.jacobian(lambda s, p: res.drift(h, R, s.exp() * t, p), (log_scale, anchor))
    assert torch.allclose(by_scale, -log_scale.exp() * t)
    assert torch.allclose(torch.einsum("fafb->fab", by_anchor), -R)
    assert torch.allclose(res.drift(t + (R @ anchor[..., None])[..., 0], R, t, anchor), torch.zeros(5, 3, dtype=torch.float64), atol=1e-12)


def test_motion_of_uniform_movement():
    moving = torch.arange(4)[:, None, None] * torch.tensor([0.1, 0.0, -0.2])
    assert torch.allclose(res.motion(moving), torch.tensor([0.1, 0.0, -0.2]).expand(3, 1, 3))


def test_linear_translation_is_exact_without_noise_and_ignores_joints_of_zero_weight():
    rest = points(21).expand(3, 21, 3) - torch.tensor([0.0, 0.0, 0.7]).double()
    transl = torch.tensor([[0.0, 0.1, 0.5], [0.2, -0.1, 0.8], [0.0, 0.0, 1.5]], dtype=torch.float64)
    pixel = (rest + transl[:, None]) @ K.T
    target = pixel[..., :2] / pixel[..., 2:]
    target[0, 4] = 1e4
    weight = torch.ones(3, 21, dtype=torch.float64)
    weight[0, 4], weight[2] = 0.0, 0.0
    found = linear_translation(rest, K, target, weight)
    assert torch.allclose(found[:2], transl[:2], atol=1e-9)
    assert bool(found[2].isnan().all())
