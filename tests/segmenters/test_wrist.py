"""The line between hand and arm goes where the skin about it goes."""

import cv2
import numpy as np
import pytest

from holdprep.segmenters.wrist import Wrist

HAND, ARM = 1, 2
SIZE, CENTRE = (200, 240), (120.0, 100.0)


def limb(bend: float = 0.0) -> np.ndarray:
    """Labels: an upright limb, 50 px wide, hand above and arm below the parabola y = 100 - bend (x - 120)^2."""
    ys, xs = np.mgrid[: SIZE[0], : SIZE[1]]
    labels = np.where(ys < CENTRE[1] - bend * (xs - CENTRE[0]) ** 2, HAND, ARM)
    return np.where((np.abs(xs - CENTRE[0]) <= 25) & (ys > 20) & (ys < 150), labels, 0).astype(np.uint8)


def flow_of(turn_deg: float, shift_px: tuple[float, float]) -> np.ndarray:
    """(H, W, 2) of a turn about the limb's middle and a shift."""
    turn = np.radians(turn_deg)
    grid = np.stack(np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0])), axis=-1) - CENTRE
    return grid @ np.array([[np.cos(turn) - 1, np.sin(turn)], [-np.sin(turn), np.cos(turn) - 1]]) + shift_px


@pytest.mark.parametrize("bend", [0.0, 0.006, -0.006])
def test_the_line_is_where_hand_and_arm_meet(bend):
    wrist = Wrist.of(limb(bend), HAND, ARM)
    np.testing.assert_allclose(wrist.at_px, (120.0, 99.5), atol=0.8)
    np.testing.assert_allclose(wrist.to_hand, [0, -1], atol=0.02)
    assert abs(wrist.bend - bend) < 1e-3
    even = np.where(limb()[..., None] > 0, np.array([0.0, 0.5, 0.5]), np.array([1.0, 0.0, 0.0]))
    split = wrist.split(even, np.s_[0 : SIZE[0], 0 : SIZE[1]], HAND, ARM).argmax(axis=-1)
    assert (split != limb(bend))[70:130].sum() < 30  # of 3060
    assert (split[:20] == 0).all()


def test_it_turns_and_moves_with_the_skin():
    labels = limb()
    moved = Wrist.of(labels, HAND, ARM).moved(flow_of(6.0, (0.0, 4.0)), labels > 0)
    np.testing.assert_allclose(moved.at_px, (120.0, 103.5), atol=0.3)
    np.testing.assert_allclose(np.degrees(np.arctan2(moved.to_hand[0], -moved.to_hand[1])), 6.0, atol=0.2)


def test_a_limb_that_turns_about_itself_keeps_its_line():
    """Seen from a little above, the front of a turning cylinder runs sideways, and its left and right go up and down."""
    labels = limb()
    beside = np.stack(np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0])), axis=-1) - CENTRE
    slant = 0.1
    flow = np.stack([2.0 - slant * beside[..., 1], -slant * beside[..., 0]], axis=-1)
    moved = Wrist.of(labels, HAND, ARM).moved(flow, labels > 0)
    np.testing.assert_allclose(moved.at_px, (120.0, 99.5), atol=0.3)
    np.testing.assert_allclose(moved.to_hand, [0, -1], atol=0.02)


def test_a_mirrored_limb_has_the_mirrored_line():
    labels, flow = limb(0.004), flow_of(5.0, (1.5, -2.0))
    labels[:60, 100:] = 0  # not symmetrical itself
    mirrored, back = cv2.flip(labels, 1), cv2.flip(flow, 1) * [-1, 1]
    one, other = Wrist.of(labels, HAND, ARM).moved(flow, labels > 0), Wrist.of(mirrored, HAND, ARM).moved(back, mirrored > 0)
    np.testing.assert_allclose(other.at_px, [SIZE[1] - 1 - one.at_px[0], one.at_px[1]], atol=1e-6)
    np.testing.assert_allclose(other.to_hand, one.to_hand * [-1, 1], atol=1e-9)


def test_without_border_or_skin_there_is_none():
    labels = limb()
    assert Wrist.of(np.where(labels == ARM, 0, labels), HAND, ARM) is None
    assert Wrist.of(labels, HAND, ARM).moved(flow_of(0, (0, 0)), np.zeros(SIZE, bool)) is None
