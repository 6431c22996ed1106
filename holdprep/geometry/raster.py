"""Rasterisation of projected triangle meshes."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

SUBPIXEL_BITS = 4
FAR_PX = 1e5  # OpenCV's fixed-point coordinates overflow beyond


def covered(px: np.ndarray, faces: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(height, width) bool pixels under the triangles `faces` (F, 3) of points `px` (V, 2), in an image of `size` (width, height)."""
    image = np.zeros(size[::-1], np.uint8)
    paint(image, px[faces], [1] * len(faces))
    return image > 0


def paint(image: np.ndarray, corners_px: np.ndarray, colors: Sequence[Any]) -> None:
    """Fill triangles (F, 3, 2), one after the other, in an image (H, W) or (H, W, C) uint8, each in its colour."""
    fixed = np.round(np.clip(corners_px, -FAR_PX, FAR_PX) * 2**SUBPIXEL_BITS).astype(np.int32)
    for corner, color in zip(fixed, colors, strict=True):
        cv2.fillConvexPoly(image, corner, color, cv2.LINE_8, SUBPIXEL_BITS)
