"""Registration against exact truth: shape, pose and position from meshes and from keypoints."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import roma
import torch

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import pinhole_K, project
from holdprep.hand import lbs
from holdprep.hand.model import SIDES, HandModel, ManoParams, load_hand_model
from holdprep.hand.priors import beyond_limits
from holdprep.hand.registration import Options, Registration, register
from holdprep.hand.targets import Targets, check, vertex_trust
from holdprep.hand.terms.base import Noise, Term, linearise
from tests.hand.linear import displaced_by
from tests.hand.memory import LiveTensors

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


def relative(joints: torch.Tensor) -> torch.Tensor:
    return joints - joints[:, :1]


def test_exact_vertices_are_reproduced_exactly(model: HandModel):
    p = truth(model)
    target = lbs.forward(model, p).vertices
    target[3] = float("nan")
    found = register(model, Targets(vertices_m=target))
    assert found.is_valid.tolist() == [t != 3 for t in range(FRAMES)]
    assert torch.isnan(found.params.hand_pose[3]).all()
    assert float(found.error_m[found.is_valid].max()) < 1e-6
    np.testing.assert_allclose(found.params.betas, p.betas, atol=0.02)
    assert found.history[-1]["loss"] <= found.history[0]["loss"]


def test_vertices_from_the_wrist_keep_their_origin(model: HandModel):
    p = truth(model)
    mesh = lbs.forward(model, p)
    wrist = torch.einsum("v,tvc->tc", model.J_regressor[0], mesh.vertices)[:, None]
    found = register(model, Targets(vertices_m=mesh.vertices - wrist, relative=True))
    assert float(found.error_m.max()) < 2e-5
    assert float((lbs.forward(model, found.params).vertices - mesh.vertices + wrist).norm(dim=-1).max()) < 1e-4
    np.testing.assert_allclose(found.params.betas, p.betas, atol=0.05)


def test_noisy_vertices_are_fitted_to_the_noise_floor(model: HandModel):
    """Within 2 % of the linearised estimate on the same noise, and of what that is on average: noise x root of unknowns over measurements."""
    p = truth(model, 60)
    exact = lbs.forward(model, p).vertices
    noise = 1e-3 * torch.randn(exact.shape, dtype=torch.float64)
    found = register(model, Targets(vertices_m=exact + noise))
    error = float((lbs.forward(model, found.params).vertices - exact).square().mean().sqrt())
    floor = float(displaced_by(model, p, noise).square().mean().sqrt())
    assert error == pytest.approx(floor, rel=0.02)
    assert floor == pytest.approx(1e-3 * ((51 * 60 + 10) / exact.numel()) ** 0.5, rel=0.04)  # 3 sigma of 3070 unknowns' squares
    assert found.params.betas.shape == (10,)
    assert float(found.params.betas.norm()) == pytest.approx(float(p.betas.norm()), rel=0.05)
    assert float((model.shapedirs @ (found.params.betas - p.betas)).norm(dim=-1).mean()) < 0.1e-3
    assert found.history[-1]["noise.vertex"] == pytest.approx(1e-3, rel=0.02)


def test_one_shape_per_frame_is_possible(model: HandModel):
    p = truth(model, 3)
    betas = torch.stack([p.betas, -p.betas, 0 * p.betas])
    target = lbs.forward(model, replace(p, betas=betas)).vertices
    found = register(model, Targets(vertices_m=target), Options(shared_shape=False))
    assert found.params.betas.shape == (3, 10)
    assert float(found.error_m.max()) < 1e-5
    np.testing.assert_allclose(found.params.betas, betas, atol=0.05)


def test_robust_loss_ignores_outliers(model: HandModel):
    p = truth(model)
    exact = lbs.forward(model, p).vertices
    target = exact.clone()
    target[:, model.weights[:, 15] > 0.5] += torch.tensor([0.0, 0.05, 0.0]).double()  # outliers: the end of the thumb
    plain = register(model, Targets(vertices_m=target))
    robust = register(model, Targets(vertices_m=target), Options(robust="geman_mcclure"))
    palm = model.weights[:, 0] > 0.9

    def off(found: Registration) -> float:
        return float((lbs.forward(model, found.params).vertices - exact)[:, palm].norm(dim=-1).mean())

    assert off(robust) < 0.2 * off(plain)


def test_smoothness_reduces_noise_and_keeps_exact_targets(model: HandModel):
    t = torch.linspace(0, 1, 30, dtype=torch.float64)[:, None]
    pose = t * torch.full((1, 45), 0.2, dtype=torch.float64)
    p = ManoParams(torch.cat([t, 0 * t, 0 * t], dim=1), pose, torch.zeros(10).double(), torch.cat([0.1 * t, 0 * t, 0.5 + 0 * t], dim=1))
    mesh = lbs.forward(model, p)
    noisy = Targets(j3d_m=relative(mesh.joints) + 0.01 * torch.randn(mesh.joints.shape, dtype=torch.float64), relative=True)
    noisy = replace(noisy, j3d_sigma_m=0.01)

    def error(found: Registration) -> float:
        return float((relative(lbs.forward(model, found.params).joints) - relative(mesh.joints)).norm(dim=-1).mean())

    plain = register(model, noisy)
    smooth = register(model, noisy, Options(smooth=True))
    assert error(smooth) < 0.75 * error(plain)
    shapes = register(model, noisy, Options(smooth=True, shared_shape=False))
    assert error(shapes) < 0.75 * error(plain)
    still = register(model, Targets(vertices_m=mesh.vertices), Options(smooth=True))
    assert float(still.error_m.max()) < 2e-5


def test_hidden_fingers_keep_the_grasp_in_which_they_were_seen(model: HandModel):
    """Two grasps of 15 frames, noisy joints; the index finger and the thumb are not observed in the last 10 frames of each."""
    grasps = truth(model, 2)
    which = torch.arange(30) // 15
    p = replace(truth(model, 30), hand_pose=grasps.hand_pose[which])
    joints = lbs.forward(model, p).joints
    hidden, fingers = torch.arange(30) % 15 >= 5, [1, 2, 3, 17, 13, 14, 15, 16]
    seen = relative(joints) + 0.002 * torch.randn(joints.shape, dtype=torch.float64)
    seen[:, fingers] = torch.where(hidden[:, None, None], torch.nan, seen[:, fingers])

    def error_mm(options: Options) -> torch.Tensor:
        found = lbs.forward(model, register(model, Targets(j3d_m=seen, relative=True), options).params).joints
        return 1e3 * (relative(found) - relative(joints))[:, fingers].norm(dim=-1).mean(dim=1)

    free, steady = error_mm(Options()), error_mm(Options(steady_rad=0.03))
    assert steady[hidden].mean() < 0.55 * free[hidden].mean()
    assert steady[~hidden].mean() < 1.1 * free[~hidden].mean()  # the change of the grasp is not smoothed


def test_an_invented_finger_does_not_move_the_others(model: HandModel):
    """The thumb's last joints 60 mm off in all frames, as sure as the others."""
    joints = relative(lbs.forward(model, truth(model)).joints)
    wrong = joints.clone()
    wrong[:, [14, 15, 16]] += torch.tensor([0.04, 0.02, -0.04])
    others = [k for k in range(21) if k not in (13, 14, 15, 16)]
    found = relative(lbs.forward(model, register(model, Targets(j3d_m=wrong, relative=True)).params).joints)
    off_mm = 1e3 * (found - found[:, others].mean(dim=1, keepdim=True) - joints + joints[:, others].mean(dim=1, keepdim=True)).norm(dim=-1)
    assert float(off_mm[:, others].mean()) < 2.8  # 3.7 with squares


def test_confident_frames_have_more_weight(model: HandModel):
    """Half of the frames have another shape and low confidence: the shared shape is that of the others."""
    mesh = lbs.forward(model, truth(model))
    unsure = torch.arange(FRAMES) % 2 == 1
    wrong = replace(truth(model), betas=truth(model).betas + 2.0)
    target = torch.where(unsure[:, None, None], lbs.forward(model, wrong).vertices, mesh.vertices)
    confidence = torch.where(unsure[:, None], 0.06, 1.0).expand(FRAMES, 21)
    off = [
        float((register(model, targets).params.betas - truth(model).betas).norm())
        for targets in (Targets(target), Targets(target, vertex_trust=vertex_trust(model, confidence)))
    ]
    assert off[1] < 0.2 * off[0]


def test_trust_in_vertices_is_that_of_their_bones(model: HandModel):
    confidence = torch.ones(1, 21)
    confidence[0, [2, 3]] = 0.0  # the index's middle and last joint; its knuckle and tip stay sure
    trust = vertex_trust(model, confidence)[0]
    bones = trust[model.weights.argmax(dim=0)]  # at the vertex that is most the bone's
    expected = torch.ones(16)
    expected[1], expected[2], expected[3] = 0.5, 0.05, 0.5
    np.testing.assert_allclose(bones, expected, atol=0.02)
    assert trust.shape == (778,) and trust.dtype == torch.float32


def test_exact_joints_give_a_plausible_hand(model: HandModel):
    p = truth(model, 30)
    joints = relative(lbs.forward(model, p).joints)
    found = register(model, Targets(j3d_m=joints, relative=True))
    ours = relative(lbs.forward(model, found.params).joints)
    assert float((ours - joints).norm(dim=-1).mean()) < 0.5e-3
    beyond = beyond_limits(model.side, lbs.to_state(model, found.params).rotations)
    assert float(beyond.abs().max()) < np.radians(0.1)


def test_the_noise_of_a_trackers_3d_joints_is_the_stated_one(model: HandModel):
    """3D joints that are 15 % too large, as MediaPipe's are in grasps, with 2D keypoints: less of the error remains in the depth."""
    p = truth(model)
    joints = lbs.forward(model, replace(p, betas=torch.zeros(10).double())).joints
    K = torch.as_tensor(pinhole_K(900.0, 1280, 720))
    j2d_px = project(joints, K) + 3 * torch.randn(FRAMES, 21, 2, dtype=torch.float64)
    given = Targets(j3d_m=1.15 * relative(joints), j2d_px=j2d_px, K=K, relative=True)

    def too_far(targets: Targets) -> float:
        found = lbs.forward(model, register(model, targets).params).joints
        return float((found[..., 2] / joints[..., 2] - 1).mean())

    estimated, stated = too_far(given), too_far(replace(given, j3d_sigma_m=0.03))
    assert estimated > 0.1 and abs(stated) < 0.3 * estimated


def test_keypoints_from_any_rotation(model: HandModel):
    p = truth(model)
    mesh = lbs.forward(model, p)
    K = torch.as_tensor(pinhole_K(900.0, 1280, 720))
    j2d = project(mesh.joints, K) + 3 * torch.randn(FRAMES, 21, 2, dtype=torch.float64)
    j3d = relative(mesh.joints) + 8e-3 * torch.randn(FRAMES, 21, 3, dtype=torch.float64)
    j2d[2], j3d[2] = float("nan"), float("nan")
    j2d[5, 6:9], j3d[5, 6:9] = float("nan"), float("nan")  # a finger that was not seen
    found = register(model, Targets(j3d_m=j3d, j2d_px=j2d, K=K, relative=True, j3d_sigma_m=0.012))
    assert found.is_valid.tolist() == [t != 2 for t in range(FRAMES)]
    ours = lbs.forward(model, found.params).joints
    kept = found.is_valid
    assert float((relative(ours) - relative(mesh.joints))[kept].norm(dim=-1).median()) < 10e-3  # under the 3D noise's 13 mm mean length
    assert float((project(ours, K) - project(mesh.joints, K))[kept].norm(dim=-1).median()) < 4
    assert float((ours - mesh.joints)[kept][..., 2].abs().median()) < 0.05


def test_keypoints_in_2d_alone(model: HandModel):
    mesh = lbs.forward(model, truth(model))
    K = torch.as_tensor(pinhole_K(900.0, 1280, 720))
    flat = register(model, Targets(j2d_px=project(mesh.joints, K), K=K))
    assert float((project(lbs.forward(model, flat.params).joints, K) - project(mesh.joints, K)).norm(dim=-1).median()) < 3


def test_meshes_and_keypoints_together(model: HandModel):
    """A mesh tracker's depth is wrong; keypoints under the true camera determine the position, the mesh the pose."""
    p = truth(model)
    mesh = lbs.forward(model, p)
    K = torch.as_tensor(pinhole_K(900.0, 1280, 720))
    wrist = torch.einsum("v,tvc->tc", model.J_regressor[0], mesh.vertices)[:, None]
    found = register(model, Targets(vertices_m=mesh.vertices - wrist, j2d_px=project(mesh.joints, K), K=K, relative=True))
    assert float((lbs.forward(model, found.params).vertices - mesh.vertices).norm(dim=-1).max()) < 1e-3


def length_mm(model: HandModel, betas: torch.Tensor) -> float:
    """Length along wrist, the middle finger's three joints and its tip in the shaped template, as measured with a ruler."""
    shaped = model.v_template + model.shapedirs @ betas
    chain = torch.cat([model.J_regressor[[0, 4, 5, 6]] @ shaped, shaped[[443]]])
    return 1e3 * sum(float((b - a).norm()) for a, b in pairwise(chain))


@pytest.mark.parametrize("measured_mm", [170.0, 185.0, 196.0])
@pytest.mark.parametrize("kind", ["vertices", "joints"])
def test_measured_length_sets_the_size(model: HandModel, kind: str, measured_mm: float):
    p = truth(model)
    mesh = lbs.forward(model, p)
    given = Targets(vertices_m=mesh.vertices) if kind == "vertices" else Targets(j3d_m=relative(mesh.joints), relative=True)
    found = register(model, given, Options(hand_length_m=measured_mm / 1e3))
    assert length_mm(model, found.params.betas) == pytest.approx(measured_mm, abs=0.3)
    if kind == "vertices":
        K = torch.as_tensor(pinhole_K(900.0, 1280, 720))
        off = project(lbs.forward(model, found.params).joints, K) - project(mesh.joints, K)
        assert float(off.norm(dim=-1).median()) < 2  # the larger hand is farther away and covers the same pixels
    assert f"scaled from the tracker's 181 mm to the measured {measured_mm:.0f} mm" in found.notes[0]


def test_without_a_length_the_size_and_its_source_are_reported(model: HandModel):
    p = truth(model)
    mesh = lbs.forward(model, p)
    tracked = register(model, Targets(j3d_m=relative(mesh.joints), relative=True))
    assert length_mm(model, tracked.params.betas) == pytest.approx(length_mm(model, p.betas), abs=0.1)
    assert "181 mm from wrist to middle fingertip, as given by the tracker" in tracked.notes[0]
    K = torch.as_tensor(pinhole_K(900.0, 1280, 720))
    seen = Targets(j2d_px=project(1.2 * mesh.joints, K), K=K)  # pixels do not determine the size
    guessed = register(model, seen)
    average = length_mm(model, torch.zeros(10).double())
    assert length_mm(model, guessed.params.betas) == pytest.approx(average, rel=0.03)
    assert "as given by an average hand" in guessed.notes[0]
    measured = register(model, seen, Options(hand_length_m=0.2))
    assert length_mm(model, measured.params.betas) == pytest.approx(200, abs=1.0)  # accuracy of a ruler


def test_the_number_of_threads_changes_no_bit(model: HandModel):
    target = lbs.forward(model, truth(model, 40)).vertices
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(register(model, Targets(vertices_m=target + 1e-3 * target.sin()), Options(smooth=True)).params)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(vars(found[0]).values(), vars(other).values(), strict=True))


def test_memory_grows_with_little_more_than_equations():
    """A frame's target (778 x 3 float32) takes 9 kB, a term's equations (61 x 61 float32) 15 kB, their sum (51 x 61 float64) 25 kB,
    its factor as much; its derivatives (61 x 799 x 3) 585 kB.
    """
    model = load_hand_model("right", dtype=torch.float64)
    peaks = []
    for frames in (50, 150):
        target = lbs.forward(model, truth(model, frames)).vertices.float()
        with LiveTensors() as count:
            register(model, Targets(vertices_m=target), Options(max_iterations=1, fingers_apart=False, frames_at_once=8))
        peaks.append(count.peak)
    assert 15e3 < (peaks[1] - peaks[0]) / 100 < 100e3


def test_the_result_is_independent_of_the_chunk_size(model: HandModel):
    """The same result for any number of frames in memory at a time."""
    target = lbs.forward(model, truth(model)).vertices + 1e-3 * torch.randn(FRAMES, 778, 3, dtype=torch.float64)
    points = lbs.HandPoints.of(model, torch.arange(778))
    term = Term("vertex", torch.arange(21, 799), target, torch.ones(FRAMES, 778), Noise(1e-3))
    state = lbs.to_state(model, truth(model))
    whole, parts = (linearise(points, state, [term], chunk)["vertex"] for chunk in (FRAMES, 5))
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b)


def refused(model: HandModel, **targets: torch.Tensor) -> str:
    with pytest.raises(HoldprepError) as error:
        register(model, Targets(**targets))
    assert "\n" not in str(error.value)
    return str(error.value)


KINDS = {"vertices_m": "vertices", "j3d_m": "joints"}


@pytest.mark.parametrize("kind", KINDS)
def test_targets_that_are_not_a_hand_are_refused(model: HandModel, kind: str):
    mesh = lbs.forward(model, truth(model, 4))
    points, what = mesh.vertices if kind == "vertices_m" else mesh.joints, KINDS[kind]
    assert "none of 4 frames has a target" in refused(model, **{kind: torch.full_like(points, torch.nan)})
    assert f"{kind} has shape (4, 7, 3)" in refused(model, **{kind: points[:, :7]})
    assert f"the {what} are a hand of 1" in (message := refused(model, **{kind: 1e3 * points})) and "millimetres? give metres" in message
    assert "check the unit" in refused(model, **{kind: 20 * points})
    flat = points.clone()
    flat[2] = flat[2, 0]
    assert f"in 1 of 4 frames all {what} lie at one point (first: row 2)" in refused(model, **{kind: flat})
    assert f"in 4 of 4 frames all {what} lie at one point" in refused(model, **{kind: points[:, :1].expand_as(points)})


@pytest.mark.parametrize("kind", KINDS)
def test_a_hand_of_the_other_side_is_refused(model: HandModel, kind: str):
    """From vertices always; from joints where the fingers are bent."""
    mesh = lbs.forward(model, truth(model, 30))
    points = mesh.vertices if kind == "vertices_m" else mesh.joints
    other = "left" if model.side == "right" else "right"
    mirrored = points * torch.tensor([-1.0, 1.0, 1.0])
    message = f"in 30 of 30 frames the {model.side} hand's {KINDS[kind]} are a {other} hand's: set hands.which={other}"
    assert message in refused(model, **{kind: mirrored})
    noisy = mirrored + 5e-3 * torch.randn(mirrored.shape, dtype=torch.float64)
    assert f"are a {other} hand's" in refused(model, **{kind: noisy})


@pytest.mark.parametrize("bend_deg", [-30.0, 0.0])
def test_straight_or_hyperextended_fingers_are_not_of_the_other_side(model: HandModel, bend_deg: float):
    """Joints of straight fingers do not determine the side, and end joints may bend backwards under load."""
    pose = -model.hand_mean.reshape(15, 3).clone()
    pose[[2, 5, 8, 11], 2] += np.radians(bend_deg if model.side == "right" else -bend_deg)  # end joints
    pose[[1, 4, 7, 10], 2] += np.radians(10.0 if model.side == "right" else -10.0)
    zero = torch.zeros(8, 3).double()
    joints = lbs.forward(model, ManoParams(zero, pose.flatten().expand(8, 45), torch.zeros(10).double(), zero)).joints
    noisy = joints + 3e-3 * torch.randn(joints.shape, dtype=torch.float64)
    assert check(model, Targets(j3d_m=noisy)).all()


def test_pixels_that_are_not_a_hand_are_refused(model: HandModel):
    K = torch.as_tensor(pinhole_K(900.0, 1280, 720))
    assert "without K" in refused(model, j2d_px=torch.zeros(4, 21, 2))
    assert "no target" in refused(model, K=K)
    shown = project(lbs.forward(model, truth(model, 4)).joints, K)
    assert "none of 4 frames" in refused(model, j2d_px=torch.full_like(shown, torch.nan), K=K)
    shown[1] = shown[1, :1]
    assert "in 1 of 4 frames all keypoints lie within 2.0 px (first: row 1)" in refused(model, j2d_px=shown, K=K)


def test_one_valid_frame_is_enough(model: HandModel):
    vertices = lbs.forward(model, truth(model, 4)).vertices
    vertices[[0, 2, 3]] = float("nan")
    found = register(model, Targets(vertices_m=vertices))
    assert found.is_valid.tolist() == [False, True, False, False]
    assert float(found.error_m[1]) < 1e-5
