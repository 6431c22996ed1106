"""The skeleton of true joints covers the hand that was rendered from them, and little else."""

import numpy as np
import pytest

from holdprep.segmenters.skeleton import beyond_wrist, hand_evidence, limbs, palm_length_px
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


def test_the_arm_is_beyond_the_wrist():
    joints_px = np.zeros((21, 2))
    joints_px[[1, 4, 7, 10]] = [[90, 20], [100, 20], [110, 20], [105, 20]]  # the fingers point up
    joints_px[[2, 5, 8, 11]] = joints_px[[1, 4, 7, 10]] - [0, 30]
    joints_px[[3, 6, 9, 12, 17, 18, 20, 19]] = np.tile(joints_px[[2, 5, 8, 11]] - [0, 10], (2, 1))
    joints_px[[13, 14, 15, 16]] = [[85, 80], [80, 60], [78, 50], [75, 40]]
    joints_px[0] = [101, 100]
    assert 80 <= palm_length_px(joints_px) < 85
    past = beyond_wrist(joints_px, (200, 200))
    assert past[100, 101] == pytest.approx(0, abs=1e-3) and past[180, 101] == pytest.approx(1, abs=0.05) and (past[:90, 101] < 0).all()
    hand, _, arm = hand_evidence(joints_px, (200, 200))
    assert hand[60, 100] == 0 and arm[60, 100] == -4 and hand[160, 101] == -4 and arm[160, 101] == 0


@pytest.mark.parametrize("joints_px", [np.full((21, 2), np.nan), np.zeros((21, 2))])
def test_unknown_keypoints_are_no_evidence(joints_px):
    assert not any(part.any() for part in hand_evidence(joints_px, (40, 50)))
