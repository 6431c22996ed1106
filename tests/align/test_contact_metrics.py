"""Fingertips and surface of an alignment: distances, and whether the surface was observed where they touch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from holdprep.align import metrics
from holdprep.align.contact import touching_tips
from holdprep.align.problem import Weights, outward, prepare
from holdprep.align.surface import Surface
from holdprep.hand.lbs import to_state
from holdprep.quality.gates import judge

from .synthetic import align, grasp

UNIT_M = 0.037
GATES = ("contact.tips_mm", "contact.unobserved_pct")


def scene():
    problem, truth = grasp(frames=10, unit_m=UNIT_M)
    ready = prepare(problem, Weights())
    return ready, to_state(ready.hands["right"].model, truth["right"])


def measured(problem, state):
    surface = Surface.of(problem.points_obj.numpy(), outward(problem).numpy())
    return metrics.contact_metrics(problem, {"right": state}, UNIT_M, surface, {})


def statuses(found):
    return {gate.metric: gate.status for gate in judge("align.ho", {name: found[name] for name in GATES})}


def without_held_part(problem, state):
    """The problem without the cloud's points near the fingertips that touch, as structure from motion gives it for a static grasp."""
    track = metrics.hand_track(problem, "right", state)
    tips = np.einsum("fba,fivb->fiva", track.R_cam_obj, track.tips_m / UNIT_M - track.t_cam_obj_sfm[:, None, None]).reshape(-1, 3)
    points = problem.points_obj.numpy()
    away = np.linalg.norm(points[:, None] - tips[None], axis=-1).min(axis=1)
    return replace(problem, points_obj=torch.from_numpy(points[away > 0.2 * np.ptp(points, axis=0).max()]), tracks=None)


def test_fingertips_on_an_observed_surface_pass():
    problem, state = scene()
    found = measured(problem, state)
    assert found["contact.tips_mm"] < 3
    assert found["contact.unobserved_pct"] < 10
    assert set(statuses(found).values()) == {"pass"}


def test_a_hand_away_from_the_object_trips_the_gate_of_the_fingertips_alone():
    problem, state = scene()
    towards = state.transl.mean(dim=0) / state.transl.mean(dim=0).norm()
    found = measured(problem, replace(state, transl=state.transl + 0.04 * towards))
    assert found["contact.tips_mm"] > 15
    assert statuses(found)["contact.tips_mm"] == "warn"


def test_a_cloud_without_the_held_part_trips_the_gate_of_the_surface_alone():
    problem, state = scene()
    found = measured(without_held_part(problem, state), state)
    assert found["contact.unobserved_pct"] > 60
    assert statuses(found)["contact.unobserved_pct"] == "warn"


def test_distances_of_fingertips_do_not_depend_on_the_unit_of_sfm():
    problem, state = scene()
    surface = Surface.of(problem.points_obj.numpy(), outward(problem).numpy())
    double = Surface.of(2 * problem.points_obj.numpy(), outward(problem).numpy())
    track = metrics.hand_track(problem, "right", state)
    frames = np.arange(len(track.frame))
    far = replace(track, t_cam_obj_sfm=2 * track.t_cam_obj_sfm)
    assert touching_tips(far, frames, double, UNIT_M / 2)[0] == pytest.approx(touching_tips(track, frames, surface, UNIT_M)[0], abs=1e-6)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_hand_that_touches_in_few_frames_has_the_distances_of_these_alone(count):
    problem, _ = grasp(frames=10)
    touching = torch.arange(10) < count
    aligned = None
    for mode in ("h", "o", "ho"):
        hands = {"right": replace(problem.hands["right"], contact=touching)}
        aligned = align(mode, replace(problem, hands=hands), initial=aligned)
    assert np.isfinite(aligned.curves.get("contact.tips_mm", [np.nan] * 10)).tolist() == touching.tolist()
    assert aligned.metrics.get("contact.tips_mm", 0) < 3
