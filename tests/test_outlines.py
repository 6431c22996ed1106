"""Drawn outlines: their measures against closed forms, and that outlines and recipes fit the clips they belong to."""

import json

import cv2
import numpy as np
import pytest
import yaml

from tests.benchmarks.clips import CLIPS, DEMO, RECIPES
from tests.outlines import FOLDER, keypoints_off, mask_iou, outline, posed_iou

SIZE = (200, 160)


def square(x: int, y: int, side: int) -> list[list[float]]:
    return [[x, y], [x + side - 1, y], [x + side - 1, y + side - 1], [x, y + side - 1]]


def region(x: int, y: int, width: int, height: int) -> np.ndarray:
    mask = np.zeros(SIZE[::-1], bool)
    mask[y : y + height, x : x + width] = True
    return mask


HAND = outline([square(50, 40, 40)], SIZE)


def test_a_shifted_hand_has_the_overlap_of_two_squares() -> None:
    assert mask_iou(region(50, 40, 40, 40), HAND) == 1
    assert posed_iou(region(60, 40, 40, 40), region(0, 0, 0, 0), HAND) == pytest.approx(30 / 50)


def test_a_forearm_does_not_lower_the_masks_iou_beyond_four_pixels() -> None:
    with_arm = region(50, 40, 150, 40)
    assert mask_iou(with_arm, HAND) == pytest.approx(40 / 44)
    assert posed_iou(with_arm, region(0, 0, 0, 0), HAND) == pytest.approx(40 / 150)


def test_what_the_object_may_hide_is_left_out_and_what_is_drawn_is_not() -> None:
    posed = region(50, 40, 60, 40)
    assert posed_iou(posed, region(90, 0, 100, 160), HAND) == 1
    assert posed_iou(region(50, 40, 20, 40), region(70, 0, 20, 160), HAND) == pytest.approx(1 / 2)


def test_polygons_of_one_frame_are_one_hand() -> None:
    two = outline([square(20, 20, 10), square(60, 20, 10)], SIZE)
    assert two.drawn.sum() == 200
    assert two.near[25, 45] and not two.drawn[25, 45]


def test_a_keypoint_is_off_by_its_distance_from_the_outline() -> None:
    points_px = np.array([[60, 60], [114, 60], [115, 60], [50, 14], [50, 160], [np.nan, np.nan]])  # right edge at x 89, upper at y 40
    nothing = region(0, 0, 0, 0)
    assert keypoints_off(points_px, nothing, HAND).tolist() == [False, False, True, True, False, False]
    assert keypoints_off(points_px, region(115, 0, 85, 160), HAND).tolist() == [False, False, False, True, False, False]


@pytest.mark.parametrize("clip", CLIPS)
def test_outlines_and_recipes_fit_their_clip(clip: str) -> None:
    folder = DEMO if clip == "demo" else RECIPES / clip
    prompts = yaml.safe_load((folder / "prompts.yaml").read_text())
    settings = yaml.safe_load((folder / "holdprep.yaml").read_text())["create"]
    video = cv2.VideoCapture(str(DEMO / "cube.mp4" if clip in ("demo", "cube") else folder / "video.mp4"))
    used = range(settings.get("start", 0), int(video.get(cv2.CAP_PROP_FRAME_COUNT)), settings["stride"])
    frames = json.loads((FOLDER / f"{clip}_hand.json").read_text())["frames"]
    assert len(frames) == 5
    assert all(int(name) in used for name in (*frames, *prompts["frames"]))
    width, height = prompts["image_size"]
    full = video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)
    longest = min(settings.get("max_side", 2000), max(full))
    assert (width, height) == (full[0] * longest / max(full), full[1] * longest / max(full))
    for told in frames.values():
        for polygon in told["polygons"] if isinstance(told, dict) else [told]:
            x, y = np.array(polygon).T
            assert (x >= 0).all() and (x <= width).all() and (y >= 0).all() and (y <= height).all()
    assert clip == "demo" or not set(frames) & set(prompts["frames"])  # what is measured was not shown to the segmenter
