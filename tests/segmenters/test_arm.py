"""Skin that goes on from the hand is an arm; other things of its colour are not."""

import cv2
import numpy as np

from holdprep.segmenters.arm import KEPT_PX, find_arm, keep_near, surely_background

HAND, OBJECT, ARM = 1, 2, 3
SIZE = (160, 200)


def picture() -> tuple[np.ndarray, np.ndarray]:
    """Lab colours and labels: a strip of skin from the image's foot up, its upper end outlined as the hand; skin far off; an object."""
    rng = np.random.default_rng(0)
    lab = np.array([60.0, -10.0, -15.0]) + rng.normal(0, 1, (*SIZE, 3))
    strip, far = np.s_[40:160, 80:110], np.s_[20:50, 160:190]
    for at in (strip, far):
        lab[at] = np.array([65.0, 15.0, 20.0]) + rng.normal(0, 1, (*lab[at].shape[:2], 3))
    lab[40:70, 50:80] = (30.0, 40.0, -40.0)
    labels = np.zeros(SIZE, np.uint8)
    labels[40:100, 80:110], labels[40:70, 50:80] = HAND, OBJECT
    return lab, labels


def test_the_arm_hangs_together_with_the_hand_and_ends_in_reach_of_it():
    lab, labels = picture()
    arm = find_arm(lab, labels, [HAND])
    assert arm[102:130, 84:106].mean() > 0.95
    assert not arm[:, :76].any() and not arm[:, 114:].any() and not arm[labels > 0].any()


def test_an_arm_in_the_shade_is_found_where_one_is_expected():
    lab, labels = picture()
    lab[100:160, 80:110, 0] -= 12.0  # darker than most of the hand, by more than the colours of the hand vary
    shaded = np.s_[90:100, 80:110]
    lab[shaded] -= np.array([12.0, 0, 0])  # some of the hand is in the shade too
    maybe_arm = np.zeros(SIZE, bool)
    maybe_arm[95:, 60:130] = True
    assert find_arm(lab, labels, [HAND])[102:125, 84:106].mean() < 0.1
    arm = find_arm(lab, labels, [HAND], maybe_arm)
    assert arm[102:125, 84:106].mean() > 0.95 and not arm[:, :76].any() and not arm[:, 114:].any()


def test_an_expected_arm_leaves_some_background():
    _, labels = picture()
    some = np.zeros(SIZE, bool)
    some[95:, 60:130] = True
    np.testing.assert_array_equal(surely_background(labels, some), (labels == 0) & ~some)
    np.testing.assert_array_equal(surely_background(labels, np.ones(SIZE, bool)), labels == 0)


def test_without_a_hand_there_is_no_arm():
    lab, labels = picture()
    assert not find_arm(lab, np.where(labels == HAND, 0, labels), [HAND]).any()


def test_an_arm_is_carried_beside_its_hand_alone():
    labels = np.zeros(SIZE, np.uint8)
    labels[40:60, 80:110], labels[60:150, 80:110] = HAND, ARM
    kept = keep_near(labels, ARM, [HAND])
    ys = np.flatnonzero((kept == ARM).any(axis=1))
    assert ys[0] == 60 and abs(ys[-1] - 59 - KEPT_PX) <= 1
    np.testing.assert_array_equal(keep_near(np.where(labels == HAND, 0, labels), ARM, [HAND]) == ARM, labels == ARM)  # hidden: it waits


def test_thin_edges_of_the_hand_are_no_arm():
    lab, labels = picture()
    slim = cv2.erode((labels == HAND).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0  # outlined a little inside
    labels = np.where((labels == HAND) & ~slim, 0, labels)
    arm = find_arm(lab, labels, [HAND])
    assert not arm[45:95, 76:82].any() and not arm[45:95, 108:114].any()
