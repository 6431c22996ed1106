"""Hand outlines drawn by a person on frames of real clips (tests/data/outlines/), and how masks, meshes and keypoints compare with them.

Outlines end at the wrist and leave the object's pixels out; they are in pixels of images/, before any undistortion. They measure, and are
never an input of the pipeline.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

FOLDER = Path(__file__).parent / "data" / "outlines"
NEAR = np.ones((9, 9), np.uint8)  # a mask counts within 4 px of the outline's convex hull: an arm beyond the wrist is not judged
KEYPOINT_OFF_PX = 25.0


@dataclass(frozen=True)
class Outline:
    """The drawn hand of one frame: `drawn` (H, W) bool, and the region `near` (H, W) bool about it in which a mask is judged."""

    drawn: np.ndarray
    near: np.ndarray


def read_outlines(clip: str, size: tuple[int, int]) -> dict[str, Outline]:
    """Outlines of tests/data/outlines/<clip>_hand.json by frame name, drawn in pictures of `size` (width, height).

    A frame is one polygon [[x, y], ..] or {"polygons": [polygon, ..]}.
    """
    frames = json.loads((FOLDER / f"{clip}_hand.json").read_text())["frames"]
    return {name: outline(told["polygons"] if isinstance(told, dict) else [told], size) for name, told in frames.items()}


def outline(polygons: list[list[list[float]]], size: tuple[int, int]) -> Outline:
    """Polygons in pixels, drawn together in a picture of `size` (width, height)."""
    corners = [np.round(np.asarray(polygon, np.float64)).astype(np.int32) for polygon in polygons]
    drawn, near = np.zeros(size[::-1], np.uint8), np.zeros(size[::-1], np.uint8)
    for polygon in corners:
        cv2.fillPoly(drawn, [polygon], 1)
    cv2.fillConvexPoly(near, cv2.convexHull(np.concatenate(corners)), 1)
    return Outline(drawn > 0, cv2.dilate(near, NEAR) > 0)


def mask_iou(mask: np.ndarray, hand: Outline) -> float:
    """IoU of a hand mask (H, W) bool with the outline; what lies away from the outline (the forearm) is left out."""
    return _iou(mask & hand.near, hand.drawn)


def posed_iou(silhouette: np.ndarray, object_mask: np.ndarray, hand: Outline) -> float:
    """IoU of a posed hand's silhouette (H, W) bool with the outline; the object's pixels, where it may hide the hand, are left out."""
    return _iou(silhouette & ~(object_mask & ~hand.drawn), hand.drawn)


def keypoints_off(points_px: np.ndarray, object_mask: np.ndarray, hand: Outline, limit_px: float = KEYPOINT_OFF_PX) -> np.ndarray:
    """Which of the keypoints (N, 2) lie farther than `limit_px` outside the outline: (N,) bool.

    A keypoint on the object's mask may be hidden by it, and one beyond the image's border has no outline to be compared with: both count
    as right, as does one that is NaN.
    """
    height, width = hand.drawn.shape
    distance_px = cv2.distanceTransform((~hand.drawn).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    x, y = np.round(np.nan_to_num(points_px, nan=-1.0)).astype(int).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    at = y.clip(0, height - 1), x.clip(0, width - 1)
    return np.asarray(inside & (distance_px[at] > limit_px) & ~object_mask[at])


def _iou(found: np.ndarray, drawn: np.ndarray) -> float:
    return float((found & drawn).sum() / (found | drawn).sum())
