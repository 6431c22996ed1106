"""Which of several people's hands is the one of the clip: the one nearest its mask, and nearest its place in the frames before and after."""

from collections.abc import Sequence

import cv2
import numpy as np

MASK = 4.0  # cost of a hand's size away from the mask, to that of a hand's size moved since the last frame
DOUBT = 0.5  # cost, in hand sizes, of a hand whose joints have no confidence


def nearest(candidates: Sequence[Sequence[np.ndarray]], masks: Sequence[np.ndarray] | None) -> list[int]:
    """The number of one hand per frame, of candidates (21, 3) px and confidence; 0 in frames without any.

    The chosen hands have the smallest sum of distances to their mask, of `masks` (H, W) bool, and to the hand of the frame before
    (dynamic programming), in units of the median hand's size.
    """
    at = [t for t, hands in enumerate(candidates) if hands]
    seen = [[_seen(hand) for hand in candidates[t]] for t in at]
    size_px = _size_px([points for hands in seen for points in hands])
    total: list[np.ndarray] = []
    back: list[np.ndarray] = []
    for i, (t, hands) in enumerate(zip(at, seen, strict=True)):
        own = _cost(candidates[t], hands, None if masks is None else masks[t], size_px)
        if i == 0:
            total.append(own)
            continue
        moved = np.array([[_distance(before, hand) for before in seen[i - 1]] for hand in hands]) / size_px
        paths = total[-1] + np.nan_to_num(moved, nan=1.0)
        back.append(paths.argmin(axis=1))
        total.append(own + paths.min(axis=1))
    chosen = [0] * len(candidates)
    number = int(total[-1].argmin()) if total else 0
    for i in range(len(at) - 1, -1, -1):
        chosen[at[i]] = number
        number = int(back[i - 1][number]) if i else 0
    return chosen


def _seen(hand: np.ndarray) -> np.ndarray:
    """(N, 2) pixels of the visible joints."""
    return hand[np.isfinite(hand).all(axis=1) & (hand[:, 2] > 0), :2]


def _size_px(hands: Sequence[np.ndarray]) -> float:
    """Median over hands of the larger side of the joints' bounding box."""
    sizes = [float(np.ptp(points, axis=0).max()) for points in hands if len(points) > 1]
    return max(float(np.median(sizes)), 1.0) if sizes else 1.0


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a.mean(axis=0) - b.mean(axis=0))) if len(a) and len(b) else float("nan")


def _cost(hands: Sequence[np.ndarray], seen: Sequence[np.ndarray], mask: np.ndarray | None, size_px: float) -> np.ndarray:
    """Distance from the mask, and what the joints lack of full confidence, of each hand."""
    doubt = np.array([DOUBT * (1 - float(np.clip(np.nan_to_num(hand[:, 2]), 0, 1).mean())) for hand in hands])
    if mask is None or not mask.any():
        return doubt
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    height, width = mask.shape
    found = []
    for points in seen:
        inside = np.clip(points, 0, [width - 1, height - 1])
        x, y = inside.round().astype(int).T
        beyond = np.linalg.norm(points - inside, axis=1)
        found.append(float((away[y, x] + beyond).mean()) if len(points) else max(height, width))
    return MASK * np.array(found) / size_px + doubt
