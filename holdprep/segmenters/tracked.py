"""The hand's keypoints as evidence for its mask: MediaPipe's tracker, which needs no mask, on the clip or around a box."""

from collections.abc import Mapping, Sequence

import numpy as np

from holdprep.hand.model import Side
from holdprep.hand.trackers.mediapipe import Settings, track_hand
from holdprep.segmenters.prompts import EntityPrompt

AROUND, MIN_INSIDE = 0.5, 0.5  # of a box's longer side: what is looked at around it; share of the keypoints that a box of the hand contains


def track_prompted(images: Sequence[np.ndarray], side: str, prompts: Mapping[int, Mapping[str, EntityPrompt]]) -> np.ndarray:
    """Keypoints (T, 21, 2) px of a hand in T BGR images; NaN where it is not found, or where the prompts show that it is another one.

    If most boxes of key frames do not contain the keypoints, another hand was tracked, and all are NaN.
    """
    which: Side = "left" if side == "left" else "right"
    boxes = {t: np.asarray(p[side].box) for t, p in prompts.items() if side in p and p[side].box is not None}
    x, y = 0, 0
    if len(images) == 1 and boxes:
        (x, y), image = _around(images[0], boxes[0])
        images = [image]
    joints_px = track_hand(images, which, settings=Settings()).j2d_px + np.array([x, y])
    other = [t for t, box in boxes.items() if np.isfinite(joints_px[t]).all() and _share_inside(joints_px[t], box) < MIN_INSIDE]
    joints_px[other] = np.nan
    if 2 * len(other) > len(boxes):
        joints_px[:] = np.nan
    for t, p in prompts.items():
        if side in p and p[side].absent:
            joints_px[t] = np.nan
    return joints_px


def _around(image: np.ndarray, box: np.ndarray) -> tuple[tuple[int, int], np.ndarray]:
    """Corner (x, y) and pixels of an image's part around a box."""
    margin = AROUND * max(box[2] - box[0], box[3] - box[1])
    height, width = image.shape[:2]
    x1, y1 = max(int(box[0] - margin), 0), max(int(box[1] - margin), 0)
    return (x1, y1), np.ascontiguousarray(image[y1 : min(int(box[3] + margin), height), x1 : min(int(box[2] + margin), width)])


def _share_inside(joints_px: np.ndarray, box: np.ndarray) -> float:
    margin = 0.1 * max(box[2] - box[0], box[3] - box[1])
    return float(((joints_px > box[:2] - margin) & (joints_px < box[2:] + margin)).all(axis=1).mean())
