"""A sleeve of the object's colours comes from the image's border; parts of the object behind a hand or an arm stay."""

import numpy as np

from holdprep.segmenters.classifier import LabelSet, without_sleeves

HAND, OBJECT, ARM = 1, 2, 3
LABELS = LabelSet(("right", "object"))


def held() -> np.ndarray:
    """Labels (H, W) of an object in a hand, with the arm below it."""
    labels = np.zeros((120, 100), np.uint8)
    labels[10:50, 20:70], labels[40:70, 60:80], labels[70:90, 60:80] = OBJECT, HAND, ARM
    return labels


def test_a_sleeve_below_the_arm_is_not_the_object():
    truth = held()
    wrong = truth.copy()
    wrong[90:, 58:82] = OBJECT
    np.testing.assert_array_equal(without_sleeves(wrong, LABELS), truth)


def test_parts_that_a_hand_or_an_arm_separates_stay():
    labels = held()
    labels[50:120, 80:100] = OBJECT  # beside the hand, to the image's border
    labels[95:110, 50:70] = OBJECT  # below the arm, within the image
    np.testing.assert_array_equal(without_sleeves(labels, LABELS), labels)


def test_the_largest_part_stays_though_it_comes_from_the_border():
    labels = np.zeros((120, 100), np.uint8)
    labels[60:, :40], labels[5:20, 60:80] = OBJECT, OBJECT
    np.testing.assert_array_equal(without_sleeves(labels, LABELS), labels)


def test_a_clip_without_an_object_is_unchanged():
    labels = np.where(held() == OBJECT, 0, held()).astype(np.uint8)
    assert without_sleeves(labels, LabelSet(("right",))) is labels
