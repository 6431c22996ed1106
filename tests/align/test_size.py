"""The interval of the object's size, and sizes that were measured."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from holdprep.align import run, size
from holdprep.align.posterior import LENGTH_STD, MEASURED_LENGTH_STD, HandErrors, Posterior
from holdprep.align.problem import Weights, hidden_share, outward, prepare
from holdprep.align.size import MeasuredSizes, SizeInterval, resized
from holdprep.align.surface import Surface
from holdprep.align.tracks import ScaleEstimate
from holdprep.errors import HoldprepError
from holdprep.hand.lbs import HandPoints
from holdprep.hand.priors import chain_length_m
from holdprep.quality.gates import judge

from .synthetic import grasp

UNIT_M = 0.037


def surface_of(problem):
    ready = prepare(problem, Weights())
    return Surface.of(ready.points_obj.numpy(), outward(ready).numpy())


def with_observed(problem, share):
    """The problem with a hand of which the tracker observes a share of the keypoints, in every frame as many."""
    weight = (torch.arange(20, dtype=torch.float64) < 20 * share).repeat(problem.num_frames, 1)
    weight = torch.cat([weight[:, :1], weight], dim=1).double()  # the wrist as the first joint
    return replace(problem, hands={"right": replace(problem.hands["right"], weight=weight)})


@pytest.mark.parametrize("measured", [True, False])
def test_the_interval_of_a_well_seen_hand_is_that_of_its_length(measured):
    problem, _ = grasp(frames=8)
    posterior = Posterior.of([ScaleEstimate("rigid_grasp", 1.0, 0.0005)])
    interval = SizeInterval.of(posterior, with_observed(problem, 1.0), measured)
    std = MEASURED_LENGTH_STD if measured else LENGTH_STD
    assert np.log([interval.low, interval.high]) == pytest.approx([-1.96 * std, 1.96 * std], rel=0.03)


def test_hidden_keypoints_lower_the_interval_and_widen_it():
    problem, _ = grasp(frames=8)
    posterior = Posterior.of([ScaleEstimate("rigid_grasp", 1.0, 0.0005)])
    seen, half = (SizeInterval.of(posterior, with_observed(problem, share), True) for share in (1.0, 0.5))
    expected = HandErrors.of(10 / 21, True)
    assert np.log(half.low * half.high) / 2 == pytest.approx(-expected.tracker_mean, abs=0.004)
    assert np.log(half.high / half.low) > 2 * np.log(seen.high / seen.low)


def test_the_hidden_share_counts_lost_frames_in_contact():
    problem, _ = grasp(frames=8)
    hand = problem.hands["right"]
    weight, contact = torch.full((8, 21), 0.8, dtype=torch.float64), torch.tensor([1.0] * 4 + [0.0] * 4)
    weight[:2], weight[4:] = 0.0, 0.1  # two of the four frames in contact are lost
    lost = replace(problem, hands={"right": replace(hand, weight=weight, contact=contact > 0)})
    assert hidden_share(lost) == pytest.approx(1 / 2)


def test_the_gate_of_the_interval_trips_on_a_hidden_hand_alone():
    problem, _ = grasp(frames=8)
    posterior = Posterior.of([ScaleEstimate("rigid_grasp", 1.0, 0.01)])
    statuses = []
    for share in (1.0, 0.4, 0.0):
        figures = SizeInterval.of(posterior, with_observed(problem, share), False).figures(1.0, 0.1)
        statuses.append(judge("align.o", {"object.size_interval_pct": figures["object.size_interval_pct"]})[0].status)
    assert statuses == ["pass", "warn", "fail"]


@pytest.mark.parametrize("ratio", [0.9, 1.08])
def test_a_resized_hand_has_the_length_asked_for(ratio):
    problem, _ = grasp(frames=4)
    model = problem.hands["right"].model.to(torch.float64)
    points, betas = HandPoints.of(model, torch.zeros(0, dtype=torch.long)), torch.zeros(10, dtype=torch.float64)
    longer = resized(model, betas, ratio)
    assert float(chain_length_m(points, longer) / chain_length_m(points, betas)) == pytest.approx(ratio, abs=1e-9)


def test_a_hand_that_nobody_has_is_refused():
    problem, _ = grasp(frames=4)
    with pytest.raises(HoldprepError, match=r"right hand would be \d+ mm long \(between 130 and 240"):
        resized(problem.hands["right"].model.to(torch.float64), torch.zeros(10, dtype=torch.float64), 2.0)


def test_a_measured_object_gives_the_scale_and_corrects_the_hand():
    """The hand is registered 6 % too large: without the object's size the scale is about 5 % too large, with it it is right."""
    problem, _ = grasp(frames=40, noise_px=0.5, unit_m=UNIT_M)
    surface, hand = surface_of(problem), problem.hands["right"]
    model = hand.model.to(torch.float64)
    too_long = replace(hand, params=replace(hand.params, betas=resized(model, hand.params.betas.double(), 1.06)))
    wrong = replace(problem, hands={"right": too_long})
    diameter_mm = 1e3 * UNIT_M * surface.diameter

    def modes(measured):
        options = run.Options(measured=measured)
        h = run.align("h", wrong, options)
        o = run.align("o", wrong, options, h)
        return o, run.align("ho", wrong, options, o)

    for by_hand in modes(MeasuredSizes()):
        assert by_hand.obj_scale / UNIT_M == pytest.approx(1.05, abs=0.02)
        assert by_hand.metrics["object.scale_low"] < UNIT_M < by_hand.metrics["object.scale_high"]
    points = HandPoints.of(model, torch.zeros(0, dtype=torch.long))
    true_m = float(chain_length_m(points, hand.params.betas.double()))
    for by_object in modes(MeasuredSizes(diameter_mm=diameter_mm)):
        assert by_object.obj_scale / UNIT_M == pytest.approx(1.0, abs=0.01)
        assert float(chain_length_m(points, by_object.hands["right"].betas)) == pytest.approx(true_m, rel=0.03)
        assert by_object.metrics["object.size_interval_pct"] < 6


def test_extents_in_any_order_give_the_scale():
    rng = np.random.default_rng(0)
    faces = rng.uniform(-1, 1, (3000, 3)) * [0.5, 1.0, 1.5]
    axis = rng.integers(0, 3, 3000)
    faces[np.arange(3000), axis] = np.sign(faces[np.arange(3000), axis]) * np.array([0.5, 1.0, 1.5])[axis]
    found = MeasuredSizes(size_mm=(300.0, 100.0, 200.0))._by_size(Surface.of(faces, faces))
    assert found.scale == pytest.approx(0.1, rel=0.01)
    assert found.stderr_ratio >= size.MEASURED_STD
    wrong = MeasuredSizes(size_mm=(300.0, 150.0, 200.0))._by_size(Surface.of(faces, faces))
    assert wrong.stderr_ratio > 0.15  # the extents contradict each other
