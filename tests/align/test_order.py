"""Depth order against a bar whose front and back have a closed form, and rays whose scale is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from holdprep.align.metrics import order_metrics
from holdprep.align.order import (
    FRAMES,
    OUTLIER_FRAMES,
    DepthOrder,
    contradicted,
    depth_order,
    front_vertices,
    log_likelihood,
    surface_depths,
)
from holdprep.align.problem import EntityMasks, Weights, outward, prepare
from holdprep.align.scale import combine
from holdprep.align.surface import Surface
from holdprep.align.tracks import ScaleEstimate
from holdprep.geometry.silhouettes import Inset
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
    return seen(frame, hand * (1 + noise * rng.normal(size=frames))[frame], front, back, in_front, np.full(frames, max(noise, 0.003)))


def seen(frame, hand_m, front, back, in_front, depth_ratio):
    """Rays of vertex 0; where they meet the object is not used by the scale."""
    return DepthOrder(frame, np.zeros(len(frame), int), hand_m, front, back, in_front, np.zeros((len(frame), 3)), depth_ratio)


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


def test_rays_of_few_frames_are_no_evidence():
    order = rays()
    some = order.frame < 5

    def of(rows, frames):
        fields = ("frame", "vertex", "hand_m", "front_sfm", "back_sfm", "hand_in_front", "face_obj")
        return replace(order, depth_ratio=order.depth_ratio[:frames], **{name: getattr(order, name)[rows] for name in fields})

    assert order.is_evidence and of(some, 10).is_evidence
    assert not of(some, 40).is_evidence and not of(order.frame < 0, 40).is_evidence
    assert not of((order.frame < 10) & (np.arange(len(order.frame)) % 20 == 0), 10).is_evidence  # ten rays
    assert "only 5 frames" in depth_order({"right": of(some, 40)}, around=UNIT_M).rejection
    centroid = {"centroid": ScaleEstimate("centroid", 1.1 * UNIT_M, 0.1), "contact": ScaleEstimate("contact", 1.1 * UNIT_M, 0.1)}
    alone, with_few, with_all = (combine(centroid, orders)[0].scale for orders in ({}, {"right": of(some, 40)}, {"right": order}))
    assert with_few == alone and with_all == pytest.approx(UNIT_M, rel=0.03)


@pytest.mark.parametrize("in_front", [True, False])
def test_rays_of_one_side_exclude_scales_on_the_other(in_front):
    """A hand seen in front bounds the scale from below, a hidden one from above; it is 20 mm, 4 % of its depth, from the object."""
    order = replace(rays(), hand_in_front=np.full(800, in_front))
    order = replace(order, hand_m=UNIT_M * order.front_sfm - 0.02 if in_front else UNIT_M * order.back_sfm + 0.02)
    low, true, high = log_likelihood({"right": order}, np.log(UNIT_M * np.array([0.85, 1.0, 1.15])))
    excluded, allowed = (low, high) if in_front else (high, low)
    assert abs(true) < 0.5 and abs(allowed) < 0.1
    assert excluded == pytest.approx(FRAMES * np.log(OUTLIER_FRAMES), rel=0.02)  # bounded: every frame may have a wrong finger


def test_one_sided_rays_move_a_scale_that_they_exclude():
    """Two estimates of a hand that lies behind the object put it 20 % too far; rays of the hidden hand say so."""
    estimates = {name: ScaleEstimate(name, 1.2 * UNIT_M, 0.05) for name in ("centroid", "contact")}
    order = rays()
    hidden = replace(order, hand_in_front=np.zeros(800, bool), hand_m=UNIT_M * order.back_sfm + 0.005)
    without, with_rays = (combine(estimates, orders)[0].scale / UNIT_M for orders in ({}, {"right": hidden}))
    assert without == pytest.approx(1.2, abs=0.01)
    assert 0.9 < with_rays < 1.06
    nowhere = {
        "right": replace(
            hidden, **{name: getattr(hidden, name)[:0] for name in ("frame", "hand_m", "front_sfm", "back_sfm", "hand_in_front")}
        )
    }
    assert combine(estimates, nowhere)[0].scale == pytest.approx(without * UNIT_M)


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
    rows, in_front = front_vertices(vertices, px, (Inset.of(hand), Inset.of(obj)), margin_px=3)
    assert rows.tolist() == [0, 2]
    assert in_front.tolist() == [True, False]


def test_rays_on_the_wrong_side_are_counted():
    """Visible skin 20 mm in front of the object's front, 2 mm behind it (within SHARP_M) and 10 mm behind it.

    Hidden skin 10 mm before its back.
    """
    skin, in_front = np.array([0.48, 0.502, 0.51, 0.55]), np.array([True, True, True, False])
    order = seen(np.zeros(4, int), skin, np.full(4, 5.0), np.full(4, 5.6), in_front, np.array([0.01]))
    assert contradicted(order, 0.1).tolist() == [False, False, True, True]


def test_alignment_reports_which_order_the_masks_do_not_show():
    problem, _ = grasp(frames=12)
    nothing, everything = np.zeros((12, 480, 640), bool), np.ones((12, 480, 640), bool)
    seen = replace(problem, masks=EntityMasks(np.arange(12), {"right": nothing}, everything))
    o = align("o", seen, initial=align("h", problem))
    assert not any("depth_order" in note for note in o.notes)  # rays of one side are used beside other estimates
    assert any("the depth order on rays" in note for note in o.notes)
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
