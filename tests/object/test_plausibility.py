"""Plausibility metrics on small images with known counts."""

import numpy as np
import pytest

from holdprep.object import plausibility


def test_the_field_of_view_is_along_the_longer_side() -> None:
    assert plausibility.field_of_view_deg(320, (640, 480)) == pytest.approx(90)
    assert plausibility.field_of_view_deg(320 * np.sqrt(3), (480, 640)) == pytest.approx(60)


def square(x0: int, x1: int) -> np.ndarray:
    mask = np.zeros((60, 100), bool)
    mask[10:51, x0 : x1 + 1] = True
    return mask


def test_points_on_the_object_or_an_occluder_are_inside() -> None:
    points = np.array([[20, 20], [30, 30], [55, 30], [90, 30], [500, 30], [np.nan, 0]], float)
    px = np.stack([points, points])
    found = plausibility.cloud_outside_pct(px, 2 * [square(10, 40)], [square(50, 60), np.zeros((60, 100), bool)], 3)
    assert found == pytest.approx([25, 50])  # of the four points in the image


def test_the_outside_percentage_has_a_margin_and_ignores_frames_without_a_mask() -> None:
    none = np.zeros((60, 100), bool)
    px = np.array([[[43, 30], [20, 20]], [[44, 30], [20, 20]], [[44, 30], [45, 30]], [[44, 30], [45, 30]]], float)
    found = plausibility.cloud_outside_pct(px, [*3 * [square(10, 40)], none], 4 * [none], 3)
    np.testing.assert_allclose(found, [0, 50, 100, np.nan])


def test_a_third_of_the_object_that_a_mask_lacks_is_outside() -> None:
    """The cloud covers the object evenly; the masks of some frames lack its right third, which in others is behind a hand."""
    xs, ys = np.meshgrid(np.linspace(12, 68, 20), np.linspace(12, 48, 20))
    px = np.repeat(np.stack([xs.ravel(), ys.ravel()], axis=1)[None], 3, axis=0)
    whole, two_thirds, none = square(10, 69), square(10, 49), np.zeros((60, 100), bool)
    found = plausibility.cloud_outside_pct(px, [whole, two_thirds, two_thirds], [none, none, square(50, 69)], 3)
    assert found[0] == 0 and found[1] == pytest.approx(30, abs=3) and found[2] == 0
    assert found[1] > plausibility.MASK_LOST_PCT > found[0]


def test_a_cloud_of_half_the_object_covers_half_its_mask() -> None:
    mask = square(10, 49)  # 41 rows of 40 pixels
    half = np.array([[[10, 10], [29, 10], [10, 50], [29, 50]]], float)
    whole = np.array([[[10, 10], [49, 10], [10, 50], [49, 50]]], float)
    assert plausibility.mask_covered_pct(half[0], mask) == pytest.approx(50)
    assert plausibility.mask_covered_pct(whole[0], mask) == pytest.approx(100)
    assert plausibility.mask_covered_pct(whole[0, :2], mask) == 0  # two points span nothing
    assert np.isnan(plausibility.mask_covered_pct(whole[0], np.zeros_like(mask)))


def test_the_longest_gap_is_named_by_how_most_of_it_was_filled():
    registered = np.array([c == "s" for c in "ssiissshhhhdssdd"])
    words = {"s": "sfm", "i": "interpolated", "h": "hand", "d": "held"}
    assert plausibility.gap_filled_by(registered, [words[c] for c in "ssiissshhhhdssdd"]) == "hand"
    assert plausibility.gap_filled_by(np.ones(4, bool), ["sfm"] * 4) is None
    assert plausibility.gap_filled_by(np.array([True, False]), ["sfm", "held"]) == "held"
