"""Rasterisation of projected triangle meshes."""

import cv2
import numpy as np

SUBPIXEL_BITS = 4
FAR_PX = 1e5  # OpenCV's fixed-point coordinates overflow beyond


def covered(px: np.ndarray, faces: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(height, width) bool pixels under the triangles `faces` (F, 3) of points `px` (V, 2), in an image of `size` (width, height)."""
    image = np.zeros(size[::-1], np.uint8)
    corners = np.round(np.clip(px, -FAR_PX, FAR_PX) * 2**SUBPIXEL_BITS).astype(np.int32)[faces]
    for corner in corners:
        cv2.fillConvexPoly(image, corner, 1, cv2.LINE_8, SUBPIXEL_BITS)
    return image > 0
