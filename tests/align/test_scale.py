from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.stats import t as student_t

from holdprep.align import metrics, scale
from holdprep.align.contact import contact, touch_misfit
from holdprep.align.grasp import rigid_grasp, static_stretches
from holdprep.align.problem import Weights, outward, prepare
from holdprep.align.surface import Surface
from holdprep.align.tracks import HandTrack, ScaleEstimate, parabola_maximum
from holdprep.errors import HoldprepError
from holdprep.hand.lbs import to_state

from .synthetic import grasp

UNIT_M = 0.037


def tracks(noise_m=0.0, **kwargs):
    """True hands, optionally displaced along the ray by `noise_m` in every frame."""
    problem, truth = grasp(unit_m=UNIT_M, **kwargs)
    problem = prepare(problem, Weights())
    rng = np.random.default_rng(3)
    result = {}
    for side, hand in problem.hands.items():
        track = metrics.hand_track(problem, side, to_state(hand.model, truth[side]))
        ray = track.joints_m.mean(axis=1)
        shift = noise_m * rng.normal(size=(len(ray), 1)) * ray / np.linalg.norm(ray, axis=1, keepdims=True)
        result[side] = replace(track, joints_m=track.joints_m + shift[:, None], tips_m=track.tips_m + shift[:, None, None])
    return result, Surface.of(problem.points_obj.numpy(), outward(problem).numpy())


def part(track, rows):
    return HandTrack(**{name: value[rows] for name, value in vars(track).items()})


def all_estimates(found, surface):
    return {name: scale.estimate(name, found, surface) for name in scale.ESTIMATORS}


def test_centroid_is_the_minimum_of_the_l1_objective():
    found, surface = tracks(noise_m=0.01)
    points, track = surface.points, found["right"]
    hand, obj = track.joints_m.mean(axis=1), track.R_cam_obj @ points.mean(axis=0) + track.t_cam_obj_sfm
    grid = np.linspace(0.03, 0.045, 30001)
    loss = [np.abs(hand - s * obj).sum() for s in grid]
    assert scale.centroid(found, points).scale == pytest.approx(grid[int(np.argmin(loss))], abs=1e-6)


@pytest.mark.parametrize("sides", [("right",), ("left",), ("right", "left")])
def test_rigid_grasp_estimates_the_scale_and_accepts_it(sides):
    found, _ = tracks(noise_m=0.018, sides=sides, frames=200)
    result = rigid_grasp(found)
    assert result.scale == pytest.approx(UNIT_M, rel=0.01)
    assert result.rejection == ""
    assert result.stderr_ratio < 0.02


def test_rigid_grasp_is_robust_to_outlier_frames():
    found, _ = tracks(frames=100)
    track = found["right"]
    joints = track.joints_m.copy()
    joints[10:20] *= 1.6
    assert rigid_grasp({"right": replace(track, joints_m=joints)}).scale == pytest.approx(UNIT_M, rel=2e-3)


def test_rigid_grasp_has_no_static_stretch_where_the_object_rotates_in_the_hand():
    found, surface = tracks(in_hand=True, frames=60)
    estimates = all_estimates(found, surface)
    assert "is never static" in estimates["rigid_grasp"].rejection
    chosen, _ = scale.combine(estimates)
    assert chosen.name == "contact"
    assert any("rigid_grasp rejected" in note for note in chosen.notes)
    assert chosen.scale == pytest.approx(UNIT_M, rel=0.02)
    assert abs(chosen.scale / UNIT_M - 1) < 2 * chosen.stderr_ratio


def test_a_new_grip_starts_a_new_stretch():
    found, _ = tracks(noise_m=0.005, frames=120)
    track = found["right"]
    rotation = Rotation.from_rotvec([0.0, 0, 0.6]).as_matrix()
    to_other = np.einsum("fab,bc,fdc->fad", track.R_cam_obj, rotation, track.R_cam_obj)[60:]
    centre = UNIT_M * track.t_cam_obj_sfm[60:, None]
    joints, R = track.joints_m.copy(), track.R_cam_hand.copy()
    joints[60:] = np.einsum("fab,fjb->fja", to_other, joints[60:] - centre) + centre
    R[60:] = to_other @ R[60:]
    regripped = replace(track, joints_m=joints, R_cam_hand=R)
    stretches = static_stretches(regripped)
    assert len(stretches) == 2
    assert stretches[0][-1] < 60 <= stretches[1][0]
    assert sum(len(rows) for rows in stretches) > 100
    result = rigid_grasp({"right": regripped})
    assert result.scale == pytest.approx(UNIT_M, rel=0.01)
    assert result.rejection == ""


def test_a_slow_slip_is_measured_and_increases_the_standard_error():
    """The hand rotates on the object by 5 % of the object's rotation."""
    found, _ = tracks(frames=60)
    track = found["right"]
    held = rigid_grasp(found)
    assert held.figures["slip_pct"] < 0.1
    vectors = Rotation.from_matrix(track.R_cam_obj @ track.R_cam_obj[0].T).as_rotvec()
    slipped = replace(track, R_cam_hand=Rotation.from_rotvec(0.05 * vectors).as_matrix() @ track.R_cam_hand)
    result = rigid_grasp({"right": slipped})
    assert result.figures["slip_pct"] == pytest.approx(5.0, abs=1.0)
    assert result.stderr_ratio > held.stderr_ratio + 0.0005


def test_a_gap_of_frames_ends_a_static_stretch():
    found, _ = tracks(frames=60)
    rows = np.r_[0:20, 40:60]
    assert [len(r) for r in static_stretches(part(found["right"], rows))] == [20, 20]


def test_an_object_with_little_rotation_gives_no_rigid_scale():
    found, _ = tracks(noise_m=0.03, frames=100)
    assert "hardly rotates" in rigid_grasp({"right": part(found["right"], slice(0, 10))}).rejection


@pytest.mark.parametrize("in_hand", [False, True])
def test_contact_meets_the_surface(in_hand):
    found, surface = tracks(in_hand=in_hand)
    result = contact(found, surface, around=UNIT_M * 1.12)
    assert result.scale == pytest.approx(UNIT_M, rel=0.01)
    assert result.figures["touch_mm"] < 1.5
    assert result.rejection == ""


def test_contact_is_not_biased_by_noisy_depth():
    found, surface = tracks(noise_m=0.015, in_hand=True, frames=120)
    noisy = {"right": replace(found["right"], depth_ratio=np.full(120, 0.015 / 0.6))}
    result = contact(noisy, surface, around=UNIT_M * 1.1)
    assert result.scale == pytest.approx(UNIT_M, rel=0.015)
    assert abs(result.scale / UNIT_M - 1) < 2 * result.stderr_ratio


def test_contact_outside_its_range_is_rejected():
    found, surface = tracks()
    assert "end of the range" in contact(found, surface, around=UNIT_M * 2).rejection


def test_touch_misfit_against_values_computed_by_hand():
    sigma, known = 0.003, np.ones(5, bool)
    assert touch_misfit(np.array([0.0, 0, 0, 0.05, 0.05]), known) == 0.0
    assert touch_misfit(np.array([sigma, 0, 0, 1.0, 1.0]), known) == pytest.approx(0.5)
    assert touch_misfit(np.array([-sigma, 0, 0, 1.0, 1.0]), known) == pytest.approx(1.0)
    assert touch_misfit(np.array([-sigma, -sigma, -sigma, -sigma, 1.0]), known) == pytest.approx(1.5 + 2.0)
    assert touch_misfit(np.array([1.0, 1.0, 1.0, 1.0, 1.0]), known) == pytest.approx(3 * 8.0)


def test_tips_next_to_a_guessed_surface_are_missed_from_inside_only():
    sigma, one = 0.003, np.array([True, True, False, False, False])
    assert touch_misfit(np.array([0.0, 0, 1.0, 1.0, 1.0]), one) == 0.0
    assert touch_misfit(np.array([sigma, 0, -sigma, 1.0, 1.0]), one) == pytest.approx(0.5 + 0.5)
    assert touch_misfit(np.array([1.0, -sigma, 0.0, 0.0, 0.0]), ~one) == pytest.approx(0.5)


def test_parabola_maximum_is_exact_for_parabolas():
    x = np.arange(0, 1, 0.1)
    assert parabola_maximum(x, 3 - (x - 0.437) ** 2) == pytest.approx(0.437)


def test_contact_without_touching_frames_is_rejected():
    found, surface = tracks()
    apart = {"right": replace(found["right"], touching=np.zeros_like(found["right"].touching))}
    estimates = all_estimates(apart, surface)
    assert "touch" in estimates["contact"].rejection
    assert scale.combine(estimates)[0].name == "rigid_grasp"


def test_auto_reports_agreement_and_shrinks_the_error():
    found, surface = tracks(noise_m=0.01, frames=120)
    estimates = all_estimates(found, surface)
    chosen, _ = scale.combine(estimates)
    assert chosen.scale == pytest.approx(UNIT_M, rel=0.01)
    assert chosen.stderr_ratio <= 1.42 * estimates["rigid_grasp"].stderr_ratio  # Student's t has heavier tails than a normal distribution
    assert "rigid_grasp" in chosen.notes[0]


def test_disagreeing_estimates_widen_the_interval():
    """Two that exclude each other: both modes are in the interval; with a third one, the mode that it supports remains."""
    one, other = ScaleEstimate("contact", 1.0, 0.01), ScaleEstimate("rigid_grasp", 1.3, 0.01)
    alone = scale.combine({"contact": one})[0].stderr_ratio
    torn, posterior = scale.combine({"contact": one, "rigid_grasp": other})
    assert torn.stderr_ratio > 5 * alone
    assert np.exp(posterior.quantile(0.025)) < 1.01 < 1.29 < np.exp(posterior.quantile(0.975))
    assert torn.figures["disagreeing"] >= 1
    assert any("disagrees and widens the interval" in note for note in torn.notes)
    third = ScaleEstimate("depth_order", 1.02, 0.03)
    settled, _ = scale.combine({"contact": one, "rigid_grasp": other, "depth_order": third})
    assert settled.scale == pytest.approx(1.0, abs=0.02)
    assert settled.name == "contact"


def test_rejected_estimates_have_no_effect():
    contact_, rigid = ScaleEstimate("contact", 1.0, 0.01), ScaleEstimate("rigid_grasp", 2.0, 0.001, rejection="turned")
    chosen, _ = scale.combine({"rigid_grasp": rigid, "contact": contact_})
    assert (chosen.name, chosen.scale) == ("contact", 1.0)
    assert chosen.stderr_ratio == pytest.approx(0.01 * student_t.ppf(0.975, 4) / 1.96, rel=0.02)
    assert "rigid_grasp rejected: turned" in chosen.notes[1]


def test_agreeing_estimates_are_weighted_by_their_precision():
    chosen, _ = scale.combine({"a": ScaleEstimate("a", 1.0, 0.01), "b": ScaleEstimate("b", 1.01, 0.02)})
    assert chosen.scale == pytest.approx(1.01**0.2, abs=0.001)
    assert 0.008 < chosen.stderr_ratio < 0.0125


def test_each_source_has_the_bounds_that_it_alone_leaves():
    precise, biased = ScaleEstimate("contact", 1.0, 0.01), ScaleEstimate("centroid", 1.1, 0.05, bias=0.1)
    figures = scale.combine({"contact": precise, "centroid": biased, "rigid_grasp": ScaleEstimate("rigid_grasp", 2.0, 0.01, "turned")})[
        0
    ].figures
    for name, middle, stderr in (("contact", 1.0, 0.01), ("centroid", 1.1 * np.exp(-0.1), 0.05)):
        half = student_t.ppf(0.975, 4) * stderr
        assert np.log([figures[f"{name}.low"], figures[f"{name}.high"]]) == pytest.approx(
            np.log(middle) + np.array([-half, half]), rel=0.05
        )
    assert "rigid_grasp.low" not in figures
    assert figures["all.low"] > figures["centroid.low"]
    assert figures["all.high"] < figures["centroid.high"]


def test_a_bias_counts_only_among_several_estimates():
    biased, other = ScaleEstimate("centroid", 1.0, 0.01, bias=0.1), ScaleEstimate("contact", np.exp(-0.1), 0.01)
    assert scale.combine({"centroid": biased})[0].scale == 1.0
    assert scale.combine({"centroid": biased, "contact": other})[0].scale == pytest.approx(np.exp(-0.1), abs=0.002)


def test_an_estimator_that_fails_alone_is_an_error():
    with pytest.raises(HoldprepError, match="rigid_grasp failed: the hand is never"):
        scale.combine({"rigid_grasp": ScaleEstimate("rigid_grasp", float("nan"), float("inf"), "the hand is never static")})


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_estimators_follow_the_unit_of_sfm(factor):
    small, surface = tracks(noise_m=0.005)
    t = small["right"]
    rescaled = {"right": replace(t, t_cam_obj_sfm=t.t_cam_obj_sfm * factor)}
    problem, _ = grasp(unit_m=UNIT_M)
    rescaled_surface = Surface.of(problem.points_obj.numpy() * factor, outward(problem).numpy())
    for name in scale.ESTIMATORS:
        expected = scale.estimate(name, small, surface).scale
        assert scale.estimate(name, rescaled, rescaled_surface).scale == pytest.approx(expected / factor, rel=1e-6)


def test_no_common_frame_is_refused():
    _, surface = tracks(frames=10)
    with pytest.raises(HoldprepError, match="no frame shows both"):
        scale.estimate("centroid", {}, surface)
