"""Quality metrics of the stages' results: functions of arrays with one value per sequence or per frame."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import median_filter

from holdprep.threads import THREADS, in_order

JUMP_FACTOR = 1.5  # largest ratio of a mask's area and the running median; beyond it, a part is missing or the mask leaks
CONTOUR_SHARE = 0.008  # of the image's diagonal: DAVIS' tolerance
JUMP_WINDOW = 9  # frames of the running median, which detects errors of up to four frames in a row
CONTACT_PX = 3  # largest distance of masks that touch


@dataclass(frozen=True)
class MaskCurves:
    """Curves of one entity's masks: `area_px` (T,), `border_pct` (T,) share of the image's border that is covered, `is_jump` (T,) bool."""

    area_px: np.ndarray
    border_pct: np.ndarray
    is_jump: np.ndarray

    def metrics(self) -> dict[str, float]:
        """frames_with_mask_pct, the count area_jumps and, over the frames with a mask, area_median_px and border_leak_pct.

        The latter is the 95th percentile, which detects a leak in one of twenty frames.
        """
        seen = self.area_px > 0
        return {
            "frames_with_mask_pct": 100 * float(seen.mean()),
            "area_median_px": float(np.median(self.area_px[seen])) if seen.any() else 0.0,
            "area_jumps": int(self.is_jump.sum()),
            "border_leak_pct": float(np.percentile(self.border_pct[seen], 95)) if seen.any() else 0.0,
        }


def mask_curves(masks: Iterable[np.ndarray]) -> MaskCurves:
    """Curves of masks (H, W) bool, one in memory at a time; raises ValueError without masks."""
    areas, borders = [], []
    for mask in masks:
        edge = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
        areas.append(int(np.count_nonzero(mask)))
        borders.append(100 * float(edge.mean()))
    if not areas:
        raise ValueError("no masks")
    area = np.array(areas)
    return MaskCurves(area, np.array(borders), area_jumps(area))


def mask_metrics(masks: Iterable[np.ndarray]) -> dict[str, float]:
    """The numbers of `MaskCurves.metrics` for masks (T, H, W) bool."""
    return mask_curves(masks).metrics()


def all_mask_metrics(masks: Mapping[str, Sequence[np.ndarray]]) -> tuple[dict[str, float | int | str | bool], dict[str, list[float]]]:
    """Metrics (`<entity>.<name>`) and curves (`<entity>.area_px`) of every entity, with overlap and contact of hands and object.

    `masks` holds (T, H, W) bool by entity: right, left, object.
    """
    metrics: dict[str, float | int | str | bool] = {}
    curves: dict[str, list[float]] = {}
    for entity, frames in masks.items():
        found = mask_curves(frames)
        metrics |= {f"{entity}.{name}": value for name, value in found.metrics().items()}
        curves[f"{entity}.area_px"] = found.area_px.astype(float).tolist()
        if entity != "object" and "object" in masks:
            metrics |= {f"{entity}.{name}": value for name, value in overlap_metrics(frames, masks["object"]).items()}
    return metrics, curves


def area_jumps(area_px: np.ndarray, factor: float = JUMP_FACTOR, window: int = JUMP_WINDOW) -> np.ndarray:
    """(T,) bool: frames whose area differs by more than `factor` from the running median over frames with a mask.

    Empty frames are not jumps (they are counted separately), and are not part of the median.
    """
    is_jump = np.zeros(len(area_px), bool)
    seen = np.flatnonzero(area_px > 0)
    if len(seen) > 2:
        area = area_px[seen].astype(float)
        # mirrored, not repeated, at the ends, so that the first frame is not its own reference
        median = median_filter(area, size=min(window, 2 * len(seen) - 3), mode="mirror")
        is_jump[seen] = np.maximum(area / median, median / area) > factor
    return is_jump


def overlap_metrics(hand: Iterable[np.ndarray], obj: Iterable[np.ndarray], dilate_px: int = 3) -> dict[str, float]:
    """Overlap and contact of a hand's masks (T, H, W) with the object's.

    overlap_pct is the largest overlap as a share of the smaller mask; touching_pct the share of frames with both masks in which they touch
    (0 if there are none).
    """
    overlaps, touches = [], []
    for a, b in zip(hand, obj, strict=True):
        smaller = min(np.count_nonzero(a), np.count_nonzero(b))
        if smaller:
            overlaps.append(100 * np.count_nonzero(a & b) / smaller)
            touches.append(_touch(a, b, dilate_px))
    if not overlaps:
        return {"overlap_pct": 0.0, "touching_pct": 0.0}
    return {"overlap_pct": float(max(overlaps)), "touching_pct": 100 * float(np.mean(touches))}


def touching_frames(
    mask_a: Sequence[np.ndarray] | np.ndarray, mask_b: Sequence[np.ndarray] | np.ndarray, dilate_px: int = CONTACT_PX
) -> np.ndarray:
    """(T,) bool: frames in which a pixel of one mask lies within `dilate_px` pixels of the other; masks are (T, H, W) bool."""
    return np.array(
        list(in_order(lambda t: _touch(mask_a[t], mask_b[t], dilate_px), range(max(len(mask_a), len(mask_b))), THREADS, THREADS)), bool
    )


def _touch(a: np.ndarray, b: np.ndarray, dilate_px: int) -> bool:
    if not (a.any() and b.any()):
        return False
    x, y, width, height = cv2.boundingRect(a.astype(np.uint8))
    near = slice(max(y - dilate_px, 0), y + height + dilate_px), slice(max(x - dilate_px, 0), x + width + dilate_px)
    if not b[near].any():
        return False
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * dilate_px + 1, 2 * dilate_px + 1))
    return bool((cv2.dilate(a[near].astype(np.uint8), kernel) & b[near]).any())


def contour_f(mask: np.ndarray, true: np.ndarray) -> float:
    """F measure of two masks' contours (H, W): harmonic mean of the shares of each within 0.8 % of the image's diagonal of the other.

    Perazzi et al., A benchmark dataset and evaluation methodology for video object segmentation (DAVIS), CVPR 2016. 1 where both are empty,
    0 where one is.
    """
    contours = [_contour(m) for m in (mask, true)]
    if not all(c.any() for c in contours):
        return float(not any(c.any() for c in contours))
    radius = int(np.ceil(CONTOUR_SHARE * np.hypot(*mask.shape)))
    near = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    found, wanted = contours
    precision = float(cv2.dilate(wanted, near)[found > 0].mean())
    recall = float(cv2.dilate(found, near)[wanted > 0].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _contour(mask: np.ndarray) -> np.ndarray:
    """(H, W) 0/1: pixels of the mask with a neighbour outside of it, except at the image's border."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    return (mask & (cv2.erode(padded, np.ones((3, 3), np.uint8))[1:-1, 1:-1] == 0)).astype(np.uint8)


def longest_gap(is_valid: np.ndarray) -> int:
    """Length of the longest run of frames that are not valid; `is_valid` is (T,) bool."""
    start, stop = bounds_of_longest_gap(is_valid)
    return stop - start


def bounds_of_longest_gap(is_valid: np.ndarray) -> tuple[int, int]:
    """First frame of the longest run that is not valid, the first of equally long ones, and the one after its last; (0, 0) without any."""
    edges = np.flatnonzero(np.diff(np.concatenate([[1], np.asarray(is_valid, bool).astype(int), [1]]))).reshape(-1, 2)
    if not len(edges):
        return 0, 0
    start, stop = edges[int((edges[:, 1] - edges[:, 0]).argmax())].tolist()
    return start, stop


def acceleration(points: np.ndarray) -> np.ndarray:
    """(T,) mean norm of the second difference over time of points (T, N, D), per frame squared.

    NaN at both ends and next to NaN frames.
    """
    result = np.full(len(points), np.nan)
    if len(points) > 2:
        result[1:-1] = np.linalg.norm(points[2:] - 2 * points[1:-1] + points[:-2], axis=-1).mean(axis=-1)
    return result
