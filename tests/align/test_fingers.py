"""Free fingers in mode ho: hidden ones close onto the object, under their limits, and visible ones stay."""

from dataclasses import replace

import numpy as np
import pytest
import roma
import torch

from holdprep.align.order import Faces
from holdprep.align.problem import EntityMasks, Refine, Weights
from holdprep.align.terms.base import forward_jacobian
from holdprep.align.terms.order import DepthOrderTerm
from holdprep.align.terms.pose import HIDDEN_RAD, OBSERVED_RAD, relative_precision
from holdprep.hand.lbs import NUM_JOINTS, HandPoints, to_state
from holdprep.hand.priors import beyond_limits

from .synthetic import align, grasp
from .test_align import objective_of

HIDDEN_JOINTS = [1, 2, 3, 17]  # the index finger
OTHERS = slice(9, 45)  # of hand_pose, those of the other fingers
FREE, HELD = Refine(), Refine(pose=False)


def with_wrong_index(bend=0.3, frames=40):
    """A grasp whose index finger, which no frame shows, is registered with all joints bent by `bend` rad too much."""
    problem, truth = grasp(frames=frames, noise_px=1.0)
    hand = problem.hands["right"]
    weight = torch.ones(frames, 21, dtype=torch.float64)
    weight[:, HIDDEN_JOINTS] = 0.0
    pose = hand.params.hand_pose.clone()
    pose[:, [2, 5, 8]] += bend
    wrong = replace(hand, params=replace(hand.params, hand_pose=pose), weight=weight)
    return replace(problem, hands={"right": wrong}), truth


def closed(problem, refine):
    h = align("h", problem, refine=refine)
    return align("ho", problem, initial=align("o", problem, initial=h), refine=refine)


def index_tip(problem, hands):
    """(T, 3) m, the index fingertip in the hand's frame."""
    state = to_state(problem.hands["right"].model.to(torch.float64), hands["right"])
    joints = HandPoints.of(problem.hands["right"].model.to(torch.float64), torch.zeros(0, dtype=torch.long)).pose(state).points
    return ((joints[:, 17] - joints[:, 0])[:, None] @ state.rotations[:, 0])[:, 0]


def test_a_hidden_finger_moves_onto_the_object_and_visible_ones_stay():
    problem, truth = with_wrong_index()
    held, free = (closed(problem, refine) for refine in (HELD, FREE))
    off, on = ((index_tip(problem, x.hands) - index_tip(problem, truth)).norm(dim=1).median() for x in (held, free))
    assert float(on) < 0.7 * float(off)
    moved = (free.hands["right"].hand_pose - problem.hands["right"].params.hand_pose).abs()
    assert float(moved[:, OTHERS].median()) < 0.03
    torch.testing.assert_close(held.hands["right"].hand_pose, problem.hands["right"].params.hand_pose)


def test_mode_h_keeps_the_registered_fingers():
    problem, _ = with_wrong_index(frames=12)
    torch.testing.assert_close(align("h", problem).hands["right"].hand_pose, problem.hands["right"].params.hand_pose)


def test_hidden_bones_are_less_certain_than_observed_ones():
    weight = torch.ones(1, 21)
    weight[0, HIDDEN_JOINTS] = 0.0
    found = relative_precision(weight)[0]
    assert found[[0, 1, 2]].tolist() == pytest.approx([(OBSERVED_RAD / HIDDEN_RAD) ** 2] * 3)
    assert found[3:].tolist() == pytest.approx([1.0] * 12)


def of_term(objective, name):
    (term,) = [term for term in objective.terms if term.name == name]
    view = objective.at.views["right"]
    return term, view, objective.at.residuals[name, "right"]


def test_corrections_that_change_from_frame_to_frame_cost_and_constant_ones_do_not():
    objective = objective_of(("right",), FREE, frames=12)
    term, view, _ = of_term(objective, "pose_smooth")
    step = torch.zeros(12, view.layout.own_size("right"), dtype=torch.float64)
    step[:, 6] = 0.1  # the first finger joint, the same in all frames
    nothing = torch.zeros(view.layout.shared, dtype=torch.float64)
    assert term.residuals(view.moved(step, nothing)).total() == pytest.approx(0.0, abs=1e-9)
    step[6, 6] += 0.02
    assert term.residuals(view.moved(step, nothing)).total() == pytest.approx(2 * 0.02**2 / 12, rel=0.02)


def test_a_guess_of_the_surface_attracts_no_finger():
    objective = objective_of(("right",), FREE, frames=12)
    term, view, at = of_term(objective, "contact")
    surface = view.setup.surface
    guessed = replace(surface, cloud=surface.cloud + 10 * surface.diameter)
    found = term.residuals(replace(view, setup=replace(view.setup, surface=guessed)))
    outside = at.value > 0
    assert bool(outside.any()) and bool((~outside).any()) and bool((at.weight > 0).all())
    assert torch.equal(found.weight, torch.where(outside, 0.0, at.weight))


def test_a_joint_beyond_its_limit_is_counted_with_its_excess():
    objective = objective_of(("right",), FREE, frames=12)
    term, view, _ = of_term(objective, "limits")
    state = view.scene.hands["right"]
    bent = state.rotations.clone()
    bent[3, 2] = roma.rotvec_to_rotmat(torch.tensor([0.0, 0.0, np.radians(130.0)], dtype=torch.float64))
    moved = replace(view, scene=replace(view.scene, hands={"right": replace(state, rotations=bent)}))
    excess = beyond_limits("right", bent)
    assert float(excess[3, 1, 2]) == pytest.approx(np.radians(10.0))
    assert term.residuals(moved).total() == pytest.approx(float(excess.square().sum()) / 12)


def test_skin_on_the_wrong_side_moves_to_the_right_one():
    """The hand lies behind the object, and masks say that all of it is in front."""
    problem, _ = with_wrong_index(frames=12)
    everything = np.ones((12, 480, 640), bool)
    masked = replace(problem, masks=EntityMasks(np.arange(12), {"right": everything}, ~everything))
    o = align("o", masked, initial=align("h", masked))
    off, on = (align("ho", masked, initial=o, weights=Weights(others={"order": w})) for w in (0.0, 1e6))
    assert on.losses[-1]["order"] < 0.5 * on.losses[0]["order"]
    assert on.metrics["right.contradicted_pct"] < off.metrics["right.contradicted_pct"]


def test_order_is_the_distance_to_a_plane_and_its_derivative_is_exact():
    objective = objective_of(("right",), Refine(shape=True, obj_pose=True, focal=True), frames=12)
    view = objective.at.views["right"]
    ids = torch.full((12, 2), NUM_JOINTS + 320)
    normal = torch.zeros(12, 2, 3, dtype=torch.float64)
    normal[..., 2] = 1.0
    faces = Faces(ids, torch.full((12, 2, 3), 5.0, dtype=torch.float64), normal, torch.full((12, 2), 0.5 / 12, dtype=torch.float64))
    term, view = DepthOrderTerm(Weights()), replace(view, faces=faces)
    at = term.residuals(view)
    assert bool((at.value < 0).all())
    own, shared = term.jacobian(view, at)
    by_own, by_shared = forward_jacobian(lambda moved: term.residuals(moved).value, view)
    torch.testing.assert_close(own, by_own, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(shared, by_shared, rtol=1e-5, atol=1e-6)
