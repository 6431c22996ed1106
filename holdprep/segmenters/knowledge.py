"""What the segmenter without weights learns from a first pass: the clip's frames, label colours, the background's plate."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

HISTOGRAM_BINS = 24
STATIC_MEDIAN_PX, STATIC_P95_PX = 0.15, 0.5  # background motion a frame below which the camera stands still


@dataclass
class Clip:
    """The frames at work size: BGR uint8, CIE Lab float16 and grey uint8."""

    bgr: list[np.ndarray] = field(default_factory=list)
    lab: list[np.ndarray] = field(default_factory=list)
    grey: list[np.ndarray] = field(default_factory=list)

    def add(self, image: np.ndarray) -> None:
        self.bgr.append(image)
        self.lab.append(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_BGR2Lab).astype(np.float16))
        self.grey.append(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))

    @property
    def shape(self) -> tuple[int, int]:
        return self.grey[0].shape[:2]


class Knowledge:
    """What a first pass tells about the whole clip: each label's colours, and the background's plate where the camera stands still."""

    def __init__(self, clip: Clip, keys: Mapping[int, np.ndarray], labels: list[np.ndarray], count: int) -> None:
        self._clip = clip
        self._colors = self._histograms(clip, keys, count)
        self._plate = self._background(clip, labels) if is_static(clip, labels) else None

    @staticmethod
    def _bins(lab: np.ndarray) -> np.ndarray:
        unit = (lab.astype(np.float32) + np.array([0, 60, 60], np.float32)) / np.array([100, 120, 120], np.float32)
        return np.clip(unit * HISTOGRAM_BINS, 0, HISTOGRAM_BINS - 1).astype(np.intp)

    def _histograms(self, clip: Clip, keys: Mapping[int, np.ndarray], count: int) -> np.ndarray:
        """Log-likelihood (bins, bins, bins, L) of a colour under each label, from the key frames."""
        tables = np.zeros((count, *[HISTOGRAM_BINS] * 3), np.float32)
        for t, labels in keys.items():
            bins = self._bins(clip.lab[t])
            for k in range(count):
                np.add.at(tables[k], tuple(bins[labels == k].T), 1.0)
        return np.stack([np.log(gaussian_filter(h, 0.8) / max(float(h.sum()), 1.0) + 1e-6) for h in tables], axis=-1)

    @staticmethod
    def _background(clip: Clip, labels: list[np.ndarray], margin: int = 15, frames: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Median colour (H, W, 3), its spread, and where it is known, over frames in which a pixel is far from any entity."""
        step = max(len(labels) // frames, 1)
        stack = []
        for t in range(0, len(labels), step):
            free = cv2.erode((labels[t] == 0).astype(np.uint8), np.ones((margin, margin), np.uint8), borderValue=1) > 0
            stack.append(np.where(free[..., None], clip.lab[t], np.nan).astype(np.float16))
        seen = np.stack(stack)
        plate, spread = np.zeros((*clip.shape, 3), np.float32), np.zeros((*clip.shape, 3), np.float32)
        known = np.isfinite(seen[..., 0]).sum(axis=0) >= 3
        for y in range(clip.shape[0]):
            at = known[y]
            row = seen[:, y, at].astype(np.float32)
            plate[y, at] = np.nanmedian(row, axis=0)
            spread[y, at] = 1.48 * np.nanmedian(np.abs(row - plate[y, at]), axis=0)
        return plate, spread, known

    def evidence(self, t: int, region: tuple[slice, slice]) -> np.ndarray:
        """Log-evidence (h, w, L) for each label in a frame's region."""
        lab = self._clip.lab[t][region].astype(np.float32)
        bins = self._bins(lab)
        likelihood = self._colors[bins[..., 0], bins[..., 1], bins[..., 2]]
        evidence = 0.5 * np.clip(likelihood - likelihood.max(axis=-1, keepdims=True), -3, 0)
        # hand and object differ in colour more reliably than either from a background that may hold the arm and its like
        entities = likelihood[..., 1:]
        evidence[..., 1:] += 0.5 * np.clip(entities - entities.max(axis=-1, keepdims=True), -4, 0)
        if self._plate is not None:
            evidence[..., 0] += self._plate_evidence(lab, region)
        return evidence

    def _plate_evidence(self, lab: np.ndarray, region: tuple[slice, slice]) -> np.ndarray:
        """How much a pixel looks like the plate, or one pixel beside it; darker counts half, shadows fall on backgrounds."""
        assert self._plate is not None
        plate, spread, known = (part[region] for part in self._plate)
        best: np.ndarray = np.full(lab.shape[:2], np.inf, np.float32)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                off = lab - np.roll(plate, (dy, dx), axis=(0, 1))
                off = off / (np.array([5, 2.5, 2.5], np.float32) + spread)
                off[..., 0] = np.where(off[..., 0] < 0, 0.5 * off[..., 0], off[..., 0])
                best = np.minimum(best, np.square(off).sum(axis=-1))
        best = cv2.GaussianBlur(best, (0, 0), 1.2)
        return np.where(known, np.clip(0.4 * (6 - best), -3, 1.8), 0).astype(np.float32)


def is_static(clip: Clip, labels: list[np.ndarray]) -> bool:
    """True if the background's corners do not move from frame to frame."""
    moved = []
    for t in range(1, len(clip.grey)):
        free = cv2.erode((labels[t - 1] == 0).astype(np.uint8) * 255, np.ones((15, 15), np.uint8))
        corners = cv2.goodFeaturesToTrack(clip.grey[t - 1], 300, 0.005, 8, mask=free)
        if corners is None:
            continue
        found, status, _ = cv2.calcOpticalFlowPyrLK(clip.grey[t - 1], clip.grey[t], corners, None, winSize=(15, 15))  # type: ignore[call-overload]
        step = np.linalg.norm((found - corners).reshape(-1, 2)[status.ravel() > 0], axis=1)
        if len(step):
            moved.append(float(np.median(step)))
    return bool(moved) and float(np.median(moved)) < STATIC_MEDIAN_PX and float(np.percentile(moved, 95)) < STATIC_P95_PX
