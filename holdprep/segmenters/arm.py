"""The bare arm: skin of no entity, adjacent to the hand without an edge in the image.

With separate labels of hand and arm, their border is propagated like others, and the background's colours contain no skin.
"""

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

BINS = 32
TYPICAL_PCT = 15.0  # percentile of colour frequencies over the hand's pixels, above which a colour is skin
THIN_PX = 5  # narrower strips beside a hand are its blurred edge
THIN = 0.15  # of the hand's size: narrower strips are other objects of similar colour
REACH = 1.0  # of the hand's size: maximal distance of an arm from the hand
MIN_REST = 0.2  # of the background: less of it shows too few of its colours
KEPT_PX = 30  # distance from the hand within which the arm's label is propagated


def find_arm(lab: np.ndarray, labels: np.ndarray, hands: list[int], maybe_arm: np.ndarray | None = None) -> np.ndarray:
    """Pixels (H, W) bool of the background with the hands' colours and connected to them; `lab` (H, W, 3) is the key frame.

    Where an arm is expected, `maybe_arm` (H, W) bool, colours are the hands' that are more frequent there than in the background elsewhere.
    """
    hand = np.isin(labels, hands)
    if not hand.any():
        return hand
    bins = tuple(np.clip((lab.astype(np.float32) / 100 + [0, 0.5, 0.5]) * BINS, 0, BINS - 1).astype(np.intp).reshape(-1, 3).T)
    common = _frequency(bins, hand)
    similar = common > np.percentile(common[hand], TYPICAL_PCT)
    if maybe_arm is not None:
        similar |= maybe_arm & (common > _frequency(bins, surely_background(labels, maybe_arm)))
    skin = similar & (labels == 0) & _near(hand, REACH * np.sqrt(hand.sum()))
    width = max(THIN_PX, round(THIN * np.sqrt(hand.sum()))) | 1  # odd, since an even kernel would shift the result
    most = cv2.medianBlur(skin.astype(np.uint8), 5)  # removes noise of single pixels
    strip = cv2.morphologyEx(most, cv2.MORPH_OPEN, np.ones((width, width), np.uint8)) * (labels == 0)
    _, parts = cv2.connectedComponents(strip.astype(np.uint8), connectivity=4)
    touching = np.unique(parts[_near(hand, THIN_PX)])
    return np.isin(parts, touching[touching > 0])


def surely_background(labels: np.ndarray, maybe_arm: np.ndarray) -> np.ndarray:
    """Pixels (H, W) bool labelled background that are no arm without a label; all of the background if little of it is left."""
    background = np.asarray(labels == 0)
    rest = background & ~maybe_arm
    return rest if rest.sum() > MIN_REST * background.sum() else background


def _frequency(bins: tuple[np.ndarray, ...], where: np.ndarray) -> np.ndarray:
    """Relative frequency (H, W) of each pixel's colour (its bins (H * W,) in each channel) among the pixels `where` (H, W) bool."""
    table = np.zeros((BINS,) * 3, np.float32)
    np.add.at(table, tuple(b[where.ravel()] for b in bins), 1.0 / max(int(where.sum()), 1))
    return gaussian_filter(table, 1.0)[bins].reshape(where.shape)


def keep_near(labels: np.ndarray, arm: int, hands: list[int]) -> np.ndarray:
    """Label images with the arm restricted to KEPT_PX around the hands; unchanged without a visible hand."""
    hand = np.isin(labels, hands)
    return np.where((labels == arm) & ~_near(hand, KEPT_PX), 0, labels).astype(labels.dtype) if hand.any() else labels


def _near(mask: np.ndarray, reach_px: float) -> np.ndarray:
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3) <= reach_px)
