"""Depth order against a bar whose front and back have a closed form, and rays whose scale is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from holdprep.align.metrics import order_metrics
from holdprep.align.order import DepthOrder, contradicted, depth_order, front_vertices, surface_depths
from holdprep.align.problem import EntityMasks, Weights, outward, prepare
from holdprep.align.surface import Surface
from holdprep.hand.lbs import to_state

from .synthetic import BAR_RADIUS_M, align, bar_cloud, grasp

UNIT_M = 0.05
K = np.array([[700.0, 0, 320], [0, 700, 240], [0, 0, 1]])


def rays(frames=40, noise=0.0, seed=0):
    """Skin 5 mm in front of the object's front and 5 mm behind its back; the hand's depth has a relative error of `noise` in each frame."""
    rng = np.random.default_rng(seed)
    frame = np.repeat(np.arange(frames), 20)
    front = rng.uniform(9, 11, len(frame))
    back, in_front = front + rng.uniform(0.8, 1.4, len(frame)), rng.uniform(size=len(frame)) < 0.5
    hand = np.where(in_front, UNIT_M * front - 0.005, UNIT_M * back + 0.005)
    return DepthOrder(frame, hand * (1 + noise * rng.normal(size=frames))[frame], front, back, in_front, np.full(frames, max(noise, 0.003)))


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_skin_in_front_and_behind_bounds_the_scale_from_both_sides(noise):
    found = depth_order({"right": rays(noise=noise)}, around=UNIT_M * 1.12)
    assert found.rejection == ""
    assert found.scale == pytest.approx(UNIT_M, rel=0.015)
    assert abs(found.scale / UNIT_M - 1) < 2 * found.stderr_ratio


def test_wrong_labels_of_some_pixels_hardly_change_the_scale():
    order = rays()
    wrong = np.random.default_rng(1).uniform(size=len(order.hand_in_front)) < 0.15
    found = depth_order({"right": replace(order, hand_in_front=order.hand_in_front ^ wrong)}, around=UNIT_M)
    assert found.scale == pytest.approx(UNIT_M, rel=0.03)
    assert found.figures["against_pct"] == pytest.approx(15, abs=5)


@pytest.mark.parametrize(("in_front", "reason"), [(True, "never occludes the hand"), (False, "never seen in front of the object")])
def test_rays_of_one_side_alone_are_rejected(in_front, reason):
    order = rays()
    assert (
        reason in depth_order({"left": replace(order, hand_in_front=np.full(len(order.hand_in_front), in_front))}, around=UNIT_M).rejection
    )
    assert "no pixel" in depth_order({}, around=UNIT_M).rejection


def test_depths_of_a_bars_front_and_back():
    """The bar is seen along -y from 0.5 m, its axis across the image: the ray of column c passes it at x = 0."""
    cloud = bar_cloud().numpy()
    R = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])  # the bar's z to the camera's x, its y to the camera's z
    height = np.array([0.0, 0.015, 0.05])
    px = np.stack([np.full(3, 320.0), 240 + 700 * height / 0.5], axis=1)
    front, back = surface_depths(Surface.of(cloud, cloud), K, R, np.array([0, 0, 0.5]), px)
    assert front[0] == pytest.approx(0.5 - BAR_RADIUS_M, abs=0.006)
    assert back[0] == pytest.approx(0.5 + BAR_RADIUS_M, abs=0.006)
    assert BAR_RADIUS_M * 2 > back[1] - front[1] > BAR_RADIUS_M
    assert np.isnan([front[2], back[2]]).all()


def test_only_the_hands_front_well_inside_a_mask_is_used():
    hand, obj = np.zeros((100, 100), bool), np.zeros((100, 100), bool)
    hand[:50], obj[50:] = True, True
    px = np.array([[20, 20], [20, 20], [20, 80], [20, 49], [-5, 3], [20, 120], [70, 20]], float)
    vertices = np.array([[0, 0, 0.5], [0, 0, 0.55], [0, 0, 0.6], [0, 0, 0.5], [0, 0, 0.5], [0, 0, 0.5], [0, 0, -0.5]])
    rows, in_front = front_vertices(vertices, px, hand, obj)
    assert rows.tolist() == [0, 2]
    assert in_front.tolist() == [True, False]


def test_rays_on_the_wrong_side_are_counted():
    """Visible skin 20 mm in front of the object's front, 2 mm behind it (within SHARP_M) and 10 mm behind it.

    Hidden skin 10 mm before its back.
    """
    skin, in_front = np.array([0.48, 0.502, 0.51, 0.55]), np.array([True, True, True, False])
    order = DepthOrder(np.zeros(4, int), skin, np.full(4, 5.0), np.full(4, 5.6), in_front, np.array([0.01]))
    assert contradicted(order, 0.1).tolist() == [False, False, True, True]


def test_alignment_reports_which_order_the_masks_do_not_show():
    problem, _ = grasp(frames=12)
    nothing, everything = np.zeros((12, 480, 640), bool), np.ones((12, 480, 640), bool)
    seen = replace(problem, masks=EntityMasks(np.arange(12), {"right": nothing}, everything))
    o = align("o", seen, initial=align("h", problem))
    assert any("depth_order rejected: the hand is never seen in front" in note for note in o.notes)
    assert torch.isfinite(torch.tensor(o.obj_scale))


def test_a_hand_in_front_of_the_object_contradicts_masks_that_hide_it():
    problem, truth = grasp(frames=12)
    nothing, everything = np.zeros((12, 480, 640), bool), np.ones((12, 480, 640), bool)
    ready = prepare(problem, Weights())
    surface = Surface.of(ready.points_obj.numpy(), outward(ready).numpy())
    state = to_state(problem.hands["right"].model, truth["right"])
    near = {"right": replace(state, transl=state.transl * 0.75)}
    for shown, hidden, wrong_pct in ((everything, nothing, 0.0), (nothing, everything, 100.0)):
        masked = replace(ready, masks=EntityMasks(np.arange(12), {"right": shown}, hidden))
        assert order_metrics(masked, near, 0.037, surface) == {"right.contradicted_pct": wrong_pct}
    assert order_metrics(ready, near, 0.037, surface) == {}
