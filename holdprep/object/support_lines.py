"""Support lines of object masks: the lines that touch the silhouette from outside, in evenly spaced directions of the image.

A line touches the silhouette of an object exactly where it touches that of the object's convex hull. Beside the hand the mask ends where
the object continues, so that a line gives two bounds there: the object's visible pixels, and those of object and hands together.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

NUM_DIRECTIONS = 60
_ANGLES = 2 * np.pi * np.arange(NUM_DIRECTIONS) / NUM_DIRECTIONS
DIRECTIONS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)  # (Q, 2) unit vectors, x right and y down
HALF_PX = 0.5  # from the centre of an outermost pixel to the silhouette's edge
MIN_PART = 0.05  # of the largest part of a mask; smaller parts are dropped
TOUCHING_PX = 1.0  # pixels of the outline this near to a line are touched by it


@dataclass(frozen=True)
class SupportLines:
    """Support lines of T frames in Q directions: the pixels x of an entity have DIRECTIONS[q] x <= its offset.

    `object_px` (T, Q) is the offset of the visible object, `limit_px` (T, Q) that of object and hands together. `is_exact` (T, Q) bool:
    the line touches the object's own outline, where neither a hand nor the image's border is near. Frames without a mask have no exact
    line and infinite bounds.
    """

    object_px: np.ndarray
    limit_px: np.ndarray
    is_exact: np.ndarray

    def frames(self, at: np.ndarray) -> "SupportLines":
        """The lines of the frames `at`, an index or mask over T."""
        return SupportLines(self.object_px[at], self.limit_px[at], self.is_exact[at])

    def without(self, frames: np.ndarray) -> "SupportLines":
        """The same with `frames` (T,) bool as if they had no mask."""
        dropped = frames[:, None]
        return SupportLines(np.where(dropped, -np.inf, self.object_px), np.where(dropped, np.inf, self.limit_px), self.is_exact & ~dropped)


def support_lines(masks: Iterable[np.ndarray], hands: Iterable[np.ndarray], margin_px: int) -> SupportLines:
    """Support lines of masks (H, W) bool; `hands` (H, W) bool are all hands' pixels. Outlines within `margin_px` of a hand are hidden."""
    lines = [_of_frame(mask, hand, margin_px) for mask, hand in zip(masks, hands, strict=True)]
    object_px, limit_px, is_exact = (np.stack(rows) for rows in zip(*lines, strict=True))
    return SupportLines(object_px, limit_px, is_exact)


def _of_frame(mask: np.ndarray, hand: np.ndarray, margin_px: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if not mask.any():
        unknown = np.full(NUM_DIRECTIONS, np.inf)
        return -unknown, unknown, np.zeros(NUM_DIRECTIONS, bool)
    mask = large_parts(mask)
    outline = _outline(mask)
    along = outline @ DIRECTIONS.T
    offset = along.max(axis=0)
    touched = along > offset - TOUCHING_PX
    is_exact = ~(touched & _is_hidden(outline, hand, margin_px)[:, None]).any(axis=0)
    limit = (_outline(mask | hand) @ DIRECTIONS.T).max(axis=0)
    return offset + HALF_PX, limit + HALF_PX, is_exact


def large_parts(mask: np.ndarray) -> np.ndarray:
    """The mask (H, W) bool without parts that are small beside the largest one."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    area = stats[:, cv2.CC_STAT_AREA]
    area[0] = 0
    return np.asarray((area >= max(1, MIN_PART * area.max()))[labels])


def _outline(mask: np.ndarray) -> np.ndarray:
    """(C, 2) pixels (x, y) of the outer outlines."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.concatenate([part[:, 0] for part in found])


def _is_hidden(outline: np.ndarray, hand: np.ndarray, margin_px: int) -> np.ndarray:
    """(C,) bool: pixels of an outline beside a hand or at the image's border."""
    x, y = outline.T
    height, width = hand.shape
    near = cv2.dilate(hand.astype(np.uint8), np.ones((2 * margin_px + 1,) * 2, np.uint8)) > 0
    return near[y, x] | (np.minimum(x, width - 1 - x) < margin_px) | (np.minimum(y, height - 1 - y) < margin_px)
