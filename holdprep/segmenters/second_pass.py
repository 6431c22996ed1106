"""The second pass of the classical segmenter: masks decided again where the object's poses and the hand's keypoints are known.

Each label's evidence in a frame: the first pass' mask, by distance from its edge; the frame's own colours, the background's plate and the
keypoints (`Knowledge`), with colours from all of the clip, so that sides of the object that no key frame shows are known; and what the rigid
shape predicts (`RigidShape`). Only thick parts change, so edges stay; what is inside of the skeleton stays the hand's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from holdprep.geometry.silhouettes import signed_px
from holdprep.segmenters.classical import at_work_size, enlarge
from holdprep.segmenters.classifier import LabelSet, clean_labels, region_of, smooth_in_edges
from holdprep.segmenters.knowledge import Clip, Knowledge
from holdprep.segmenters.rigid_shape import NEUTRAL, RigidShape
from holdprep.segmenters.skeleton import limbs, palm_length_px
from holdprep.threads import THREADS, in_order

OWN_WEIGHT = 0.5  # of a frame's own evidence
FIRST_PX, FIRST_BOUND, FIRST_WEIGHT = 5.0, 3.0, 0.5  # distance from the first mask's edge for an evidence of 1, its bound and weight
SHAPE_WEIGHT, SHAPE_LEAST, SHAPE_MOST = 3.0, -2.0, 1.0  # of the rigid shape's evidence, in log-units of the share of frames, and its bounds
SOFT = 0.02  # share of the frames below which shares are equal
MARGIN_PX = 30  # beyond masks and silhouette
THICK_PX = 5  # width of the narrowest part that changes
COLOR_EVERY, EDGE_PX = 5, 5  # every fifth frame shows the colours, apart from the masks' edges
TYPICAL_FRAMES = 40  # at most, of which the typical disagreement of masks and rigid shape is taken
BOTH_PCT, EXCESS_PCT = 8.0, 50.0  # of the mask missing and in excess, or in excess alone, from which the pose may be wrong
SKELETON = 0.06  # of the palm's length: depth inside of the skeleton's limbs from which a pixel is a hand's in any case


@dataclass(frozen=True)
class Disagreement:
    """What a mask lacks of the rigid shape's silhouette, and what it has beyond it, in % of the mask's area."""

    missing_pct: float
    excess_pct: float

    @property
    def is_contradiction(self) -> bool:
        """Whether the mask is no part of the silhouette, nor the silhouette of the mask: a leak, or a lost part, are not enough."""
        return min(self.missing_pct, self.excess_pct) > BOTH_PCT or self.excess_pct > EXCESS_PCT

    @staticmethod
    def of(obj: np.ndarray, hand: np.ndarray, excluded: np.ndarray) -> "Disagreement":
        """From masks (H, W) bool, and the share (H, W) of the other frames that exclude a pixel; edges are not counted."""
        edge = np.ones((EDGE_PX + 2,) * 2, np.uint8)
        inside = cv2.erode((excluded < NEUTRAL).astype(np.uint8), edge, borderValue=1) > 0
        near = cv2.dilate(hand.astype(np.uint8), edge) > 0
        area = max(int(obj.sum()), 1)
        return Disagreement(100 * float((inside & ~obj & ~near).sum()) / area, 100 * float((obj & (excluded > 2 * NEUTRAL)).sum()) / area)


@dataclass(frozen=True)
class FirstPass:
    """T BGR images, masks (T, H, W) bool by entity, and keypoints (T, 21, 2) px by hand, NaN where unknown."""

    images: Sequence[np.ndarray]
    masks: Mapping[str, Sequence[np.ndarray]]
    joints_px: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Recut:
    """Frame `t` after the second pass: what the rigid shape says of its first masks, and its masks (H, W) bool by entity.

    `masks` are None where the shape contradicts the mask in both directions, so that the frame's pose may be wrong.
    """

    t: int
    before: Disagreement
    masks: dict[str, np.ndarray] | None


def typical_excess_pct(first: FirstPass, shape: RigidShape, frames: Sequence[int]) -> float:
    """Median over some of the `frames` of what their object masks have beyond the rigid shape, in %: large if the poses are wrong."""
    some = [frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, TYPICAL_FRAMES).round().astype(int))]
    return float(np.median([disagreement(first, t, shape.excluded(t)).excess_pct for t in some]))


def disagreement(first: FirstPass, t: int, excluded: np.ndarray) -> Disagreement:
    """What the rigid shape, which excludes pixels (H, W) in shares of frames, says of the masks of frame `t`."""
    hands = [np.asarray(masks[t]) for entity, masks in first.masks.items() if entity != "object"]
    obj = np.asarray(first.masks["object"][t])
    return Disagreement.of(obj, np.any([np.zeros_like(obj), *hands], axis=0), excluded)


def recut(first: FirstPass, shape: RigidShape, frames: Sequence[int], work_side: int) -> Iterator[Recut]:
    """The masks of `frames`, decided at a longest side of `work_side` pixels; pixels that do not change there stay as they are."""
    label_set = LabelSet(tuple(first.masks))
    clip, scale = at_work_size(first.images, work_side)
    labels = [_labels(first.masks, t, clip.shape) for t in range(len(clip.bgr))]
    joints_px = {label_set.entities.index(side) + 1: scale * px for side, px in first.joints_px.items() if side in first.masks}
    knowledge = Knowledge(clip, {t: _inner(labels[t], label_set) for t in range(0, len(labels), COLOR_EVERY)}, label_set, joints_px)
    knowledge.find_background(labels)
    knowledge.find_arms()

    def again(t: int) -> Recut:
        shares = shape.excluded(t)
        found = disagreement(first, t, shares)
        if found.is_contradiction:
            return Recut(t, found, None)
        small = cv2.resize(shares, clip.shape[::-1], interpolation=cv2.INTER_AREA)
        skeleton = {k: _skeleton(px[t], clip.shape) for k, px in joints_px.items()}
        after = _decided(clip, t, labels[t], (label_set, knowledge), small, skeleton)
        before = {entity: np.asarray(masks[t]) for entity, masks in first.masks.items()}
        return Recut(t, found, _enlarged(before, labels[t], after, label_set))

    return in_order(again, frames, THREADS, 2 * THREADS)  # SciPy releases Python's lock, too


def _labels(masks: Mapping[str, Sequence[np.ndarray]], t: int, shape: tuple[int, int]) -> np.ndarray:
    """The label image (h, w) of a frame at work size."""
    labels = np.zeros(shape, np.uint8)
    for k, entity in reversed(list(enumerate(masks, start=1))):
        labels[cv2.resize(masks[entity][t].astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA) > 0.5] = k
    return labels


def _inner(labels: np.ndarray, label_set: LabelSet) -> np.ndarray:
    """Labels (h, w) without their edges, which are unknown."""
    edge = np.ones((EDGE_PX, EDGE_PX), np.uint8)
    sure = cv2.erode(labels, edge) == cv2.dilate(labels, edge)
    return np.where(sure, labels, label_set.unknown).astype(np.uint8)


def _skeleton(joints_px: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixels (h, w) bool deep inside of a hand's limbs; none without keypoints."""
    if not np.isfinite(joints_px).all():
        return np.zeros(shape, bool)
    return signed_px(limbs(joints_px, shape)) < -SKELETON * palm_length_px(joints_px)


def shape_evidence(excluded: np.ndarray) -> np.ndarray:
    """Log-evidence (H, W) for the object from the share (H, W) of frames that exclude a pixel."""
    return SHAPE_WEIGHT * np.clip(np.log((NEUTRAL + SOFT) / (excluded + SOFT)), SHAPE_LEAST, SHAPE_MOST)


def _first_evidence(labels: np.ndarray, label_set: LabelSet) -> np.ndarray:
    """Log-evidence (h, w, L) of the first pass for its labels; that of the arm is the background's."""
    away = np.stack([signed_px(labels == k) for k in range(1, len(label_set.entities) + 1)], axis=-1)
    off = np.concatenate([-away.min(axis=-1, keepdims=True), away, -away.min(axis=-1, keepdims=True)], axis=-1)
    return FIRST_WEIGHT * np.clip(-off / FIRST_PX, -FIRST_BOUND, FIRST_BOUND)


def _decided(
    clip: Clip,
    t: int,
    before: np.ndarray,
    known: tuple[LabelSet, Knowledge],
    excluded: np.ndarray,
    skeleton: Mapping[int, np.ndarray],
) -> np.ndarray:
    """Labels (h, w) uint8 of frame `t`, those of the first pass where nothing thick changes."""
    label_set, knowledge = known
    region = region_of(np.asarray((before > 0) | (excluded < 0.5)), MARGIN_PX)
    evidence = OWN_WEIGHT * knowledge.evidence(t, region) + _first_evidence(before[region], label_set)
    shape = shape_evidence(excluded[region])
    evidence[..., label_set.entities.index("object") + 1] += shape
    for k, inside in skeleton.items():  # a hand before the object is inside of its silhouette as well
        evidence[..., k] += np.where(inside[region], np.maximum(shape, 0), 0)
    probability = np.exp(evidence - evidence.max(axis=-1, keepdims=True))
    probability /= probability.sum(axis=-1, keepdims=True)
    best = smooth_in_edges(probability.astype(np.float32), clip.bgr[t][region]).argmax(axis=-1)
    after = before.copy()
    after[region] = np.where(best == label_set.arm, 0, best)
    kernel = np.ones((THICK_PX, THICK_PX), np.uint8)
    changed = np.not_equal(after, before)
    thick = cv2.dilate(cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_OPEN, kernel), kernel) > 0
    return clean_labels(np.where(changed & thick, after, before), label_set)


def _enlarged(masks: Mapping[str, np.ndarray], before: np.ndarray, after: np.ndarray, label_set: LabelSet) -> dict[str, np.ndarray]:
    """Masks (H, W) bool with the changes of labels at work size."""
    size = next(iter(masks.values())).shape
    near = cv2.dilate((before != after).astype(np.uint8), np.ones((3, 3), np.uint8))
    changed = cv2.resize(near, size[::-1], interpolation=cv2.INTER_NEAREST) > 0
    labels = enlarge(after, size)
    return {entity: np.where(changed, labels == k, masks[entity]) for k, entity in enumerate(label_set.entities, start=1)}
