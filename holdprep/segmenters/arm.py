"""The bare arm: skin that belongs to nobody, and goes on from the hand without an edge.

Where hand and arm are two labels, their border is carried like any other, and the background's colours have no skin among them.
"""

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

BINS = 32
TYPICAL_PCT = 15.0  # a colour is skin where it is commoner in the hand than that share of the hand's own pixels have it
THIN_PX = 5  # strips narrower than this beside a hand are its own blurred edge,
THIN = 0.15  # and narrower than that share of its size, a shelf or a twig of its colour
REACH = 1.0  # of the hand's size, in which an arm is looked for
KEPT_PX = 30  # next to a hand an arm's label is carried so far


def find_arm(lab: np.ndarray, labels: np.ndarray, hands: list[int]) -> np.ndarray:
    """Pixels (H, W) bool of the background that look like the hands and hang together with them; `lab` (H, W, 3) is the key frame."""
    hand = np.isin(labels, hands)
    if not hand.any():
        return hand
    bins = tuple(np.clip((lab.astype(np.float32) / 100 + [0, 0.5, 0.5]) * BINS, 0, BINS - 1).astype(np.intp).reshape(-1, 3).T)
    table = np.zeros((BINS,) * 3, np.float32)
    np.add.at(table, tuple(b[hand.ravel()] for b in bins), 1.0)
    common = gaussian_filter(table, 1.0)[bins].reshape(hand.shape)
    skin = (common > np.percentile(common[hand], TYPICAL_PCT)) & (labels == 0) & _near(hand, REACH * np.sqrt(hand.sum()))
    width = max(THIN_PX, round(THIN * np.sqrt(hand.sum()))) | 1  # an even kernel would shift it
    most = cv2.medianBlur(skin.astype(np.uint8), 5)  # single pixels are off by noise
    strip = cv2.morphologyEx(most, cv2.MORPH_OPEN, np.ones((width, width), np.uint8)) * (labels == 0)
    _, parts = cv2.connectedComponents(strip.astype(np.uint8), connectivity=4)
    touching = np.unique(parts[_near(hand, THIN_PX)])
    return np.isin(parts, touching[touching > 0])


def keep_near(labels: np.ndarray, arm: int, hands: list[int]) -> np.ndarray:
    """Label pictures whose arm ends where it no longer helps to place a hand's border; without any hand in sight it stays."""
    hand = np.isin(labels, hands)
    return np.where((labels == arm) & ~_near(hand, KEPT_PX), 0, labels).astype(labels.dtype) if hand.any() else labels


def _near(mask: np.ndarray, reach_px: float) -> np.ndarray:
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3) <= reach_px)
