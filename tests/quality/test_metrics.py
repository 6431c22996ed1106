"""Per-stage numbers against masks and tracks whose answer is known by construction."""

import numpy as np
import pytest

from holdprep.quality import metrics

H, W = 60, 80


def squares(sides: list[int], at: tuple[int, int] = (10, 20)) -> np.ndarray:
    masks = np.zeros((len(sides), H, W), bool)
    for mask, side in zip(masks, sides, strict=True):
        mask[at[0] : at[0] + side, at[1] : at[1] + side] = True
    return masks


def test_mask_metrics_of_squares():
    found = metrics.mask_metrics(squares([20, 20, 0, 20]))
    assert found == {"frames_with_mask_pct": 75.0, "area_median_px": 400.0, "area_jumps": 0, "border_leak_pct": 0.0}


def test_masks_that_are_empty_everywhere_are_zero_not_nan():
    assert set(metrics.mask_metrics(squares([0, 0])).values()) == {0}


def test_no_masks_at_all_are_refused():
    with pytest.raises(ValueError, match="no masks"):
        metrics.mask_metrics([])


@pytest.mark.parametrize("bad", [0, 7, 8, 19])
def test_a_leak_and_a_lost_part_are_jumps_wherever_they_are(bad: int):
    sides = [20] * 20
    sides[bad] = 30
    assert np.flatnonzero(metrics.area_jumps(np.square(sides))).tolist() == [bad]
    sides[bad] = 12
    assert np.flatnonzero(metrics.area_jumps(np.square(sides))).tolist() == [bad]


def test_slow_growth_and_gaps_are_no_jumps():
    area = np.round(400 * 1.08 ** np.arange(40))
    area[5:20] = 0
    assert not metrics.area_jumps(area)[:5].any()
    assert not metrics.area_jumps(np.where(area > 0, 400, 0)).any()


def test_border_leak_is_the_covered_share_of_the_border():
    masks = np.zeros((1, H, W), bool)
    masks[0, 0, : W // 2] = True
    assert metrics.mask_metrics(masks)["border_leak_pct"] == pytest.approx(100 * (W / 2) / (2 * W + 2 * H - 4))
    assert metrics.mask_metrics(np.ones((1, H, W), bool))["border_leak_pct"] == 100


def test_touching_frames_measure_the_gap_between_masks():
    a = squares([10] * 4)
    b = np.stack([squares([10], (10, 30 + gap))[0] for gap in (0, 2, 3, 20)])  # `gap` background pixels between the two
    assert metrics.touching_frames(a, b, dilate_px=3).tolist() == [True, True, False, False]
    assert metrics.touching_frames(b, a, dilate_px=4).tolist() == [True, True, True, False]
    assert not metrics.touching_frames(a, np.zeros_like(a), dilate_px=50).any()


def test_overlap_is_a_share_of_the_smaller_mask():
    found = metrics.overlap_metrics(squares([20, 20, 20]), squares([10, 0, 10], (25, 35)))
    assert found == {"overlap_pct": 25.0, "touching_pct": 100.0}
    assert metrics.overlap_metrics(squares([0]), squares([5])) == {"overlap_pct": 0.0, "touching_pct": 0.0}


def test_all_entities_are_named_and_curves_have_one_value_a_frame():
    found, curves = metrics.all_mask_metrics({"right": squares([10, 12]), "object": squares([20, 20], (10, 30))})
    assert found["right.frames_with_mask_pct"] == 100 and found["object.area_median_px"] == 400 and found["right.touching_pct"] == 100
    assert "object.overlap_pct" not in found
    assert curves == {"right.area_px": [100.0, 144.0], "object.area_px": [400.0, 400.0]}


@pytest.mark.parametrize(("valid", "gap"), [("1111", 0), ("0110", 1), ("1000", 3), ("0000", 4), ("10010001", 3), ("", 0)])
def test_longest_gap(valid: str, gap: int):
    is_valid = np.array([c == "1" for c in valid], bool)
    assert metrics.longest_gap(is_valid) == gap
    start, stop = metrics.bounds_of_longest_gap(is_valid)
    assert stop - start == gap and not is_valid[start:stop].any()


def test_acceleration_of_a_parabola_is_constant():
    t = np.arange(6.0)
    points = np.zeros((6, 2, 3))
    points[..., 0], points[..., 1] = 1.5 * t[:, None] ** 2, 2.0 * t[:, None] ** 2
    found = metrics.acceleration(points)
    np.testing.assert_allclose(found[1:-1], 5.0)
    assert np.isnan(found[[0, -1]]).all()
    points[3] = np.nan
    assert np.isnan(metrics.acceleration(points)[2:5]).all()


def test_contours_of_squares():
    """In 300 x 400 pixels DAVIS allows 0.008 * 500 = 4 px: a square moved by 3 is as good, of one twice as wide 2.5 sides of 6 are found."""
    square = np.zeros((300, 400), bool)
    square[100:200, 100:200] = True
    assert metrics.contour_f(square, np.roll(square, 3, axis=1)) == 1
    wide = square.copy()
    wide[100:200, 200:300] = True
    precision, recall = 3 / 4, 3 / 6  # three sides of four lie on the wide one's contour, which is six long
    assert metrics.contour_f(square, wide) == pytest.approx(2 * precision * recall / (precision + recall), abs=0.03)
    nothing = np.zeros_like(square)
    assert (metrics.contour_f(nothing, square), metrics.contour_f(nothing, nothing)) == (0, 1)
    assert metrics.contour_f(np.ones_like(square), nothing) == 1  # the image's border is no contour
