"""Holes in the object that show neither background nor hand are filled, and no others."""

import cv2
import numpy as np
import pytest

from holdprep.segmenters.classifier import without_holes
from holdprep.segmenters.knowledge import Clip, Knowledge
from tests.segmenters.test_own_evidence import HAND, LABELS, OBJECT, SIZE, drawn, held
from tests.segmenters.test_skeleton import upright_hand

ARM = LABELS.arm


def holed(label: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels with a hole of a sixth of the object, more than is filled in any case, and the hole (H, W) bool."""
    labels, hole = held(), np.zeros(SIZE, bool)
    hole[130:170, 90:130] = True
    labels[hole] = label
    return labels, hole


@pytest.mark.parametrize("label", [0, ARM])
def test_a_hole_that_shows_neither_background_nor_hand_is_the_object(label):
    labels, hole = holed(label)
    np.testing.assert_array_equal(without_holes(labels, LABELS, lambda: hole), held())


def test_other_holes_stay():
    labels, hole = holed(0)
    for unlike in (None, ~hole):  # nothing is known of the background; it is shown
        np.testing.assert_array_equal(without_holes(labels, LABELS, lambda shown=unlike: shown), labels)
    everywhere = np.ones(SIZE, bool)
    labels, _ = holed(HAND)  # a finger through it
    np.testing.assert_array_equal(without_holes(labels, LABELS, lambda: everywhere), labels)
    labels = np.full(SIZE, OBJECT, np.uint8)
    labels[:60, 90:130] = 0  # the room, at the image's border
    np.testing.assert_array_equal(without_holes(labels, LABELS, lambda: everywhere), labels)


def test_the_plate_and_the_keypoints_say_where_neither_is():
    """A room with corners, before which an object moves; its colours in the last frame are new."""
    rng = np.random.default_rng(0)
    room = cv2.resize(rng.integers(60, 200, (24, 20, 3)).astype(np.uint8), SIZE[::-1], interpolation=cv2.INTER_NEAREST)
    images, labels = [], []
    for t in range(12):
        label = np.zeros(SIZE, np.uint8)
        label[150:210, 10 + 10 * t : 60 + 10 * t], label[10:105, 76:126] = OBJECT, HAND
        image = np.where((label > 0)[..., None], drawn(label, t), room).astype(np.uint8)
        images.append(image)
        labels.append(label)
    images[-1][165:195, 125:160] = (230, 40, 230)
    knowledge = Knowledge(Clip(images), {0: labels[0]}, LABELS, {HAND: np.repeat(upright_hand()[None], 12, axis=0)})
    assert knowledge.neither_background_nor_hand(11) is None
    knowledge.find_background(labels)
    found = knowledge.neither_background_nor_hand(11)
    assert found is not None
    assert found[165:195, 125:160].mean() > 0.9 and found[labels[-1] == HAND].mean() < 0.05 and found[labels[-1] == 0].mean() < 0.05
