"""The outline term on silhouettes of the model: correspondences, ignored edges, effect on registration."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import roma
import torch

from holdprep.geometry.blocks import BlockFactor
from holdprep.geometry.cameras import pinhole_K, project
from holdprep.geometry.normals import vertex_normals
from holdprep.geometry.raster import covered
from holdprep.hand import lbs
from holdprep.hand.joints import WRIST_RING
from holdprep.hand.model import SIDES, HandModel, ManoParams, load_hand_model
from holdprep.hand.outline import MaskEdge, Outlines, arm_pixels
from holdprep.hand.priors import MotionPrior, Smoothness, Steadiness
from holdprep.hand.registration import Options, register
from holdprep.hand.targets import Targets
from holdprep.hand.terms.base import linearise
from holdprep.hand.terms.outline import outline

FRAMES, SIZE = 24, (480, 360)
K = pinhole_K(500.0, *SIZE)


@pytest.fixture(scope="module", params=SIDES)
def model(request: pytest.FixtureRequest) -> HandModel:
    return load_hand_model(request.param, dtype=torch.float64)


def truth(model: HandModel) -> ManoParams:
    """A hand of another size and shape that rotates slowly, palm towards the camera, fingers spread and slightly bent."""
    t = torch.linspace(0, 1, FRAMES, dtype=torch.float64)
    face = roma.rotvec_to_rotmat(torch.tensor([np.pi / 2, 0.0, 0.0], dtype=torch.float64))
    turn = roma.rotvec_to_rotmat(torch.stack([0.3 * t, 0.5 * t - 0.2, 0.4 * t], dim=1))
    root = roma.rotmat_to_rotvec(turn @ face)
    sign = 1.0 if model.side == "right" else -1.0
    pose = torch.zeros(FRAMES, 15, 3, dtype=torch.float64)
    pose[:, :12, 2] = sign * (0.15 * t[:, None] - 0.25)
    betas = torch.tensor([1.0, -0.8, 0.6, 0, 0, 0, 0, 0, 0, 0], dtype=torch.float64)
    place = torch.stack([0.06 * sign + 0 * t, 0.01 * t, 0.5 + 0.05 * t], dim=1)
    return ManoParams(root, pose.flatten(1), betas, place)


def silhouettes(model: HandModel, params: ManoParams) -> np.ndarray:
    vertices = lbs.forward(model, params).vertices.numpy()
    return np.stack([covered(project(v, K), model.faces.numpy(), SIZE) for v in vertices])


def outlines(model: HandModel, masks: np.ndarray, hidden: np.ndarray | None = None) -> Outlines:
    hidden = np.zeros_like(masks) if hidden is None else hidden
    return Outlines([MaskEdge.of(m, h) for m, h in zip(masks, hidden, strict=True)], model.faces.numpy())


def tracked(model: HandModel, seed: int = 0) -> Targets:
    """Keypoints of the true hand with a constant error per bone (6 mm, 5 px), and small independent noise."""
    g = torch.Generator().manual_seed(seed)
    joints = lbs.forward(model, truth(model)).joints
    wrong = 0.006 * torch.randn(1, 21, 3, generator=g, dtype=torch.float64)
    seen = torch.as_tensor(project(joints, torch.as_tensor(K))) + 5 * torch.randn(1, 21, 2, generator=g, dtype=torch.float64)
    seen = seen + torch.randn(seen.shape, generator=g, dtype=torch.float64)
    return Targets(j3d_m=joints - joints[:, :1] + wrong, j2d_px=seen, K=torch.as_tensor(K), relative=True)


def mean_iou(model: HandModel, params: ManoParams, masks: np.ndarray) -> float:
    found = silhouettes(model, params)
    return float(np.mean([(a & b).sum() / (a | b).sum() for a, b in zip(found, masks, strict=True)]))


def test_silhouette_vertices_correspond_to_the_edge_they_lie_on(model: HandModel):
    """Of the true pose, targets lie on the vertices, and normals are the surface's."""
    params = truth(model)
    vertices = lbs.forward(model, params).vertices.numpy()
    found = outlines(model, silhouettes(model, params)).correspond(vertices, K)
    met = found.weight > 0
    assert met.sum(axis=1).min() > 60
    off = ((project(vertices, K) - found.target_px) * found.normal).sum(axis=-1)[met]
    assert np.median(np.abs(off)) < 0.8 and np.quantile(np.abs(off), 0.95) < 2.5
    assert np.median(off) < 0.3  # a coarse mesh's vertices lie inside its edge or on it
    normals = vertex_normals(vertices, model.faces.numpy())[met]
    assert np.median((normals[:, :2] * found.normal[met]).sum(axis=1)) > 0.9
    assert not met[:, list(WRIST_RING)].any()


def test_the_outline_corrects_errors_that_are_the_same_in_all_frames(model: HandModel):
    masks = silhouettes(model, truth(model))
    plain = register(model, tracked(model))
    found = register(model, tracked(model), outlines=outlines(model, masks))
    assert mean_iou(model, found.params, masks) > 0.95 > 0.92 > mean_iou(model, plain.params, masks)
    true = lbs.forward(model, truth(model)).vertices
    off = [(project(lbs.forward(model, r.params).vertices, torch.as_tensor(K)) - project(true, torch.as_tensor(K))) for r in (plain, found)]
    assert float(off[1].norm(dim=-1).mean()) < 0.7 * float(off[0].norm(dim=-1).mean())
    assert float(found.params.betas.abs().max()) < 2.5
    off_weight = register(model, tracked(model), Options(outline_weight=0.0), outlines=outlines(model, masks))
    torch.testing.assert_close(off_weight.params.hand_pose, plain.params.hand_pose)


def test_the_shape_changes_according_to_the_evidence(model: HandModel):
    """The same errors, now independent in each frame: the shape is that of the hand; shared by all frames: it stays near the prior."""
    g = torch.Generator().manual_seed(3)
    joints = lbs.forward(model, truth(model)).joints
    relative = joints - joints[:, :1]
    shared = relative + 0.006 * torch.randn(1, 21, 3, generator=g, dtype=torch.float64)
    own = relative + 0.006 * torch.randn(FRAMES, 21, 3, generator=g, dtype=torch.float64)
    found = {k: register(model, Targets(j3d_m=x, relative=True)) for k, x in (("shared", shared), ("own", own))}
    assert found["shared"].frames_repeated > 0.5 * FRAMES
    assert found["own"].frames_repeated < 0.35 * FRAMES
    assert float(found["shared"].params.betas.abs().max()) < 3


def test_edges_at_occluders_attract_only_from_inside(model: HandModel):
    """A bar occludes the centre of the hand: its edges have no effect. Beside a hand posed too small, its edge attracts the hand."""
    params = truth(model)
    masks = silhouettes(model, params)
    bar = np.zeros_like(masks)
    bar[:, 150:190] = True
    seen = outlines(model, masks & ~bar, bar)
    met = seen.correspond(lbs.forward(model, params).vertices.numpy(), K)
    near_bar = (met.weight > 0) & (np.abs(met.target_px[..., 1] - 170) < 22)
    assert near_bar.sum() <= 0.02 * (met.weight > 0).sum()
    visible = {}
    for name, given in (("keypoints", None), ("outline", seen)):
        found = silhouettes(model, register(model, tracked(model), outlines=given).params)
        visible[name] = np.mean([((a & ~bar[0]) & b).sum() / ((a & ~bar[0]) | b).sum() for a, b in zip(found, masks & ~bar, strict=True)])
    assert visible["outline"] > 0.92
    assert 1 - visible["outline"] < 0.75 * (1 - visible["keypoints"])
    smaller = replace(params, transl=params.transl * 1.08)
    pulled = seen.correspond(lbs.forward(model, smaller).vertices.numpy(), K)
    off = ((project(lbs.forward(model, smaller).vertices.numpy(), K) - pulled.target_px) * pulled.normal).sum(axis=-1)
    assert np.median(off[pulled.weight > 0]) < -2  # outwards


def forearm(mask: np.ndarray, px: np.ndarray) -> np.ndarray:
    """(H, W) bool: a limb of the wrist's breadth from the wrist to the image's border, away from the hand."""
    ring = px[list(WRIST_RING)]
    wrist, away = ring.mean(axis=0), ring.mean(axis=0) - px.mean(axis=0)
    away /= np.linalg.norm(away)
    half = np.abs((ring - wrist) @ [-away[1], away[0]]).max()
    across = half * np.array([-away[1], away[0]])
    corners = np.stack([wrist + across, wrist - across, wrist - across + 400 * away, wrist + across + 400 * away])
    limb = np.zeros(mask.shape, np.uint8)
    cv2.fillConvexPoly(limb, corners.round().astype(np.int32), 1)
    return (limb > 0) & ~mask


def test_the_arm_is_cut_at_the_wrist(model: HandModel):
    vertices = lbs.forward(model, truth(model)).vertices.numpy()
    for mask, v in zip(silhouettes(model, truth(model))[::6], vertices[::6], strict=True):
        px = project(v, K)
        arm = forearm(mask, px)
        found = arm_pixels(mask | arm, px, model.faces.numpy())
        assert (found & arm).sum() > 0.9 * arm.sum()
        assert not (found & mask).any()
        assert not arm_pixels(mask, px, model.faces.numpy()).any()
        grown = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0  # an enlarged mask is not an arm
        assert arm_pixels(grown, px, model.faces.numpy()).sum() < 0.25 * (grown & ~mask).sum()


def test_agreement_excludes_arm_and_occluded_parts(model: HandModel):
    params = truth(model)
    vertices, masks = lbs.forward(model, params).vertices.numpy(), silhouettes(model, params)
    arms = np.stack([forearm(m, project(v, K)) for m, v in zip(masks, vertices, strict=True)])
    iou, explained = outlines(model, masks | arms).agreement(vertices, K)
    assert iou.min() > 0.93 and explained.min() > 0.9
    away = vertices + np.array([0.06, 0.0, 0.0])
    iou, explained = outlines(model, masks).agreement(away, K)
    assert iou.max() < 0.6
    everything = np.ones_like(masks)
    iou, _ = outlines(model, masks, everything).agreement(vertices, K)
    assert np.isnan(iou).all()
    gone = vertices.copy()
    gone[3] = np.nan
    iou, _ = outlines(model, masks).agreement(gone, K)
    assert np.isnan(iou[3]) and np.isfinite(np.delete(iou, 3)).all()


def test_line_distances_have_the_derivatives_of_differences(model: HandModel):
    """Gauss-Newton's gradient of the term against central differences, without blend shapes, which are a few percent."""
    params = truth(model)
    state = lbs.to_state(model, replace(params, transl=params.transl + 0.004))
    points = lbs.HandPoints.of(model, torch.arange(778))
    term = outline(model, state, outlines(model, silhouettes(model, params)), torch.as_tensor(K), 1.0)
    term = replace(term, dtype=torch.float64, weight=(term.weight > 0).double())
    gradient = linearise(points, state, [term], FRAMES)["outline"][1]
    rows = slice(0, FRAMES)

    def value(moved: lbs.HandState) -> torch.Tensor:
        return term.losses(term.residual(points.pose(moved), rows), rows)[0]

    zero, step = torch.zeros(FRAMES, 16, 3, dtype=torch.float64), 1e-6
    for axis in range(3):
        shift = torch.zeros(FRAMES, 3, dtype=torch.float64)
        shift[:, axis] = step
        slope = (value(state.step(shift, zero, 0 * params.betas)) - value(state.step(-shift, zero, 0 * params.betas))) / (2 * step)
        torch.testing.assert_close(gradient[:, 48 + axis], slope, rtol=1e-4, atol=1e-3)
    for b in range(10):
        more = torch.zeros(10, dtype=torch.float64)
        more[b] = 1e-5
        still = torch.zeros(FRAMES, 3, dtype=torch.float64)
        slope = (value(state.step(still, zero, more)) - value(state.step(still, zero, -more))) / 2e-5
        torch.testing.assert_close(gradient[:, 51 + b], slope, rtol=1e-4, atol=1e-3)


FRAMES_WITH_GAP = torch.tensor([0, 1, 2, 5, 6])


def _accelerations(state: lbs.HandState) -> torch.Tensor:
    """In standard deviations of `Smoothness` with 0.1 rad and 0.01 m."""
    gap = FRAMES_WITH_GAP.diff()[:, None, None]
    change = roma.rotmat_to_rotvec(state.rotations[1:] @ state.rotations[:-1].mT)
    velocity = torch.cat([change, state.transl.diff(dim=0)[:, None]], dim=1) / gap
    sigma = torch.tensor([0.1] * 16 + [0.01], dtype=torch.float64)[:, None] * ((gap[1:] + gap[:-1]) / 2).sqrt()
    return velocity.diff(dim=0) / sigma


def _velocities(state: lbs.HandState) -> torch.Tensor:
    """In standard deviations of `Steadiness` with 0.1 rad."""
    change = roma.rotmat_to_rotvec(state.rotations[1:, 1:] @ state.rotations[:-1, 1:].mT)
    return change / (0.1 * FRAMES_WITH_GAP.diff().sqrt()[:, None, None])


@pytest.mark.parametrize(
    ("prior", "expected", "lengths"),
    [
        (Smoothness(torch.full((16,), 0.1, dtype=torch.float64), 0.01, FRAMES_WITH_GAP), _accelerations, [5, 4, 3]),
        (Steadiness(0.1, FRAMES_WITH_GAP), _velocities, [5, 4]),
    ],
)
def test_motion_priors_equal_autograd(model: HandModel, prior: MotionPrior, expected, lengths: list[int]):
    """Loss, gradient and robust Gauss-Newton matrix of both priors on motion, with a gap in the frames."""
    g = torch.Generator().manual_seed(0)
    state = lbs.to_state(model, truth(model)).rows(slice(5))
    noise = 0.2 * torch.randn(5, 16, 3, generator=g, dtype=torch.float64)
    state = state.step(0.01 * torch.randn(5, 3, generator=g, dtype=torch.float64), noise, torch.zeros(10, dtype=torch.float64))
    parents = lbs.HandPoints.of(model, torch.zeros(0, dtype=torch.long))
    turned = parents.frames(parents.pose(state))
    residual, by = prior.residuals(state, turned)
    blocks, gradient = prior.equations(residual, by)

    def of(step: torch.Tensor) -> torch.Tensor:  # (5, 17, 3), about the camera's axes
        local = (turned.mT @ step[:, :16, :, None])[..., 0]
        square = expected(state.step(step[:, 16], local, torch.zeros(10, dtype=torch.float64))).square().sum(dim=-1)
        return 0.5 * (prior.NU + 3) * torch.log1p(square / prior.NU).sum()

    zero = torch.zeros(5, 17, 3, dtype=torch.float64)
    assert prior.loss(residual) == pytest.approx(float(of(zero)))
    torch.testing.assert_close(gradient, torch.autograd.functional.jacobian(of, zero), rtol=1e-6, atol=1e-7)
    assert [len(b) for b in blocks] == lengths
    torch.testing.assert_close(blocks[0], blocks[0].mT)


def test_two_coupled_neighbours_are_solved_as_the_dense_matrix():
    g = np.random.default_rng(0)
    T, n = 6, 3
    dense = np.zeros((T * n, T * n))
    diagonal, one, two = g.normal(size=(T, n, n)), g.normal(size=(T - 1, n, n)), g.normal(size=(T - 2, n, n))
    diagonal = diagonal @ diagonal.transpose(0, 2, 1) + 12 * np.eye(n)
    for apart, blocks in enumerate((diagonal, one, two)):
        for t, block in enumerate(blocks):
            dense[(t + apart) * n : (t + apart + 1) * n, t * n : (t + 1) * n] = block
    full = np.tril(dense, -1) + np.tril(dense, -1).T + np.diag(np.diag(dense))
    right = g.normal(size=(T, n, 2))
    found = BlockFactor(*(torch.from_numpy(diagonal), [torch.from_numpy(one), torch.from_numpy(two)])).solve(torch.from_numpy(right))
    np.testing.assert_allclose(found.numpy().reshape(-1, 2), np.linalg.solve(full, right.reshape(-1, 2)), rtol=1e-9)
