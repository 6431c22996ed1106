"""The skeleton of true joints covers the hand that was rendered from them, and little else."""

import numpy as np
import pytest

from holdprep.segmenters.skeleton import (
    MAX_BRIDGED,
    arm_area,
    away_evidence,
    beyond_wrist,
    bridged,
    forearm_direction,
    hand_evidence,
    limbs,
    palm_length_px,
)
from tests.synthetic import make_sequence


@pytest.fixture(scope="module")
def hands():
    seq = make_sequence(("right",), frames=6, size=(320, 240), degrees=60)
    return list(zip(seq.j2d_px["right"], seq.masks["right"], seq.masks["object"], strict=True))


def test_the_hand_is_where_its_skeleton_is(hands):
    for joints_px, mask, other in hands:
        hand, background, _ = hand_evidence(joints_px, mask.shape)
        assert (hand[mask] > -1).mean() > 0.97  # of the hand's pixels
        away = ~mask & ~other
        far = away & ~limbs(joints_px, mask.shape)
        assert (hand[far] < -3).mean() > 0.8 and (background[~limbs(joints_px, mask.shape)] == 0).all()


def test_evidence_does_not_depend_on_the_pictures_size(hands):
    joints_px, mask, _ = hands[0]
    small = hand_evidence(joints_px, mask.shape)[0]
    large = hand_evidence(2 * joints_px + 0.5, (2 * mask.shape[0], 2 * mask.shape[1]))[0]
    assert np.abs(large[::2, ::2] - small).mean() < 0.1


def upright_hand() -> np.ndarray:
    """Keypoints (21, 2) px of a hand whose fingers point up; its wrist is at (101, 100), its palm 80 px long."""
    joints_px = np.zeros((21, 2))
    joints_px[[1, 4, 7, 10]] = [[90, 20], [100, 20], [110, 20], [105, 20]]
    joints_px[[2, 5, 8, 11]] = joints_px[[1, 4, 7, 10]] - [0, 30]
    joints_px[[3, 6, 9, 12, 17, 18, 20, 19]] = np.tile(joints_px[[2, 5, 8, 11]] - [0, 10], (2, 1))
    joints_px[[13, 14, 15, 16]] = [[85, 80], [80, 60], [78, 50], [75, 40]]
    joints_px[0] = [101, 100]
    return joints_px


def bar(shape: tuple[int, int], start: tuple[float, float], angle_deg: float, half_px: float) -> np.ndarray:
    """A straight limb (H, W) bool from `start` on, at an angle from downwards, to the image's border."""
    ys, xs = np.mgrid[: shape[0], : shape[1]]
    dx, dy = np.sin(np.radians(angle_deg)), np.cos(np.radians(angle_deg))
    off = np.stack([xs - start[0], ys - start[1]])
    return (off[0] * dx + off[1] * dy > 0) & (np.abs(off[0] * dy - off[1] * dx) < half_px)


@pytest.mark.parametrize("angle_deg", [-60, -30, 0, 45])
def test_the_arm_is_where_it_may_be_and_its_direction_is_seen(angle_deg):
    joints_px, shape = upright_hand(), (260, 320)
    arm = bar(shape, (101, 100), angle_deg, 25)
    area = arm_area([joints_px, np.full((21, 2), np.nan)], shape)
    assert area[arm].mean() > 0.95 and not area[:80].any()
    direction = forearm_direction(joints_px, arm | limbs(joints_px, shape))
    assert direction is not None
    assert np.degrees(np.arctan2(direction[0], direction[1])) == pytest.approx(angle_deg, abs=8)


def test_without_visible_skin_the_arm_continues_the_palm():
    joints_px, shape = upright_hand(), (260, 320)
    direction = forearm_direction(joints_px, limbs(joints_px, shape))
    assert direction is not None and abs(direction[0]) < 0.05 and direction[1] > 0.99
    assert forearm_direction(np.full((21, 2), np.nan), np.ones(shape, bool)) is None


def test_a_thumb_beside_the_arm_is_hand():
    joints_px = upright_hand()
    joints_px[[13, 14, 15, 16]] = [[75, 95], [60, 115], [50, 130], [45, 140]]
    past, hand = beyond_wrist(joints_px, (200, 200)), hand_evidence(joints_px, (200, 200))[0]
    assert past[130, 50] <= 0 and hand[130, 50] == 0
    assert past[150, 101] > 0.5 and hand[150, 101] == -4


def test_frames_without_keypoints_lie_between_those_with():
    joints_px = np.stack([upright_hand() + np.array([10 * t, 0]) for t in range(6)])
    seen = joints_px.copy()
    seen[1:4] = np.nan
    between, frames = bridged(seen)
    np.testing.assert_allclose(between, joints_px)
    np.testing.assert_array_equal(frames, [0, 1, 2, 1, 0, 0])
    assert np.isinf(bridged(np.full((3, 21, 2), np.nan))[1]).all()


def test_keypoints_of_other_frames_exclude_what_a_hand_cannot_reach():
    joints_px = upright_hand()
    near, later = (away_evidence(joints_px, (260, 320), frames) for frames in (1, 4))
    assert near[60, 100] == later[60, 100] == 0 and near[60, 300] == later[60, 300] == -4
    assert (near <= later).all() and (near < later).any()
    assert not away_evidence(joints_px, (260, 320), MAX_BRIDGED + 1).any()


def test_the_arm_is_beyond_the_wrist():
    joints_px = upright_hand()
    assert 80 <= palm_length_px(joints_px) < 85
    past = beyond_wrist(joints_px, (200, 200))
    assert past[100, 101] == pytest.approx(0, abs=1e-3) and past[180, 101] == pytest.approx(1, abs=0.05) and (past[:90, 101] < 0).all()
    hand, _, arm = hand_evidence(joints_px, (200, 200))
    assert hand[60, 100] == 0 and arm[60, 100] == -4 and hand[160, 101] == -4 and arm[160, 101] == 0


@pytest.mark.parametrize("joints_px", [np.full((21, 2), np.nan), np.zeros((21, 2))])
def test_unknown_keypoints_are_no_evidence(joints_px):
    assert not any(part.any() for part in hand_evidence(joints_px, (40, 50)))
