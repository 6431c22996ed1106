"""Results of the classical segmenter's first pass: the clip's frames, label colours, the background's plate."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

from holdprep.segmenters.arm import surely_background
from holdprep.segmenters.camera import homographies
from holdprep.segmenters.classifier import LabelSet
from holdprep.segmenters.skeleton import arm_area, away_evidence, bridged, forearm_direction, hand_evidence

HISTOGRAM_BINS = 24
COLOR_WEIGHT, MAX_LOG_RATIO = 1.0, 8.0  # weight of colour, and bound of its log-ratio
MAYBE_SKIN, SURELY_SKIN = 1.0, 2.0  # log-likelihood ratios of the hand's and other labels' colours
BESIDE_PX, MIN_CLEAR = 50, 0.3  # maximal distance of a missing finger from an entity; minimal share of a pixel's views without skin
AWAY = -3.0  # log-evidence of keypoints for a hand, below which there is none
IQR_TO_STD = 0.74  # of a normal distribution
MAX_STD = 8.0  # of a plate's pixel in Lab units: above, what was seen there is not one background
STATIC_MEDIAN_PX, STATIC_P95_PX = 0.15, 0.5  # background motion per frame below which the camera is static


@dataclass
class Clip:
    """The frames at work size, BGR uint8; derived images are computed on demand to save memory."""

    bgr: list[np.ndarray]

    def lab(self, t: int, region: tuple[slice, slice] = (slice(None), slice(None))) -> np.ndarray:
        """CIE Lab (h, w, 3) float32 of a frame's region."""
        return cv2.cvtColor(self.bgr[t][region].astype(np.float32) / 255, cv2.COLOR_BGR2Lab)

    def grey(self, t: int) -> np.ndarray:
        """A frame in grey, (H, W) uint8."""
        return cv2.cvtColor(self.bgr[t], cv2.COLOR_BGR2GRAY)

    def halved(self) -> "Clip":
        return Clip([cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for image in self.bgr])

    @property
    def shape(self) -> tuple[int, int]:
        return self.bgr[0].shape[:2]


@dataclass(frozen=True)
class _Plate:
    """The background without entities: median colour (H, W, 3) in Lab, its standard deviation (H, W, 3), and where it is known (H, W)."""

    color: np.ndarray
    std: np.ndarray
    known: np.ndarray

    @staticmethod
    def of(seen: np.ndarray) -> "_Plate":
        """The plate from N views (N, H, W, 3), NaN where there is an entity or no view."""
        color, std = np.zeros(seen.shape[1:], np.float32), np.zeros(seen.shape[1:], np.float32)
        counts = np.isfinite(seen[..., 0]).sum(axis=0)
        for y in range(seen.shape[1]):
            row = np.sort(np.moveaxis(seen[:, y], 0, -1).astype(np.float32), axis=-1)  # NaN last
            at = (np.maximum(counts[y] - 1, 0)[:, None, None] * np.array([0.25, 0.5, 0.75])).round().astype(np.intp)
            low, color[y], high = np.moveaxis(np.take_along_axis(row, np.repeat(at, 3, axis=1), axis=-1), -1, 0)
            std[y] = IQR_TO_STD * (high - low)
        known = (counts >= 3) & (std.max(axis=-1) < MAX_STD)
        return _Plate(np.where(known[..., None], color, 0), np.where(known[..., None], std, 0), known)

    def seen_in(self, region: tuple[slice, slice], H: np.ndarray | None) -> "_Plate":
        """The part visible in a frame's region; `H` (3, 3) maps the plate's pixels to the frame's, None where both are the same."""
        if H is None:
            return _Plate(self.color[region], self.std[region], self.known[region])
        (y1, y2), (x1, x2) = ((s.start, s.stop) for s in region)
        shift = np.array([[1, 0, -x1], [0, 1, -y1], [0, 0, 1.0]])
        color, std, known = (
            cv2.warpPerspective(part, shift @ H, (x2 - x1, y2 - y1)) for part in (self.color, self.std, self.known.astype(np.float32))
        )
        return _Plate(color, std, known > 0.999)

    def evidence(self, lab: np.ndarray, region: tuple[slice, slice], H: np.ndarray | None) -> np.ndarray:
        """Log-evidence (h, w) for background of a region's pixels (h, w, 3), by the most similar plate pixel within one pixel.

        Darkening counts half.
        """
        here = self.seen_in(region, H)
        best: np.ndarray = np.full(lab.shape[:2], np.inf, np.float32)
        weight = 1 / (np.array([5, 2.5, 2.5], np.float32) + here.std)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                off = (lab - np.roll(here.color, (dy, dx), axis=(0, 1))) * weight
                off[..., 0] = np.where(off[..., 0] < 0, 0.5 * off[..., 0], off[..., 0])
                best = np.minimum(best, np.einsum("hwc,hwc->hw", off, off))
        best = cv2.GaussianBlur(best, (0, 0), 1.2)
        return np.where(here.known, np.clip(0.4 * (6 - best), -3, 1.8), 0).astype(np.float32)


class Knowledge:
    """Evidence from the whole clip: each label's colours, and the background's plate, warped to each frame.

    `keys` are label images of the key frames; the arm has the colours of the hands. `joints_px` are keypoints (T, 21, 2) of hands by label,
    NaN where unknown. The plate is known after `find_background`.
    """

    def __init__(self, clip: Clip, keys: Mapping[int, np.ndarray], label_set: LabelSet, joints_px: Mapping[int, np.ndarray]) -> None:
        self._clip, self._arm, self._hands, self._count = clip, label_set.arm, label_set.hands, label_set.count
        self._others = [k for k in range(self._count) if k not in label_set.skin]
        self._joints_px, self._bridged = joints_px, {k: bridged(joints) for k, joints in joints_px.items()}
        self._motion: list[np.ndarray] | None = None
        self._plate: _Plate | None = None
        self._to_arm: dict[tuple[int, int], np.ndarray | None] = {}
        self.learn(keys)

    def of_halved(self, small: Clip) -> "Knowledge":
        """The same colours and keypoints for the clip at half the size."""
        other = copy(self)
        other._clip, other._joints_px = small, {k: joints / 2 for k, joints in self._joints_px.items()}
        other._bridged = {k: (joints / 2, frames) for k, (joints, frames) in self._bridged.items()}
        return other

    def find_background(self, labels: list[np.ndarray]) -> None:
        """Take the background's plate from the label images of all frames, where the camera is static or only rotates."""
        static = is_static(self._clip, labels)
        self._motion = None if static else homographies(self._clip.grey, labels, len(labels) // 2)
        self._plate = self._background(self._clip, labels) if static or self._motion is not None else None

    def find_arms(self) -> None:
        """Take the direction of each hand's arm in all frames from its skin."""
        for t in range(len(self._clip.bgr)) if self._joints_px else ():
            skin = self._skin(self._clip.lab(t)) > 0
            self._to_arm |= {(k, t): forearm_direction(joints_px[t], skin) for k, joints_px in self._joints_px.items()}

    def learn(self, keys: Mapping[int, np.ndarray]) -> None:
        """Take each label's colours from the label images of key frames."""
        self._colors = self._histograms(self._clip, keys, self._count)

    def like_background(self, t: int) -> np.ndarray | None:
        """Log-evidence (H, W) for background in a frame by the plate; None without a plate."""
        height, width = self._clip.shape
        whole = slice(0, height), slice(0, width)
        found = self._like_plate(t, self._clip.lab(t), whole)
        return None if isinstance(found, float) else found

    def neither_background_nor_hand(self, t: int) -> np.ndarray | None:
        """Pixels (H, W) bool of a frame that differ from the plate and are away from the keypoints of all hands; None without a plate.

        A hand without keypoints may be anywhere.
        """
        like = self.like_background(t)
        if like is None:
            return None
        unlike = like < 0
        for joints_px in self._joints_px.values():
            unlike &= hand_evidence(joints_px[t], unlike.shape)[0] < AWAY
        return unlike

    @staticmethod
    def _bins(lab: np.ndarray) -> np.ndarray:
        unit = (lab + np.array([0, 60, 60], np.float32)) / np.array([100, 120, 120], np.float32)
        return np.clip(unit * HISTOGRAM_BINS, 0, HISTOGRAM_BINS - 1).astype(np.intp)

    def _histograms(self, clip: Clip, keys: Mapping[int, np.ndarray], count: int) -> np.ndarray:
        """Log-likelihood (bins, bins, bins, L) of a colour under each label, from the key frames."""
        tables = np.zeros((count, *[HISTOGRAM_BINS] * 3), np.float32)
        for t, labels in keys.items():
            bins = self._bins(clip.lab(t))
            maybe_arm = arm_area((joints_px[t] for joints_px in self._joints_px.values()), labels.shape)
            for k in range(count):
                shown = labels == k if k else surely_background(labels, maybe_arm)
                np.add.at(tables[k], tuple(bins[shown].T), 1.0)
        likelihood = np.stack([np.log(gaussian_filter(h, 0.8) / max(float(h.sum()), 1.0) + 1e-6) for h in tables], axis=-1)
        if self._hands:
            likelihood[..., self._arm] = likelihood[..., self._hands].max(axis=-1)
        return likelihood

    def _likelihood(self, lab: np.ndarray) -> np.ndarray:
        """Log-likelihood (h, w, L) of colours (h, w, 3) under each label."""
        bins = self._bins(lab)
        return self._colors[bins[..., 0], bins[..., 1], bins[..., 2]]

    def _skin(self, lab: np.ndarray) -> np.ndarray:
        """Log-likelihood ratio (...) of colours (..., 3) for hands and for the other labels."""
        likelihood = self._likelihood(lab)
        return likelihood[..., self._hands].max(axis=-1, initial=-np.inf) - likelihood[..., self._others].max(axis=-1)

    def _background(self, clip: Clip, labels: list[np.ndarray], margin: int = 15, frames: int = 40) -> _Plate:
        """The plate from frames in which a pixel is far from any entity.

        Skin near an entity is excluded, unless the pixel always shows skin.
        """
        at = range(0, len(labels), max(len(labels) // frames, 1))
        views, fingers = np.empty((len(at), *clip.shape, 3), np.float16), np.empty((len(at), *clip.shape), bool)
        for i, t in enumerate(at):
            lab, empty = clip.lab(t), (labels[t] == 0).astype(np.uint8)
            free = cv2.erode(empty, np.ones((margin, margin), np.uint8), borderValue=1) > 0
            finger = cv2.distanceTransform(empty, cv2.DIST_L2, 3) < BESIDE_PX
            finger[finger] = self._skin(lab[finger]) > MAYBE_SKIN
            seen = self._at_reference(np.dstack([np.where(free[..., None], lab, np.nan), finger]), t)
            views[i], fingers[i] = seen[..., :3], seen[..., 3] > 0.5
        there = np.isfinite(views[..., 0])
        views[fingers & ((there & ~fingers).sum(axis=0) >= MIN_CLEAR * there.sum(axis=0))] = np.nan
        return _Plate.of(views)

    def _at_reference(self, seen: np.ndarray, t: int) -> np.ndarray:
        if self._motion is None:
            return seen
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpPerspective(seen, self._motion[t], seen.shape[1::-1], flags=flags, borderValue=(np.nan,) * 4)

    def evidence(self, t: int, region: tuple[slice, slice]) -> np.ndarray:
        """Log-evidence (h, w, L) for each label in a frame's region."""
        lab = self._clip.lab(t, region)
        likelihood = self._likelihood(lab)
        evidence = COLOR_WEIGHT * np.clip(likelihood - likelihood.max(axis=-1, keepdims=True), -MAX_LOG_RATIO, 0)
        # colours of hand and object differ more reliably than those of entity and background
        entities = likelihood[..., 1:]
        evidence[..., 1:] += 0.5 * np.clip(entities - entities.max(axis=-1, keepdims=True), -4, 0)
        evidence[..., 0] += self._like_plate(t, lab, region)
        corner = np.array([region[1].start, region[0].start])
        for k, joints_px in self._joints_px.items():
            if not np.isfinite(joints_px[t]).all():
                between, frames = self._bridged[k]
                evidence[..., k] += away_evidence(between[t] - corner, lab.shape[:2], frames[t])
            hand, background, arm = hand_evidence(joints_px[t] - corner, lab.shape[:2], self._to_arm.get((k, t)))
            evidence[..., k] += hand
            evidence[..., 0] += background
            evidence[..., self._arm] += arm
        return evidence

    def _like_plate(self, t: int, lab: np.ndarray, region: tuple[slice, slice]) -> np.ndarray | float:
        return 0.0 if self._plate is None else self._plate.evidence(lab, region, None if self._motion is None else self._motion[t])

    def missing_fingers(self, t: int, labels: np.ndarray) -> np.ndarray:
        """Pixels (H, W) bool labelled background on a key frame that may be a finger: skin near an entity that differs from the plate."""
        lab, (height, width) = self._clip.lab(t), labels.shape
        suspect = (self._skin(lab) > SURELY_SKIN) & (self._like_plate(t, lab, (slice(0, height), slice(0, width))) < 0) & (labels == 0)
        opened = cv2.morphologyEx(suspect.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        _, parts = cv2.connectedComponents(opened, connectivity=4)

        def near(mask: np.ndarray) -> np.ndarray:
            return cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0

        beside = np.setdiff1d(parts[near((labels > 0) & (labels != self._arm))], parts[near(labels == self._arm)])
        return near(np.isin(parts, beside[beside > 0])) & (labels == 0)


def is_static(clip: Clip, labels: list[np.ndarray]) -> bool:
    """Whether the background's corners are static."""
    moved = []
    for t in range(1, len(clip.bgr)):
        free = cv2.erode((labels[t - 1] == 0).astype(np.uint8) * 255, np.ones((15, 15), np.uint8))
        corners = cv2.goodFeaturesToTrack(clip.grey(t - 1), 300, 0.005, 8, mask=free)
        if corners is None:
            continue
        found, status, _ = cv2.calcOpticalFlowPyrLK(clip.grey(t - 1), clip.grey(t), corners, None, winSize=(15, 15))  # type: ignore[call-overload]
        step = np.linalg.norm((found - corners).reshape(-1, 2)[status.ravel() > 0], axis=1)
        if len(step):
            moved.append(float(np.median(step)))
    return bool(moved) and float(np.median(moved)) < STATIC_MEDIAN_PX and float(np.percentile(moved, 95)) < STATIC_P95_PX
