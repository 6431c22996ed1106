import pytest
import roma
import torch

from holdprep.hand.lbs import HandPoints, HandState, tip_patches, to_params, to_state
from holdprep.hand.slopes import rotation_slopes

from .synthetic import hand_model, random_state


@pytest.fixture(params=["right", "left"])
def points(request):
    return HandPoints.of(hand_model(request.param), torch.tensor([3, 50, 700]))


def test_regressor_gives_the_joints_at_human_distances():
    rest = HandPoints.of(hand_model(), torch.zeros(0, dtype=torch.long)).rest
    assert torch.allclose(rest[0], torch.tensor([0.096, 0.006, 0.006], dtype=torch.float64), atol=1e-6)
    assert 0.15 < (rest[18] - rest[0]).norm() < 0.2


def test_rotation_jacobian_is_the_derivative_of_a_step(points):
    state = random_state(3)
    ids = torch.tensor([[0, 5, 17, 21, 23], [1, 2, 16, 20, 22], [3, 15, 18, 19, 21]])
    rows = torch.arange(3)[:, None]

    def moved(rotation):
        return points.pose(state.step(torch.zeros(3, 3).double(), rotation, torch.zeros(10).double())).points[rows, ids]

    zero = torch.full((3, 16, 3), 1e-9, dtype=torch.float64)
    full = torch.autograd.functional.jacobian(moved, zero)
    expected = torch.stack([full[t, :, :, t] for t in range(3)])
    assert (points.rotation_jacobian(points.pose(state), ids) - expected).abs().max() < 1e-7


def test_slopes_are_the_jacobian_along_directions(points):
    """With ids of few and of many points of a frame, joints among them."""
    posed, rng = points.pose(random_state(40)), torch.Generator().manual_seed(0)
    for count in (1, 7, 24):
        ids = torch.rand(40, 24, generator=rng).argsort(dim=1)[:, :count]
        along = torch.randn(40, count, 3, dtype=torch.float64, generator=rng)
        expected = torch.einsum("tqa,tqaji->tqji", along, points.rotation_jacobian(posed, ids))
        assert torch.allclose(rotation_slopes(points, posed, ids, along), expected, atol=1e-14)
    assert rotation_slopes(points, posed, ids[:, :0], along[:, :0]).shape == (40, 0, 16, 3)


def test_root_jacobian_is_the_first_bones_part(points):
    posed = points.pose(random_state(3))
    ids = torch.tensor([[0, 5, 17, 21, 23], [1, 2, 16, 20, 22], [3, 15, 18, 19, 21]])
    assert torch.allclose(points.root_jacobian(posed, ids), points.rotation_jacobian(posed, ids)[..., 0, :], atol=1e-12)


def test_shape_jacobian_is_autograds(points):
    state = random_state(2)
    ids = torch.arange(24).expand(2, 24)

    def shaped(betas):
        return points.pose(HandState(state.rotations, betas, state.transl)).points

    expected = torch.autograd.functional.jacobian(shaped, state.betas)
    assert (points.shape_jacobian(points.pose(state), ids) - expected).abs().max() < 1e-9


def test_global_rotation_is_about_the_wrist_and_params_round_trip(points):
    model = hand_model()
    state = random_state(4)
    rotation = torch.cat([torch.ones(4, 1, 3), torch.zeros(4, 15, 3)], dim=1).double()
    rotated = state.step(torch.zeros(4, 3).double(), rotation, torch.zeros(10).double())
    assert torch.allclose(points.pose(rotated).points[:, 0], points.pose(state).points[:, 0])
    back = to_state(model, to_params(model, state))
    assert torch.allclose(back.rotations, state.rotations, atol=1e-9)


def test_points_follow_a_rigid_motion(points):
    state = random_state(2)
    R = roma.rotvec_to_rotmat(torch.tensor([0.3, -1.0, 0.2], dtype=torch.float64))
    still = points.pose(state).points
    rotations = state.rotations.clone()
    rotations[:, 0] = R @ rotations[:, 0]
    moved = points.pose(HandState(rotations, state.betas, state.transl)).points
    wrist = still[:, :1]
    assert torch.allclose(moved, (still - wrist) @ R.T + wrist, atol=1e-12)


def test_tip_patches_hold_the_tips():
    patches = tip_patches(hand_model(), 10)
    assert patches.shape == (5, 10)
    assert patches[:, 0].tolist() == [744, 320, 443, 554, 671]
