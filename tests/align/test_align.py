import csv
from dataclasses import replace

import numpy as np
import pytest
import roma
import torch
from pytorch_lightning.loggers import CSVLogger

from holdprep.align import metrics
from holdprep.align.grasp import static_grasps
from holdprep.align.objective import Objective
from holdprep.align.problem import Refine, Tracks, Weights, outward, prepare
from holdprep.align.scene import Scene, Setup, anchors_of
from holdprep.align.surface import Surface
from holdprep.align.terms import HandTerm, every
from holdprep.align.terms.base import Residuals, forward_jacobian
from holdprep.align.trajectory import Trajectory, information
from holdprep.geometry.cameras import project
from holdprep.geometry.least_squares import Step
from holdprep.hand import lbs
from holdprep.hand.lbs import to_state
from holdprep.optimisation import Training

from .synthetic import BAR_LENGTH_M, BAR_RADIUS_M, align, grasp, tracked

UNIT_M = 0.037
STILL = Refine(rotation=False, pose=False, shape=False)


def all_modes(problem, **kwargs):
    h = align("h", problem, **kwargs)
    o = align("o", problem, initial=h, **kwargs)
    return h, o, align("ho", problem, initial=o, **kwargs)


def miss_mm(alignment, truth, side):
    return 1e3 * (alignment.hands[side].transl - truth[side].transl).norm(dim=1)


@pytest.mark.parametrize("sides", [("right",), ("left",), ("right", "left")])
def test_rigid_grasp_comes_out_metric(sides):
    problem, truth = grasp(sides, frames=50, unit_m=UNIT_M)
    h, o, ho = all_modes(problem)
    assert set(ho.hands) == set(sides)
    for side in sides:
        assert miss_mm(h, truth, side).max() < 0.01
        assert miss_mm(ho, truth, side).median() < 2
    assert o.obj_scale == pytest.approx(UNIT_M, rel=0.01)
    assert ho.obj_scale == pytest.approx(UNIT_M, rel=0.01)
    assert torch.allclose(ho.transl_cam_obj_m, ho.obj_scale * problem.T_cam_obj[:, :3, 3])
    assert ho.metrics["behind_camera_frames"] == 0
    assert ho.metrics["contact.spread_mm"] < 5
    assert ho.metrics["object.diameter_mm"] == pytest.approx(1e3 * np.hypot(2 * BAR_RADIUS_M, BAR_LENGTH_M), rel=0.05)
    assert ho.metrics["contact.gap_mm"] < 1


def test_noisy_keypoints_hardly_change_the_scale():
    problem, _ = grasp(frames=100, noise_px=4.0, unit_m=UNIT_M)
    _, o, ho = all_modes(problem)
    assert o.obj_scale == pytest.approx(UNIT_M, rel=0.015)
    assert ho.metrics["right.reprojection_px"] < 6


def test_auto_rejects_the_rigid_grasp_of_an_object_rotated_in_the_fingers():
    problem, _ = grasp(frames=60, in_hand=True, noise_px=2.0, unit_m=UNIT_M)
    o = align("o", problem, initial=align("h", problem, refine=STILL))
    assert "rigid_grasp" not in o.notes[0]
    assert abs(o.obj_scale - UNIT_M) < 2 * o.obj_scale_stderr


def test_infilled_frames_with_arbitrary_values_have_no_effect():
    problem, _ = grasp(frames=40, noise_px=2.0)
    hand = problem.hands["right"]
    weight, hidden = hand.weight.clone(), torch.tensor([0, 7, 8, 9, 39])
    weight[hidden] = 0.0
    results = []
    for garbage in (float("nan"), 4000.0):
        j2d = hand.j2d_px.clone()
        j2d[hidden] = garbage
        results.append(all_modes(replace(problem, hands={"right": replace(hand, j2d_px=j2d, weight=weight)}))[2])
    assert torch.allclose(results[0].hands["right"].transl, results[1].hands["right"].transl, atol=1e-9)
    assert results[0].obj_scale == pytest.approx(results[1].obj_scale, rel=1e-9)
    assert results[0].metrics["right.frames"] == 35
    assert bool(torch.isfinite(results[0].hands["right"].hand_pose).all())


def test_gaps_are_interpolated_from_neighbouring_frames():
    problem, truth = grasp(frames=30)
    hand = problem.hands["right"]
    weight = hand.weight.clone()
    weight[10:13] = 0.0
    h = align("h", replace(problem, hands={"right": replace(hand, weight=weight)}))
    expected = torch.lerp(truth["right"].transl[9], truth["right"].transl[13], 0.5)
    assert torch.allclose(h.hands["right"].transl[11], expected, atol=1e-5)


def test_frames_without_object_pose_are_not_used():
    problem, _ = grasp(frames=40, noise_px=2.0, unit_m=UNIT_M)
    lost = torch.arange(12, 20)
    weight, T = problem.obj_weight.clone(), problem.T_cam_obj.clone()
    weight[lost] = 0.0
    T[lost, :3, 3] *= 3.0
    _, o, _ = all_modes(replace(problem, obj_weight=weight, T_cam_obj=T))
    assert o.obj_scale == pytest.approx(UNIT_M, rel=0.015)


def test_refinement_corrects_a_wrong_rotation():
    problem, truth = grasp(frames=30)
    hand = problem.hands["right"]
    off = replace(hand.params, global_orient=hand.params.global_orient + torch.tensor([0.15, -0.1, 0.1]).double())
    wrong = replace(problem, hands={"right": replace(hand, params=off)})
    still, free = align("h", wrong, refine=STILL), align("h", wrong, refine=Refine(rotation=True, pose=False))
    assert free.metrics["right.reprojection_px"] < 0.3 * still.metrics["right.reprojection_px"]
    assert miss_mm(free, truth, "right").median() < 0.5 * miss_mm(still, truth, "right").median()


def test_shape_moves_only_when_freed():
    problem, _ = grasp(frames=20, noise_px=1.0)
    hand = problem.hands["right"]
    thin = replace(problem, hands={"right": replace(hand, params=replace(hand.params, betas=torch.full((10,), 0.5).double()))})
    kept = align("h", thin, refine=STILL)
    freed = align("h", thin, refine=Refine(rotation=False, pose=False, shape=True), weights=Weights(shape=0.01))
    assert torch.equal(kept.hands["right"].betas, torch.full((10,), 0.5).double())
    assert freed.losses[-1]["j2d"] < kept.losses[-1]["j2d"]


OPEN = {"pose_smooth": 400.0, "limits": 400.0, "separation": 4e4, "penetration": 4e3, "order": 4e3}
FIXED = Weights(rotation=40.0, pose=40.0, contact=100.0, grasp=3e4, others=OPEN)


def test_loss_never_rises_and_every_term_is_logged(tmp_path):
    problem, _ = grasp(frames=30, noise_px=4.0)
    logger = CSVLogger(str(tmp_path), name="", version="losses")
    h, o, ho = all_modes(problem, training=Training([logger]), weights=FIXED)
    logger.save()
    header, *rows = (tmp_path / "losses" / "metrics.csv").read_text().splitlines()
    assert {"align/h/j2d", "align/h/loss", "align/ho/contact", "align/ho/smooth", "align/o/rigid_grasp.scale"} <= set(header.split(","))
    assert len(rows) >= max(len(h.losses), len(o.losses), len(ho.losses))
    for result in (h, ho):
        loss = [terms["loss"] for terms in result.losses]
        assert loss == sorted(loss, reverse=True)
        assert loss[-1] == pytest.approx(sum(v for k, v in result.losses[-1].items() if k != "loss"))


def test_estimated_weights_are_logged_and_reported(tmp_path):
    """Every term is logged without its weight too, to compare two sequences; an estimator without result logs nothing."""
    problem, _ = grasp(frames=30, noise_px=4.0)
    logger = CSVLogger(str(tmp_path), name="", version="losses")
    h, _, ho = all_modes(problem, training=Training([logger]))
    logger.save()
    rows = list(csv.DictReader((tmp_path / "losses" / "metrics.csv").open()))
    last = [row for row in rows if row["align/ho/loss"]][-1]
    for term in ("rotation", "contact", "grasp"):
        weight = float(last[f"align/ho/weights/{term}"])
        assert weight == pytest.approx(ho.metrics[f"weights.{term}"], rel=1e-6)
        assert weight * float(last[f"align/ho/unweighted/{term}"]) == pytest.approx(float(last[f"align/ho/{term}"]), rel=1e-6)
    assert "weights.rotation" in h.metrics and "weights.contact" not in h.metrics
    assert not any(value in ("inf", "nan") for row in rows for value in row.values())
    assert "align/o/depth_order.scale" not in rows[0]  # without masks there is no order in depth


def test_a_contact_weight_brings_the_hand_to_the_object():
    problem, _ = grasp(frames=30, in_hand=True, noise_px=8.0)
    o = align("o", problem, initial=align("h", problem))
    loose, tight = (align("ho", problem, initial=o, weights=Weights(contact=c)) for c in (1e-3, 1e5))
    assert tight.losses[-1]["contact"] / 1e5 < 0.5 * loose.losses[-1]["contact"] / 1e-3
    assert tight.losses[-1]["j2d"] > loose.losses[-1]["j2d"]
    assert not torch.allclose(tight.hands["right"].transl, loose.hands["right"].transl, atol=1e-4)


def drift_mm(problem, alignment, truth):
    """Distance (mm) of the hand from its true position on the object: mean over frames."""
    model = problem.hands["right"].model
    away = [lbs.forward(model, p).joints.mean(dim=1) for p in (alignment.hands["right"], truth["right"])]
    return 1e3 * float((away[0] - alignment.transl_cam_obj_m - away[1] + 0.037 * problem.T_cam_obj[:, :3, 3]).norm(dim=1).mean())


def test_a_static_hand_keeps_its_position_on_the_object():
    """This reduces the noise of its depth. The weight follows the measured drift, and a hand that moves on the object is not held."""
    problem, truth = grasp(frames=60, noise_px=5.0)
    o = align("o", problem, initial=align("h", problem))
    held, free = (align("ho", problem, initial=o, weights=w) for w in (Weights(), Weights(grasp=0.0)))
    assert "grasp" in held.losses[-1]
    assert drift_mm(problem, held, truth) < 0.7 * drift_mm(problem, free, truth)
    rotated, truth = grasp(frames=60, noise_px=5.0, in_hand=True)
    o = align("o", rotated, initial=align("h", rotated))
    assert align("ho", rotated, initial=o).losses[-1]["grasp"] == 0.0


def objective_of(sides, refine, frames=20):
    """The objective of mode ho near its optimum, with the object's poses and the focal length changed where these are free."""
    problem, _ = grasp(sides, frames=frames, noise_px=5.0)
    ready = prepare(tracked(problem, 20, 1.0), Weights())
    o = align("o", problem, initial=align("h", problem))
    hands = {s: to_state(h.model, o.hands[s]) for s, h in ready.hands.items()}
    grasps = {s: static_grasps(metrics.hand_track(ready, s, x), o.obj_scale) for s, x in hands.items()}
    surface = Surface.of(ready.points_obj.numpy(), outward(ready).numpy())
    measured = {"rotation": 50.0, "pose": 50.0, "contact": 30.0, "grasp": 3e4, "o2d": 2.0, "focal": 40.0}
    trajectory = Trajectory.of(ready)
    if refine.obj_pose:
        g = torch.Generator().manual_seed(5)
        rotvecs, translations = 3e-4 * torch.randn(2, frames, 3, generator=g, dtype=torch.float64)
        trajectory = trajectory.moved(rotvecs, translations / UNIT_M).with_focal(0.01)
    width = 25.0 if refine.obj_pose else None
    setup = Setup.of(ready, hands, surface, float(np.log(o.obj_scale)), 0.01, grasps=grasps, observation_width_px=width)
    log_scale = torch.tensor(np.log(o.obj_scale) + 0.003, dtype=torch.float64)
    return Objective(setup, Weights(), refine, Scene(hands, log_scale, trajectory, anchors_of(grasps) + 0.002), measured)


@pytest.mark.parametrize("refine", [Refine(shape=True), Refine(shape=True, obj_pose=True, focal=True)])
@pytest.mark.parametrize("sides", [("right",), ("left", "right")])
def test_equations_contain_the_gradient_of_the_loss(sides, refine):
    """By scale, focal length, shape, anchors of static hands, and a frame's unknowns: differences of the loss against twice the gradient of
    half the squares. Slopes of the surface are differences on its grid."""
    objective = objective_of(sides, refine)
    systems, known = objective.equations()
    gradient = 2 * (known.gradient + sum(s.shared_gradient for s in systems.values())).numpy()
    still = {group: torch.zeros(20, objective.layout.size(group)).double() for group in systems}
    nothing = torch.zeros(len(gradient)).double()

    def loss(own, shared):
        return objective.evaluate_step(Step(own, shared)).total

    for n, step in enumerate(1e-6 * torch.eye(len(gradient)).double()):
        assert gradient[n] == pytest.approx((loss(still, step) - loss(still, -step)) / 2e-6, rel=5e-3, abs=2e-3)
    for group, system in systems.items():
        for n in (0, 2, 3, system.size - 6, system.size - 5, system.size - 2, system.size - 1):
            move = torch.zeros(20, system.size).double()
            move[7, n] = 1e-6
            differences = (loss(still | {group: move}, nothing) - loss(still | {group: -move}, nothing)) / 2e-6
            assert 2 * float(system.gradient[7, n]) == pytest.approx(differences, rel=5e-3, abs=2e-3)


@pytest.mark.parametrize("name", ["j2d", "grasp"])
@pytest.mark.parametrize("refine", [Refine(shape=True), Refine(rotation=True, pose=False, obj_pose=True, focal=True)])
def test_analytic_jacobians_equal_forward_differentiation(name, refine):
    """Other terms are compared by the gradient above: contact's distance is not differentiable here, priors are exact at their centre
    only.
    """
    objective = objective_of(("right",), refine, frames=12)
    (term,) = [term for term in objective.terms if term.name == name]
    view = objective.at.views["right"]
    own, shared = term.jacobian(view, objective.at.residuals[name, "right"])
    by_own, by_shared = forward_jacobian(lambda moved: term.residuals(moved).value, view)
    torch.testing.assert_close(own, by_own[..., : own.shape[-1]], rtol=1e-6, atol=1e-7)
    if by_own.shape[-1] > own.shape[-1]:
        assert float(by_own[..., own.shape[-1] :].abs().max()) < 1e-9  # the object's pose, on which the term does not depend
    torch.testing.assert_close(shared, by_shared, rtol=1e-6, atol=1e-7)


class MinimalDepth(HandTerm):
    """Minimal example of a term: the hand's centroid at least 0.5 m away. Its Jacobian is by forward differentiation."""

    name = "minimal_depth"

    def residuals(self, view):
        lacking = (0.5 - view.joints[..., 2].mean(dim=1)).clamp_min(0)[:, None, None]
        return Residuals(lacking, lacking.new_full((1,), 1 / len(lacking)))


def test_a_new_term_is_a_class_and_a_weight(monkeypatch):
    problem, _ = grasp(frames=12, noise_px=1.0)
    near = replace(problem, K=problem.K * torch.tensor([[0.5, 0.5, 1], [0.5, 0.5, 1], [1, 1, 1]]).double())  # the hand at half its distance
    monkeypatch.setattr("holdprep.align.objective.every", lambda: (*every(), MinimalDepth))
    free, pushed = (align("h", near, weights=Weights(others={"minimal_depth": w})) for w in (0.0, 1e6))
    depths = [lbs.forward(near.hands["right"].model, x.hands["right"]).joints[..., 2].mean() for x in (free, pushed)]
    assert depths[0] < 0.45 and depths[1] > 0.49
    assert pushed.losses[-1]["minimal_depth"] > 0


def with_sfm_errors(problem, seed=1):
    """Poses with errors drawn from the covariance of the observations."""
    factor = np.linalg.cholesky(np.linalg.inv(information(problem, 25.0).blocks.numpy()))
    off = torch.from_numpy((factor @ np.random.default_rng(seed).normal(size=(problem.num_frames, 6, 1)))[..., 0])
    return replace(problem, T_cam_obj=Trajectory.of(problem).moved(off[:, :3], off[:, 3:]).T_cam_obj)


@pytest.mark.parametrize("sides", [("right",), ("left", "right")])
def test_a_known_hand_corrects_the_objects_poses(sides):
    problem, _ = grasp(sides, frames=50, unit_m=UNIT_M)
    problem = tracked(problem, 20, 1.0)
    given = with_sfm_errors(problem)
    o = align("o", given, initial=align("h", given))
    kept, corrected = (align("ho", given, initial=o, refine=Refine(obj_pose=free)) for free in (False, True))
    off_mm = [1e3 * (a.transl_cam_obj_m - UNIT_M * problem.T_cam_obj[:, :3, 3]).norm(dim=1).median() for a in (kept, corrected)]
    assert off_mm[1] < 0.6 * off_mm[0]
    off_deg = [roma.rotmat_geodesic_distance(a.R_cam_obj, problem.T_cam_obj[:, :3, :3]).rad2deg().median() for a in (kept, corrected)]
    assert off_deg[1] < 1.2 * off_deg[0]
    assert corrected.metrics["object.shifted_mm"] > 0.1
    assert corrected.metrics["object.reprojection_px"] == pytest.approx(kept.metrics["object.reprojection_px"], rel=0.05)
    losses = [terms["o2d"] for terms in corrected.losses]
    assert losses[-1] > 0


def test_poses_of_frames_without_observations_are_kept():
    problem, _ = grasp(frames=30, unit_m=UNIT_M)
    problem = tracked(problem, 20, 1.0)
    elsewhere = problem.tracks.frame != 12
    given = replace(problem, tracks=Tracks(*(getattr(problem.tracks, k)[elsewhere] for k in ("frame", "point", "px"))))
    given = with_sfm_errors(given)
    o = align("o", given, initial=align("h", given))
    ho = align("ho", given, initial=o, refine=Refine(obj_pose=True))
    moved_mm = 1e3 * (ho.transl_cam_obj_m - ho.obj_scale * given.T_cam_obj[:, :3, 3]).norm(dim=1)
    assert moved_mm[12] < 0.02 < moved_mm.median()


@pytest.mark.parametrize("wrong", [1.03, 0.98])
@pytest.mark.parametrize("obj_pose", [False, True])
def test_a_known_hand_corrects_the_focal_length(wrong, obj_pose):
    """The hand's perspective determines the focal length; the object's depth is then correct."""
    problem, _ = grasp(frames=40, unit_m=UNIT_M)
    problem = tracked(problem, 20, 1.0)
    with_focal = Trajectory.of(problem).with_focal(float(np.log(wrong)))
    given = replace(problem, K=with_focal.K(problem.K), T_cam_obj=with_focal.T_cam_obj)
    o = align("o", given, initial=align("h", given))
    ho = align("ho", given, initial=o, refine=Refine(focal=True, obj_pose=obj_pose), weights=Weights(focal=0.0))
    off = float(ho.K[0, 0]) / 700 - 1
    assert abs(off) < 0.4 * abs(wrong - 1)
    assert ho.metrics["focal_change_pct"] == pytest.approx(100 * ((1 + off) / wrong - 1), abs=1e-6)
    far = [a.transl_cam_obj_m[:, 2].mean() / (UNIT_M * problem.T_cam_obj[:, 2, 3].mean()) - 1 for a in (o, ho)]
    assert abs(far[1]) < 0.5 * abs(far[0])
    trusting = align("ho", given, initial=o, refine=Refine(focal=True, obj_pose=obj_pose), weights=Weights(focal=1e9))
    assert float(trusting.K[0, 0]) == pytest.approx(700 * wrong, rel=1e-5)


def test_real_observations_give_the_objects_reprojection():
    problem, _ = grasp(frames=20)
    frame, point = torch.arange(20).repeat_interleave(5), torch.arange(100)
    T = problem.T_cam_obj[frame]
    px = project((T[:, :3, :3] @ problem.points_obj[point][..., None])[..., 0] + T[:, :3, 3], problem.K) + torch.tensor([3.0, 4.0])
    o = align("o", replace(problem, tracks=Tracks(frame, point, px)), initial=align("h", problem, refine=STILL))
    assert o.metrics["object.reprojection_px"] == pytest.approx(5.0)


@pytest.mark.parametrize("unit_m", [1e-6, 1e6])
def test_extreme_units_of_sfm(unit_m):
    problem, _ = grasp(frames=30, unit_m=unit_m)
    assert all_modes(problem)[2].obj_scale == pytest.approx(unit_m, rel=0.01)


def test_the_measured_prior_keeps_noise_out_of_the_depth():
    """With a loose one the hand's rotation follows the noise, and the hand comes nearer than with the true rotation held."""
    problem, truth = grasp(frames=120, noise_px=5.0, seed=4)

    def depth_error(weights: Weights, refine: Refine) -> torch.Tensor:
        return align("h", problem, weights=weights, refine=refine).hands["right"].transl[:, 2] / truth["right"].transl[:, 2] - 1

    held, measured, loose = depth_error(Weights(), STILL), depth_error(Weights(), Refine()), depth_error(Weights(rotation=1.0), Refine())
    assert abs(float((measured - held).median())) < 0.001
    assert measured.std() < 1.1 * held.std()
    assert float((loose - held).abs().median()) > 0.002


def test_curves_have_a_value_for_every_frame_that_knows_one():
    problem, _ = grasp(frames=12, noise_px=2.0)
    hand = problem.hands["right"]
    weight, touching = hand.weight.clone(), torch.ones(12)
    weight[3], touching[8:] = 0.0, 0
    ho = all_modes(replace(problem, hands={"right": replace(hand, weight=weight, contact=touching)}))[2]
    contact = {"contact.gap_mm", "contact.penetration_mm", "contact.tips_mm"}
    assert set(ho.curves) == {"right.reprojection_px", "right.jerk_mm", "object.jerk_mm"} | contact
    known = {name: np.flatnonzero(np.isfinite(curve)).tolist() for name, curve in ho.curves.items()}
    assert known["right.reprojection_px"] == [0, 1, 2, *range(4, 12)]
    assert known["contact.gap_mm"] == [0, 1, 2, 4, 5, 6, 7]
    assert known["object.jerk_mm"] == list(range(9))
    assert ho.metrics["contact.penetration_mm"] == pytest.approx(np.nanmedian(ho.curves["contact.penetration_mm"]))


def test_jerk_of_a_cubic_is_six():
    time = np.arange(8.0)[:, None, None]
    assert metrics.jerk_mm(np.concatenate([time**3, 0 * time, time**2], axis=2) / 1000)[:5] == pytest.approx(6.0)
