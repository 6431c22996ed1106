"""Boxes of masks and keypoints, and which of them are refused."""

import io
import sys

import numpy as np
import pytest
import torch

from holdprep.errors import HoldprepError
from holdprep.hand.trackers import crops, hamer


def mask(*rectangles: tuple[int, int, int, int]) -> np.ndarray:
    """(60, 80) with x1, y1, x2, y2 filled, ends included."""
    filled = np.zeros((60, 80), bool)
    for x1, y1, x2, y2 in rectangles:
        filled[y1 : y2 + 1, x1 : x2 + 1] = True
    return filled


def boxes_of(masks: list[np.ndarray]) -> np.ndarray:
    return crops.mask_boxes(masks, (80, 60), [f"{t:04d}" for t in range(len(masks))], "right")


def test_boxes_hold_the_hand_and_pass_over_specks():
    fingers_apart = mask((10, 20, 30, 40), (50, 25, 54, 35))
    masks = [mask((10, 20, 30, 40)), fingers_apart, mask((10, 20, 30, 40), (70, 2, 71, 3)), mask()]
    expected = [[10, 20, 30, 40], [10, 20, 54, 40], [10, 20, 30, 40], [np.nan] * 4]
    np.testing.assert_array_equal(boxes_of(masks), expected)


def test_a_hand_of_a_pixel_or_a_few_is_none():
    found = boxes_of([mask((5, 5, 5, 5)), mask((5, 5, 11, 11)), mask((5, 5, 30, 5)), mask((5, 5, 13, 6))])
    np.testing.assert_array_equal(np.isfinite(found).all(axis=1), [False, False, False, True])


def test_boxes_about_keypoints():
    j2d = np.full((2, 21, 2), np.nan)
    j2d[0] = np.random.default_rng(0).uniform(20, 30, (21, 2))
    j2d[0, :2] = [[3, 7], [50, 60]]
    np.testing.assert_array_equal(crops.keypoint_boxes(j2d), [[3, 7, 50, 60], [np.nan] * 4])


def test_squares_follow_the_rule_for_100doh():
    nan = [np.nan] * 4
    boxes = np.array([nan, [100, 100, 300, 220], nan, nan, [100, 100, 120, 140], [0, 0, 600, 10]], float)
    found = crops.doh_squares(boxes)
    sides = found[:, 2] - found[:, 0]
    np.testing.assert_array_equal(sides, [500, 300, 500, 500, 256, 700])
    np.testing.assert_array_equal(found[:, 3] - found[:, 1], sides)
    np.testing.assert_array_equal((found[:, :2] + found[:, 2:]) / 2, [[200, 160], [200, 160], [200, 160], [200, 160], [110, 120], [300, 5]])
    np.testing.assert_allclose(hamer.square(hamer.boxes_of_squares(found)), found)


def test_boxes_that_cannot_be_are_refused_in_one_line():
    names = ["0000", "0002"]
    good = np.array([[10.0, 10, 20, 20], [np.nan] * 4])
    crops.check_boxes(good, (80, 60), names, "right")
    crops.check_boxes(good - [[15, 0, 0, 0]], (80, 60), names, "right")
    outside, empty = good + 100, good[:, [2, 1, 0, 3]]
    with pytest.raises(HoldprepError, match=r"right hand's box in frame 0000 is \(110, 110, 120, 120\), outside the image of 80 x 60"):
        crops.check_boxes(outside, (80, 60), names, "right")
    with pytest.raises(HoldprepError, match=r"left hand's box in frame 0000 is \(20, 10, 10, 20\), which is empty"):
        crops.check_boxes(empty, (80, 60), names, "left")
    with pytest.raises(HoldprepError, match=r"shape \(1, 4\), \(2, 4\) is needed"):
        crops.check_boxes(good[:1], (80, 60), names, "left")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_a_batch_too_large_for_the_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]):
    """And the bar is for terminals alone: a log would be full of it."""
    monkeypatch.setattr(sys, "stderr", stream())

    def network(batch: torch.Tensor) -> int:
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return len(batch)

    assert crops.forward(network, [torch.zeros(2), torch.zeros(1)], "HaMeR", (3, 5)) == [2, 1]
    shown = sys.stderr.getvalue()
    assert ("3/3" in shown and "frames without a hand=5" in shown) if stream is Terminal else not shown
    with pytest.raises(HoldprepError, match=r"HaMeR: 3 crops at once do not fit into the GPU's memory; set hand.batch lower"):
        crops.forward(network, [torch.zeros(3)], "HaMeR", None)


def test_crops_come_in_order_and_each_frame_is_read_once():
    read = []

    class Images(list):
        def __getitem__(self, t):
            read.append(t)
            return np.full((2, 2, 3), t, np.uint8)

    box = np.arange(7.0)[:, None] * np.ones(4)
    todo = crops.jobs({"right": np.where(np.arange(7)[:, None] == 3, np.nan, box), "left": box})
    assert [(j.frame, j.side) for j in todo[5:8]] == [(2, "left"), (3, "left"), (4, "right")]

    def cut(image: np.ndarray, box_px: np.ndarray, mirror: bool) -> np.ndarray:
        return np.array([image[0, 0, 0], box_px[0], mirror], np.float32)[:, None, None]

    batches = list(crops.batches(Images([0] * 7), todo, cut, crops.Feed(batch=4, threads=3), torch.device("cpu")))
    assert [len(b) for b in batches] == [4, 4, 4, 1]
    mean, std = (255 * torch.tensor(x) for x in (crops.IMAGE_MEAN, crops.IMAGE_STD))
    rows = torch.cat(batches)[:, :, 0, 0] * std + mean
    np.testing.assert_allclose(rows, [[j.frame, j.frame, j.side == "left"] for j in todo], atol=1e-4)
    assert sorted(read) == list(range(7))
