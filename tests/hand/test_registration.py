"""Registration against exact truth: shape, pose and place come back, from meshes and from keypoints."""

import numpy as np
import pytest
import roma
import torch

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import pinhole_K, project
from holdprep.hand import lbs, registration
from holdprep.hand.model import SIDES, HandModel, ManoParams, load_hand_model

FRAMES = 12


@pytest.fixture(scope="module", params=SIDES)
def model(request: pytest.FixtureRequest) -> HandModel:
    return load_hand_model(request.param, dtype=torch.float64)


def truth(model: HandModel, frames: int = FRAMES) -> ManoParams:
    """Any global rotation, bent fingers, in front of the camera."""
    g = torch.Generator().manual_seed(1)
    root = roma.rotmat_to_rotvec(roma.random_rotmat(frames, dtype=torch.float64))
    pose = 0.06 * torch.randn(frames, 15, 3, generator=g, dtype=torch.float64)
    sign = 1.0 if model.side == "right" else -1.0
    pose[:, :12, 2] += sign * 0.4 * torch.rand(frames, 12, generator=g, dtype=torch.float64)
    place = torch.tensor([0.0, 0.02, 0.6]).double() + 0.05 * torch.randn(frames, 3, generator=g, dtype=torch.float64)
    betas = 0.7 * torch.randn(10, generator=g, dtype=torch.float64)
    return ManoParams(root, pose.flatten(1), betas, place)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_jacobians_equal_autograd(model: HandModel):
    points = lbs.HandPoints.of(model, torch.arange(778))
    state = lbs.to_state(model, truth(model, 2))
    ids = torch.tensor([[0, 5, 17, 20, 100, 500], [3, 9, 16, 19, 42, 798]])

    def moved(transl, turns, betas):
        return points.pose(state.step(transl, turns, betas)).points.gather(1, ids[..., None].expand(-1, -1, 3))

    zeros = (torch.zeros(2, 3).double(), torch.zeros(2, 16, 3).double(), torch.zeros(10).double())
    by = torch.autograd.functional.jacobian(moved, zeros)
    posed = points.pose(state)
    turns = torch.stack([by[1][t, :, :, t] for t in range(2)])
    torch.testing.assert_close(points.rotation_jacobian(posed, ids), turns, atol=1e-9, rtol=0)
    torch.testing.assert_close(points.shape_jacobian(posed, ids), by[2], atol=1e-9, rtol=0)


def test_exact_vertices_are_met_exactly(model: HandModel):
    p = truth(model)
    target = lbs.forward(model, p).vertices
    target[3] = float("nan")
    found = registration.register_vertices(model, target)
    assert found.is_valid.tolist() == [t != 3 for t in range(FRAMES)]
    assert torch.isnan(found.params.hand_pose[3]).all()
    assert float(found.error_m[found.is_valid].max()) < 1e-6
    np.testing.assert_allclose(found.params.betas, p.betas, atol=0.02)
    assert found.history[-1]["total"] <= found.history[0]["total"]


def test_noisy_vertices_share_one_shape(model: HandModel):
    p = truth(model)
    exact = lbs.forward(model, p).vertices
    found = registration.register_vertices(model, exact + 2e-3 * torch.randn(exact.shape, dtype=torch.float64))
    error = (lbs.forward(model, found.params).vertices - exact).norm(dim=-1).mean()
    assert float(error) < 0.5e-3  # far below the 2 mm of noise on each vertex
    assert found.params.betas.shape == (10,)


def test_a_shape_a_frame_is_possible(model: HandModel):
    p = truth(model, 3)
    betas = torch.stack([p.betas, -p.betas, 0 * p.betas])
    target = torch.cat(
        [
            lbs.forward(model, ManoParams(p.global_orient[t : t + 1], p.hand_pose[t : t + 1], betas[t], p.transl[t : t + 1])).vertices
            for t in range(3)
        ]
    )
    found = registration.register_vertices(model, target, shared_shape=False)
    assert found.params.betas.shape == (3, 10)
    assert float(found.error_m.max()) < 1e-5


def test_keypoints_from_any_rotation(model: HandModel):
    p = truth(model)
    mesh = lbs.forward(model, p)
    K = torch.as_tensor(pinhole_K(900.0, 1280, 720))
    j2d = project(mesh.joints, K) + 3 * torch.randn(FRAMES, 21, 2, dtype=torch.float64)
    j3d = mesh.joints - mesh.joints[:, :1] + 8e-3 * torch.randn(FRAMES, 21, 3, dtype=torch.float64)
    j2d[2] = float("nan")
    found = registration.register_keypoints(model, j3d_m=j3d, j2d_px=j2d, K=K)
    assert not found.is_valid[2]
    ours = lbs.forward(model, found.params).joints
    kept = found.is_valid
    relative = (ours - ours[:, :1] - mesh.joints + mesh.joints[:, :1])[kept].norm(dim=-1).mean()
    assert float(relative) < 10e-3  # under the 3D noise's 13 mm mean length
    assert float((project(ours, K) - project(mesh.joints, K))[kept].norm(dim=-1).median()) < 4
    assert float((ours - mesh.joints)[kept][..., 2].abs().median()) < 0.05


def test_keypoints_in_2d_alone_and_in_3d_alone(model: HandModel):
    p = truth(model)
    mesh = lbs.forward(model, p)
    K = torch.as_tensor(pinhole_K(900.0, 1280, 720))
    flat = registration.register_keypoints(model, j2d_px=project(mesh.joints, K), K=K)
    assert float((project(lbs.forward(model, flat.params).joints, K) - project(mesh.joints, K)).norm(dim=-1).median()) < 3
    deep = registration.register_keypoints(model, j3d_m=mesh.joints - mesh.joints[:, :1])
    joints = lbs.forward(model, deep.params).joints
    assert float((joints - joints[:, :1] - (mesh.joints - mesh.joints[:, :1])).norm(dim=-1).mean()) < 3e-3


def test_measured_length_sets_the_shape(model: HandModel):
    p = truth(model)
    mesh = lbs.forward(model, p)
    found = registration.register_keypoints(model, j3d_m=mesh.joints - mesh.joints[:, :1], hand_length_m=0.190)
    joints = (model.J_regressor @ (model.v_template + model.shapedirs @ found.params.betas))[[0, 4, 5, 6]]
    tip = (model.v_template + model.shapedirs @ found.params.betas)[443]
    chain = torch.cat([joints, tip[None]])
    assert float((chain[1:] - chain[:-1]).norm(dim=1).sum()) == pytest.approx(0.190, abs=0.003)


def test_nothing_to_fit_is_said(model: HandModel):
    with pytest.raises(HoldprepError, match="none of 4 frames"):
        registration.register_vertices(model, torch.full((4, 778, 3), float("nan")))
    with pytest.raises(HoldprepError, match=r"\(4, 77, 3\)"):
        registration.register_vertices(model, torch.zeros(4, 77, 3))
