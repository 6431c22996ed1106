"""Gaps and fingers that propagation missed are decided by the frame's own evidence, and nothing else is."""

import numpy as np
import pytest

from holdprep.segmenters.classifier import LabelSet, one_hot
from holdprep.segmenters.knowledge import Clip, Knowledge
from holdprep.segmenters.propagation import decided
from tests.segmenters.test_skeleton import upright_hand

SIZE = (240, 200)
HAND, OBJECT = 1, 2
LABELS = LabelSet(("right", "object"))
COLORS = {0: (140, 120, 60), HAND: (120, 150, 210), OBJECT: (60, 60, 160)}  # BGR
GAP, FINGER, STRIP = np.s_[20:60, 112:126], np.s_[30:70, 126:138], np.s_[70:95, 112:115]


def drawn(labels: np.ndarray, seed: int) -> np.ndarray:
    image = np.zeros((*SIZE, 3), np.float32)
    for k, color in COLORS.items():
        image[labels == k] = color
    return np.clip(image + np.random.default_rng(seed).normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def held() -> np.ndarray:
    labels = np.zeros(SIZE, np.uint8)
    labels[10:105, 76:126], labels[105:200, 60:160] = HAND, OBJECT
    return labels


@pytest.fixture(scope="module")
def moved():
    """The true labels of frame 1, the clip, and what is known: in frame 1 a gap opens in the hand and a finger comes out beside it."""
    truth = held()
    truth[GAP], truth[STRIP], truth[FINGER] = 0, 0, HAND
    clip = Clip([drawn(held(), 0), drawn(truth, 1)])
    return truth, clip, Knowledge(clip, {0: held()}, LABELS, {HAND: np.repeat(upright_hand()[None], 2, axis=0)})


def test_a_gap_between_fingers_and_a_new_finger_follow_the_frame(moved):
    truth, clip, knowledge = moved
    late = 0.9 * one_hot(held(), LABELS.count) + 0.1 * one_hot(truth, LABELS.count)
    found = decided(late, clip, 1, LABELS, knowledge)
    assert (found[GAP] == 0).mean() > 0.9 and (found[FINGER] == HAND).mean() > 0.9
    same = held() == truth
    assert (found[same] == truth[same]).mean() > 0.995


def test_narrow_parts_the_object_and_certain_labels_stay(moved):
    truth, clip, knowledge = moved
    late = 0.9 * one_hot(held(), LABELS.count) + 0.1 * one_hot(truth, LABELS.count)
    assert (decided(late, clip, 1, LABELS, knowledge)[STRIP] == HAND).all()
    wrong = truth.copy()
    beside = np.s_[75:105, 60:76]  # above the object, in the room's colours: a side that no key frame shows may have them
    wrong[beside] = OBJECT
    unlike = 0.6 * one_hot(wrong, LABELS.count) + 0.4 * one_hot(truth, LABELS.count)
    assert (decided(unlike, clip, 1, LABELS, knowledge)[beside] == OBJECT).all()
    np.testing.assert_array_equal(decided(one_hot(held(), LABELS.count), clip, 1, LABELS, None), held())


def test_without_a_hand_nothing_is_decided_again(moved):
    truth, clip, _ = moved
    alone = LabelSet(("object",))
    labels = (truth == OBJECT).astype(np.uint8)
    knowledge = Knowledge(clip, {0: labels}, alone, {})
    np.testing.assert_array_equal(decided(one_hot(labels, alone.count), clip, 1, alone, knowledge), labels)
