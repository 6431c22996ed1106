"""Boxes and clicks of all entities are one problem: none swallows another, and clicks of earlier corrections stay."""

import cv2
import numpy as np
import pytest

from holdprep.segmenters.classical import outline
from holdprep.segmenters.classifier import LabelSet
from holdprep.segmenters.clicked import Cues, MarkedFrame, Marks, cut_clicked
from holdprep.segmenters.prompts import EntityPrompt
from tests.synthetic import make_sequence


@pytest.fixture(scope="module")
def seq():
    return make_sequence(("right",), frames=2, size=(320, 240), degrees=30)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def box(mask: np.ndarray, margin: int = 0) -> tuple[float, float, float, float]:
    ys, xs = np.nonzero(mask)
    return float(xs.min() - margin), float(ys.min() - margin), float(xs.max() + margin), float(ys.max() + margin)


def spread(mask: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Clicks (N, 2) well inside a mask."""
    inside = np.argwhere(cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)))[:, ::-1]
    return inside[np.random.default_rng(seed).choice(len(inside), count, replace=False)].astype(float)


def beside(seq, count: int, seed: int = 1) -> np.ndarray:
    """Clicks (N, 2) on the background, within both entities' common box."""
    x1, y1, x2, y2 = (int(v) for v in box(seq.masks["right"][0] | seq.masks["object"][0]))
    empty = np.zeros(seq.masks["object"][0].shape, bool)
    empty[y1:y2, x1:x2] = True
    return spread(empty & ~seq.masks["right"][0] & ~seq.masks["object"][0], count, seed)


def test_a_hand_inside_the_objects_box_is_not_swallowed(seq):
    truth = {e: m[0] for e, m in seq.masks.items()}
    both = box(truth["object"] | truth["right"], 4)  # the object's box contains the whole hand
    prompts = {
        "object": EntityPrompt(box=both, positive=spread(truth["object"], 4), negative=beside(seq, 3)),
        "right": EntityPrompt(box=box(truth["right"]), positive=spread(truth["right"], 4)),
    }
    found = outline(seq.images[0], prompts, {})
    assert iou(found["right"], truth["right"]) > 0.8 and iou(found["object"], truth["object"]) > 0.8


def test_a_correction_keeps_every_earlier_click(seq):
    truth = {e: m[0] for e, m in seq.masks.items()}
    clicks = {e: spread(m, 6) for e, m in truth.items()}
    known: dict[str, np.ndarray] = {}
    for count in range(1, 7):
        prompts = {e: EntityPrompt(box=box(truth[e]) if not known else None, positive=clicks[e][:count]) for e in truth}
        known = outline(seq.images[0], prompts, known)
        for entity, points in clicks.items():
            x, y = points[:count].round().astype(int).T
            assert known[entity][y, x].all()
    assert min(iou(known[e], truth[e]) for e in truth) > 0.8


def test_a_click_moves_the_region_of_its_colour():
    image = np.full((120, 160, 3), (130, 130, 125), np.uint8)
    image[30:90, 40:80], image[30:90, 80:110] = (60, 60, 200), (60, 180, 60)  # an object of two colours
    image = np.clip(image + np.random.default_rng(0).normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    half = np.zeros((120, 160), bool)
    half[30:90, 40:80] = True
    found = outline(image, {"object": EntityPrompt(positive=np.array([[95.0, 60.0]]))}, {"object": half})["object"]
    whole = np.zeros((120, 160), bool)
    whole[30:90, 40:110] = True
    assert iou(found, whole) > 0.9 and found[whole & ~half].mean() > 0.8


def test_keypoints_keep_the_hand_out_of_background_of_its_colour(seq):
    """A wall of the hand's colour inside the hand's box: colours cannot tell them apart, the skeleton can."""
    truth = {e: m[0] for e, m in seq.masks.items()}
    image, free = seq.images[0].copy(), ~(truth["right"] | truth["object"])
    wall = cv2.dilate(truth["right"].astype(np.uint8), np.ones((61, 61), np.uint8)) > 0
    image[wall & free] = np.median(image[truth["right"]], axis=0).astype(np.uint8)
    labels = LabelSet(("right", "object"))
    prompts = {e: EntityPrompt(box=box(m, 20 if e == "right" else 0), positive=spread(m, 3)) for e, m in truth.items()}
    marks = Marks.of(prompts, labels, 1.0, None, np.zeros(image.shape[:2], np.uint8))
    with_joints, without = (
        cut_clicked([MarkedFrame(image, marks, cues)], labels)[0] == 1 for cues in (Cues({1: seq.j2d_px["right"][0]}), Cues())
    )
    assert iou(with_joints, truth["right"]) > iou(without, truth["right"]) + 0.15
