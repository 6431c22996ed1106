from dataclasses import replace

import numpy as np
import pytest

from holdprep.align import metrics, scale
from holdprep.align.problem import Weights, prepare
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
    return result, problem.points_obj.numpy()


def all_estimates(found, points):
    return {name: scale.estimate(name, found, points) for name in scale.ESTIMATORS}


def test_centroid_is_the_minimum_of_the_l1_objective():
    found, points = tracks(noise_m=0.01)
    track = found["right"]
    hand, obj = track.joints_m.mean(axis=1), track.R_cam_obj @ points.mean(axis=0) + track.t_cam_obj_sfm
    grid = np.linspace(0.03, 0.045, 30001)
    loss = [np.abs(hand - s * obj).sum() for s in grid]
    assert scale.centroid(found, points).scale == pytest.approx(grid[int(np.argmin(loss))], abs=1e-6)


@pytest.mark.parametrize("sides", [("right",), ("left",), ("right", "left")])
def test_rigid_grasp_finds_the_scale_and_believes_it(sides):
    found, _ = tracks(noise_m=0.018, sides=sides, frames=200)
    result = scale.rigid_grasp(found)
    assert result.scale == pytest.approx(UNIT_M, rel=0.01)
    assert result.doubt == ""
    assert result.stderr_ratio < 0.02


def test_rigid_grasp_survives_wild_frames():
    found, _ = tracks(frames=100)
    track = found["right"]
    joints = track.joints_m.copy()
    joints[10:20] *= 1.6
    assert scale.rigid_grasp({"right": replace(track, joints_m=joints)}).scale == pytest.approx(UNIT_M, rel=2e-3)


def test_rigid_grasp_doubts_itself_when_the_object_is_turned_in_the_hand():
    found, points = tracks(in_hand=True, frames=120)
    estimates = all_estimates(found, points)
    assert "turns" in estimates["rigid_grasp"].doubt
    chosen = scale.choose(estimates)
    assert chosen.name != "rigid_grasp"
    assert any("rigid_grasp not believed" in note for note in chosen.notes)
    assert abs(chosen.scale / UNIT_M - 1) < 2 * chosen.stderr_ratio


def test_a_hardly_turned_object_gives_no_rigid_scale():
    found, _ = tracks(noise_m=0.03, frames=100)
    track = found["right"]
    short = {f: getattr(track, f)[:6] for f in ("joints_m", "tips_m", "R_cam_hand", "weight", "R_cam_obj", "t_cam_obj_sfm", "touching")}
    assert scale.rigid_grasp({"right": scale.HandTrack(**short)}).doubt != ""


def test_contact_meets_the_surface():
    found, points = tracks()
    result = scale.contact(found, points, around=UNIT_M * 1.07)
    assert result.scale == pytest.approx(UNIT_M, rel=0.03)
    assert result.figures["gap_mm"] < 5


def test_contact_without_touching_frames_says_so():
    found, points = tracks()
    apart = {"right": replace(found["right"], touching=np.zeros_like(found["right"].touching))}
    estimates = all_estimates(apart, points)
    assert "touch" in estimates["contact"].doubt
    assert scale.choose(estimates).name == "rigid_grasp"


def test_auto_reports_agreement_and_shrinks_the_error():
    found, points = tracks(noise_m=0.01, frames=120)
    estimates = all_estimates(found, points)
    chosen = scale.choose(estimates)
    assert chosen.scale == pytest.approx(UNIT_M, rel=0.01)
    assert chosen.stderr_ratio <= estimates["rigid_grasp"].stderr_ratio
    assert "rigid_grasp" in chosen.notes[0]


def test_disagreement_of_contact_and_centroid_widens_the_error():
    contact = scale.ScaleEstimate("contact", 1.0, 0.01)
    centroid = scale.ScaleEstimate("centroid", 1.3, 0.02)
    rigid = scale.ScaleEstimate("rigid_grasp", 2.0, 0.01, doubt="turned")
    chosen = scale.choose({"centroid": centroid, "rigid_grasp": rigid, "contact": contact})
    assert (chosen.name, chosen.scale) == ("contact", pytest.approx(1.0))
    assert chosen.stderr_ratio == pytest.approx(0.5 * np.log(1.3))


def test_estimators_follow_the_unit_of_sfm():
    small, points_small = tracks(noise_m=0.005)
    t = small["right"]
    wild = {"right": replace(t, t_cam_obj_sfm=t.t_cam_obj_sfm * 1e6)}
    for name in scale.ESTIMATORS:
        expected = scale.estimate(name, small, points_small).scale
        assert scale.estimate(name, wild, points_small * 1e6).scale == pytest.approx(expected * 1e-6, rel=1e-6)


def test_no_common_frame_is_refused():
    with pytest.raises(HoldprepError, match="no frame shows both"):
        scale.estimate("centroid", {}, np.zeros((4, 3)))
