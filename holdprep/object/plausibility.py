"""What a wrong reconstruction cannot hide: its cloud against the masks, and how its frames hang together."""

from collections.abc import Sequence

import cv2
import numpy as np


def longest_gap(known: np.ndarray) -> int:
    """Length of the longest run of frames that are not `known` (T,) bool."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], known, [True]]).astype(int)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def field_of_view_deg(focal_px: float, image_size: tuple[int, int]) -> float:
    """Angle that the longer side of a picture (width, height) subtends."""
    return float(np.degrees(2 * np.arctan(max(image_size) / 2 / focal_px)))


def cloud_outside_pct(px: np.ndarray, masks: Sequence[np.ndarray], hidden: Sequence[np.ndarray], margin_px: int = 3) -> float:
    """Median over frames: share in percent of the cloud's projections px (T, N, 2) that fall neither on the object's mask (H, W) nor on
    what may hide it, `hidden` (H, W), both bool and widened by `margin_px`.

    An opaque body projects into its own outline from everywhere: a cloud that does not is not that body's, or its pose is wrong. Points
    off the picture are not judged, nor are frames without a mask. NaN when none is left.
    """
    kernel = np.ones((2 * margin_px + 1, 2 * margin_px + 1), np.uint8)
    shares = []
    for points, mask, other in zip(px, masks, hidden, strict=True):
        x, y = _seen(points, mask.shape).T
        if mask.any() and len(x):
            allowed = cv2.dilate((mask | other).astype(np.uint8), kernel) > 0
            shares.append(100 * float(1 - allowed[y, x].mean()))
    return float(np.median(shares)) if shares else float("nan")


def mask_covered_pct(px: np.ndarray, masks: Sequence[np.ndarray]) -> float:
    """Median over frames: share in percent of the object's mask (H, W) bool inside the convex outline of the cloud's projections px
    (T, N, 2).

    A cloud of one face only, or one squeezed flat, leaves most of the mask bare in some views. NaN when no frame has a mask.
    """
    shares = []
    for points, mask in zip(px, masks, strict=True):
        near = _seen(points, mask.shape)
        if not mask.any():
            continue
        hull = np.zeros(mask.shape, np.uint8)
        if len(near) >= 3:
            cv2.fillConvexPoly(hull, cv2.convexHull(near.astype(np.int32)), 1)
        shares.append(100 * float(hull[mask].mean()))
    return float(np.median(shares)) if shares else float("nan")


def _seen(points_px: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Whole pixels (x, y) of the points inside a picture of `shape` (H, W)."""
    whole = np.round(points_px[np.isfinite(points_px).all(axis=1)])
    return whole[((whole >= 0) & (whole < (shape[1], shape[0]))).all(axis=1)].astype(int)
