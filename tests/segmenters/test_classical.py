"""Outlines on key frames are carried through a clip with known masks."""

import cv2
import numpy as np
import pytest

from holdprep.errors import HoldprepError
from holdprep.segmenters.classical import propagate
from holdprep.segmenters.prompts import EntityPrompt
from tests.synthetic import make_sequence

FRAMES = 9


@pytest.fixture(scope="module")
def seq():
    return make_sequence(("right",), frames=FRAMES, size=(320, 240), degrees=30)


def outline(mask: np.ndarray) -> EntityPrompt:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    rough = [cv2.approxPolyDP(c, 3.0, True)[:, 0].astype(float) for c in contours if cv2.contourArea(c) > 30]
    return EntityPrompt(polygons=tuple(p for p in rough if len(p) >= 3))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_masks_follow_hand_and_object(seq):
    prompts = {t: {e: outline(m[t]) for e, m in seq.masks.items()} for t in (0, FRAMES - 1)}
    found = propagate(seq.images, prompts)
    assert set(found) == {"right", "object"}
    assert not (found["right"] & found["object"]).any()
    for entity, masks in seq.masks.items():
        assert min(iou(found[entity][t], masks[t]) for t in range(FRAMES)) > 0.85


def test_work_size_is_smaller_than_the_picture(seq):
    big = [cv2.resize(im, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) for im in seq.images[:3]]
    prompt = outline(seq.masks["object"][0])
    scaled = EntityPrompt(polygons=tuple(2 * p for p in prompt.polygons))
    found = propagate(big, {0: {"object": scaled}}, work_side=320)["object"]
    truth = cv2.resize(seq.masks["object"][2].astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST) > 0
    assert found.shape == (3, 480, 640)
    assert iou(found[2], truth) > 0.8  # one key frame, and a hand without an outline of its own


def test_boxes_and_clicks_outline_too(seq):
    mask = seq.masks["object"][0]
    ys, xs = np.nonzero(mask)
    box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
    inside = np.array([[np.median(xs), np.median(ys)]])
    found = propagate(seq.images[:1], {0: {"object": EntityPrompt(box=box, positive=inside)}})["object"]
    assert iou(found[0], mask) > 0.6


def test_prompts_outside_the_picture_are_refused(seq):
    far = EntityPrompt(polygons=(np.array([[900.0, 900], [950, 900], [950, 950]]),))
    with pytest.raises(HoldprepError, match="outline nothing"):
        propagate(seq.images[:2], {0: {"object": far}})
