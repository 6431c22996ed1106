"""The wrist: the border between a hand and its bare arm, without an edge in the image, which moves with the flow of the skin around it."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

MIN_BORDER_PX, MIN_SKIN_PX = 10, 40  # minimal border to fit the line, and minimal skin to estimate its motion
EDGE_PX = 7  # twice the distance from the skin's edge within which flow is affected by the background
WITHIN = 0.35  # of the hand's size: distance of skin that moves like the wrist
ARM_PX = 12  # range behind the line, to estimate the centre of the limb
REACH, LIMB = 0.6, 1.2  # of the hand's size, and of the line's length: range of the line, beyond which a thumb may be


@dataclass(frozen=True)
class Wrist:
    """A parabola through `at_px` (2,), perpendicular to the unit vector `to_hand` (2,), of curvature `bend` in 1/px.

    It extends `half_px` to each side; `size_px` is the size of the hand.
    """

    at_px: np.ndarray
    to_hand: np.ndarray
    bend: float
    half_px: float
    size_px: float

    @staticmethod
    def of(labels: np.ndarray, hand: int, arm: int) -> "Wrist | None":
        """The border between two labels of an image (H, W); None if they have none."""
        beside = cv2.dilate((labels == hand).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        border = np.argwhere(beside & (labels == arm))[:, ::-1].astype(np.float64)
        if len(border) < MIN_BORDER_PX:
            return None
        at = border.mean(axis=0)
        _, _, axes = np.linalg.svd(border - at, full_matrices=False)
        there = np.argwhere(labels == hand)[:, ::-1].mean(axis=0) - at
        to_hand = axes[1] * (1.0 if axes[1] @ there >= 0 else -1.0)
        along, off = (border - at) @ axes[0], (border - at) @ to_hand
        curve = np.linalg.lstsq(np.stack([along**2, np.ones(len(along))], axis=1), off, rcond=None)[0]
        half_px, size_px = LIMB * float(np.ptp(along)) / 2, float(np.sqrt((labels == hand).sum()))
        return Wrist(at + (curve[1] + 0.5) * to_hand, to_hand, float(curve[0]), half_px, size_px)

    def moved(self, flow: np.ndarray, skin: np.ndarray) -> "Wrist | None":
        """The wrist in the next frame, by `flow` (H, W, 2) of the pixels `skin` (H, W) bool of hand and arm; None with too few near it.

        Skin of a limb that rotates about itself moves along the line, whose centre stays that of the limb.
        """
        inner = cv2.erode(skin.astype(np.uint8), np.ones((EDGE_PX, EDGE_PX), np.uint8))
        ys, xs = np.nonzero(inner)
        along, beyond = self._seen(np.stack([xs, ys], axis=1)).T
        weight = np.exp(-0.5 * (along**2 + beyond**2) / (WITHIN * self.size_px) ** 2)
        if weight.sum() < MIN_SKIN_PX:
            return None
        design = np.stack([np.ones(len(along)), along, beyond], axis=1) * np.sqrt(weight)[:, None]
        step = flow[ys, xs] @ np.stack([self.line, self.to_hand], axis=1)
        (run, across), by_along, by_beyond = np.linalg.lstsq(design, step * np.sqrt(weight)[:, None], rcond=None)[0]
        to_hand = self.to_hand + (by_beyond[0] - by_along[1]) / 2 * self.line  # each alone is mostly the limb's rotation about itself
        limb = along[(beyond < 0) & (beyond > -ARM_PX)]
        run = (limb.min() + limb.max()) / 2 if len(limb) else run
        return replace(self, at_px=self.at_px + across * self.to_hand + run * self.line, to_hand=to_hand / np.linalg.norm(to_hand))

    @property
    def line(self) -> np.ndarray:
        """(2,) unit vector along the line."""
        return np.array([-self.to_hand[1], self.to_hand[0]])

    def _seen(self, points_px: np.ndarray) -> np.ndarray:
        """Coordinates (..., 2) of points (..., 2): along the line, and perpendicular to it towards the hand."""
        return (points_px - self.at_px) @ np.stack([self.line, self.to_hand], axis=1)

    def split(self, probability: np.ndarray, region: tuple[slice, slice], hand: int, arm: int) -> np.ndarray:
        """Probabilities (h, w, L) of a region, with those of hand and arm assigned by the side of the line on which a pixel lies."""
        ys, xs = np.mgrid[region]
        along, beyond = np.moveaxis(self._seen(np.stack([xs, ys], axis=-1)), -1, 0)
        share = np.clip(beyond - self.bend * along**2 + 0.5, 0, 1)
        near = (np.abs(along) < self.half_px) & (np.abs(beyond) < REACH * self.size_px)
        out, skin = probability.copy(), probability[..., hand] + probability[..., arm]
        out[..., hand] = np.where(near, share * skin, probability[..., hand])
        out[..., arm] = np.where(near, (1 - share) * skin, probability[..., arm])
        return out
