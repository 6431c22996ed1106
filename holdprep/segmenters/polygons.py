"""Polygons of annotation tools as masks."""

from collections.abc import Sequence

import numpy as np

MAX_POINTS = 100_000


def fill(polygons: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) bool of `size` (H, W): the pixels whose centres lie in one of the polygons (N, 2), by the even-odd rule in each.

    Coordinates are those of annotation tools (COCO, labelme): the first pixel covers 0 to 1, its centre is at 0.5. Raises ValueError for
    polygons of fewer than 3 finite points.
    """
    mask = np.zeros(size, bool)
    for polygon in polygons:
        points = np.asarray(polygon, np.float64)
        if len(points) > MAX_POINTS:
            raise ValueError(f"a polygon has {len(points)} points, at most {MAX_POINTS} are read")
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
            raise ValueError(f"a polygon has shape {points.shape}, 3 finite points or more are needed")
        mask |= _inside(points - 0.5, size)
    return mask


def _inside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels at whole coordinates with an odd number of edges to their left."""
    height, width = size
    crossings = np.zeros((height, width + 1), np.int32)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        low, high = sorted((y0, y1))
        rows = np.arange(max(int(np.ceil(low)), 0), min(int(np.ceil(high)), height))
        at = x0 + (rows - y0) * (x1 - x0) / (y1 - y0)
        np.add.at(crossings, (rows, np.clip(np.ceil(at), 0, width).astype(int)), 1)
    return np.asarray(np.cumsum(crossings[:, :width], axis=1) % 2 == 1)
