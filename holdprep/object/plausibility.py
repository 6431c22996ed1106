"""Plausibility metrics that reveal a wrong reconstruction: point cloud against masks, field of view."""

from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np

from holdprep.quality.metrics import bounds_of_longest_gap

MASK_LOST_PCT = 10.0  # of the cloud outside of a frame's mask: above, the mask lacks a part of the object


def field_of_view_deg(focal_px: float, image_size: tuple[int, int]) -> float:
    """Field of view along the longer side of an image (width, height)."""
    return float(np.degrees(2 * np.arctan(max(image_size) / 2 / focal_px)))


def cloud_outside_pct(
    px: np.ndarray,
    masks: Sequence[np.ndarray],
    occluders: Sequence[np.ndarray],
    margin_px: int = 3,
) -> np.ndarray:
    """Percentage (T,) of the projected cloud px (T, N, 2) outside of the object's masks and occluders in each frame.

    Masks and occluders are (H, W) bool, dilated by `margin_px`. An object projects into its silhouette in every view, so
    points outside indicate a mask that lacks a part of it in some frames, and a wrong cloud or pose in most. Points outside of the image
    are ignored; NaN for frames without a mask or a point.
    """
    return np.array([outside_pct(*frame, margin_px) for frame in zip(px, masks, occluders, strict=True)])


def outside_pct(points_px: np.ndarray, mask: np.ndarray, occluder: np.ndarray, margin_px: int = 3) -> float:
    """`cloud_outside_pct` of one frame's points (N, 2)."""
    x, y = _inside(points_px, mask.shape).T
    if not mask.any() or not len(x):
        return float("nan")
    kernel = np.ones((2 * margin_px + 1, 2 * margin_px + 1), np.uint8)
    allowed = cv2.dilate((mask | occluder).astype(np.uint8), kernel) > 0
    return 100 * float(1 - allowed[y, x].mean())


def median_or_nan(values: np.ndarray) -> float:
    """Median of the finite values; NaN without any."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


def gap_filled_by(registered: np.ndarray, origin: Sequence[str]) -> str | None:
    """How most poses of the longest gap in `registered` (T,) were filled in, by the frames' `origin` (T,); None without a gap."""
    start, stop = bounds_of_longest_gap(registered)
    return Counter(origin[start:stop]).most_common(1)[0][0] if stop > start else None


def mask_covered_pct(points_px: np.ndarray, mask: np.ndarray) -> float:
    """Percentage of a frame's mask (H, W) bool inside the convex hull of the projected cloud (N, 2); NaN without a mask.

    A cloud of a single face, or a flattened one, leaves most of the mask uncovered in some views.
    """
    if not mask.any():
        return float("nan")
    pixels, hull = _inside(points_px, mask.shape), np.zeros(mask.shape, np.uint8)
    if len(pixels) >= 3:
        cv2.fillConvexPoly(hull, cv2.convexHull(pixels.astype(np.int32)), 1)
    return 100 * float(hull[mask].mean())


def _inside(points_px: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(M, 2) whole pixels (x, y) of the points inside an image of `shape` (H, W)."""
    rounded = np.round(points_px[np.isfinite(points_px).all(axis=1)])
    return rounded[((rounded >= 0) & (rounded < (shape[1], shape[0]))).all(axis=1)].astype(int)
