"""Labels of a frame from boxes, clicks, outlines and earlier masks: hands, arm, object and background compete in one cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from scipy.spatial import cKDTree

from holdprep.segmenters.arm import surely_background
from holdprep.segmenters.classifier import LabelSet, region_of
from holdprep.segmenters.colors import color_log_likelihood
from holdprep.segmenters.cut import FORBIDDEN, Superpixels, cut
from holdprep.segmenters.prompts import EntityPrompt
from holdprep.segmenters.skeleton import ARM_BEGINS, arm_area, beyond_wrist, hand_evidence

MARGIN_PX, ROUNDS = 40, 4  # of background around the entities; alternations of colours and cut
SMOOTHNESS = 10.0  # cost of a pixel of border without an edge in the image
EDGE_PX, BOX_PX = 7, 2  # uncertainty of a drawn outline, and of a box
SIMILAR_LAB, NEAR_SHARE = 10.0, 0.08  # a click's kernel widths: of colour, and of position by the image's longer side
CLICK_BOUND, CLICK_WEIGHT = 4.5, 0.5  # bound of the clicks' log-evidence, and its weight once colours are fitted
COLOR_BOUND = 6.0  # bound of the colours' log-ratio
BOXED, BETWEEN = 0.7, 1.0  # log-evidence for an entity inside its box, and between its clicks
PRIOR_PX, PRIOR_BOUND = 5.0, 3.0  # distance from an earlier mask's edge for a log-evidence of 1, and its bound
REACH = 0.25  # of the image's longer side: range of clicks without box or earlier mask
RING_SAMPLES = 400
CORRECTED = 6.0  # log-evidence for the region of similar colour around a click that corrects an earlier mask
SKIN_LAB, SKIN_BOUND = np.array([14, 5, 5], np.float32), 5.0  # kernel widths of a hand's colours about its clicks; bound of the evidence
UNKNOWN = 255  # label whose colours are not used
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Cues:
    """Evidence of a frame beside its prompts: keypoints (21, 2) px of hands by label, log-evidence (H, W) for background."""

    joints_px: Mapping[int, np.ndarray] = field(default_factory=dict)
    background: np.ndarray | None = None


NO_CUES = Cues()


@dataclass(frozen=True)
class Marks:
    """What is marked on a frame, in its pixels, by label: clicks (N, 2), boxes, drawn masks (H, W) bool, and earlier masks."""

    positive: Mapping[int, np.ndarray]
    negative: Mapping[int, np.ndarray]
    boxes: Mapping[int, Box]
    drawn: Mapping[int, np.ndarray]
    prior: Mapping[int, np.ndarray]

    @staticmethod
    def of(prompts: Mapping[str, EntityPrompt], label_set: LabelSet, scale: float, prior: np.ndarray | None, drawn: np.ndarray) -> "Marks":
        """The marks of prompts, and of label images `prior` and `drawn` (H, W)."""
        by = {k: prompts[e] for k, e in enumerate(label_set.entities, start=1) if e in prompts}
        kept = [k for k, e in enumerate(label_set.entities, start=1) if k not in by or not by[k].is_outline]
        return Marks(
            {k: p.positive * scale for k, p in by.items() if p.positive is not None},
            {k: p.negative * scale for k, p in by.items() if p.negative is not None},
            {k: tuple(np.multiply(p.box, scale).tolist()) for k, p in by.items() if p.box is not None and not p.polygons},
            {k: drawn == k for k, p in by.items() if p.polygons},
            {k: prior == k for k in kept if prior is not None and (prior == k).any()},
        )


def click_discs(points: np.ndarray, shape: tuple[int, int], share: float = 1 / 160) -> np.ndarray:
    """Discs around clicks, (H, W) bool, of a radius of `share` of the longer side."""
    mask = np.zeros(shape, np.uint8)
    for x, y in points:
        cv2.circle(mask, (round(x), round(y)), max(round(share * max(shape)), 1), 1, -1)
    return mask > 0


@dataclass(frozen=True)
class MarkedFrame:
    """A frame to cut: its image (H, W, 3) BGR uint8, its marks, further evidence."""

    bgr: np.ndarray
    marks: Marks
    cues: Cues = NO_CUES


@dataclass(frozen=True)
class _Region:
    """The part of a frame that is cut: where it is, its superpixels, its colours in Lab, costs (h, w, L) of what does not change.

    What is background there may be an arm where `maybe_arm` (h, w) bool.
    """

    where: tuple[slice, slice]
    superpixels: Superpixels
    lab: np.ndarray
    costs: np.ndarray
    clicks: np.ndarray
    maybe_arm: np.ndarray

    def of_known_color(self, labels: np.ndarray) -> np.ndarray:
        """Labels (h, w) with UNKNOWN where the background may be an arm, whose colours are not the background's."""
        return np.where((labels == 0) & ~surely_background(labels, self.maybe_arm), UNKNOWN, labels)

    @staticmethod
    def of(frame: MarkedFrame, label_set: LabelSet) -> "_Region":
        lab = cv2.cvtColor(frame.bgr.astype(np.float32) / 255, cv2.COLOR_BGR2Lab)
        excluded = _excluded(lab.shape[:2], label_set, frame.marks, frame.cues)
        where = region_of(np.asarray(~excluded[..., 1 : len(label_set.entities) + 1].all(axis=-1)), MARGIN_PX)
        position = _position_evidence(lab.shape[:2], label_set, frame.marks, frame.cues)[where]
        position += _skin_evidence(lab, frame.marks, label_set, where)
        clicks = _click_evidence(lab, frame.marks, excluded, label_set.count, where)
        costs = np.where(excluded[where], np.float32(FORBIDDEN), np.float32(0)) - position
        maybe_arm = arm_area(frame.cues.joints_px.values(), lab.shape[:2])
        return _Region(where, Superpixels.of(frame.bgr[where], SMOOTHNESS), lab[where], costs, clicks, maybe_arm[where])


def cut_clicked(frames: Sequence[MarkedFrame], label_set: LabelSet) -> list[np.ndarray]:
    """Labels (H, W) uint8 of frames from their marks, with the same colours in all frames; each click keeps its label."""
    regions = [_Region.of(frame, label_set) for frame in frames]
    labels = [cut(r.superpixels, r.costs - r.clicks) for r in regions]
    same = {k: label_set.skin for k in label_set.skin}
    for _ in range(ROUNDS):
        pixels, marked = (
            np.concatenate(flat)
            for flat in zip(
                *((r.lab.reshape(-1, 3), r.of_known_color(found).ravel()) for r, found in zip(regions, labels, strict=True)), strict=True
            )
        )
        likelihood = color_log_likelihood(pixels, marked, label_set.count, same)
        ratio = np.maximum(likelihood - likelihood.max(axis=-1, keepdims=True), -COLOR_BOUND)
        parts = np.split(ratio, np.cumsum([found.size for found in labels])[:-1])
        before = labels
        labels = [
            cut(r.superpixels, r.costs - CLICK_WEIGHT * r.clicks - part.reshape(r.costs.shape))
            for r, part in zip(regions, parts, strict=True)
        ]
        if all((old == new).all() for old, new in zip(before, labels, strict=True)):
            break
    whole = [np.zeros(frame.bgr.shape[:2], np.uint8) for frame in frames]
    for full, region, found in zip(whole, regions, labels, strict=True):
        full[region.where] = found
    return whole


def _excluded(shape: tuple[int, int], label_set: LabelSet, marks: Marks, cues: Cues) -> np.ndarray:
    """Which labels a pixel cannot have, (H, W, L) bool."""
    excluded = np.zeros((*shape, label_set.count), bool)
    for k in range(1, len(label_set.entities) + 1):
        excluded[..., k] = ~_possible(shape, marks, k, cues)
    arm = excluded[..., label_set.arm]
    arm |= not label_set.hands
    for k in label_set.hands:
        if k in marks.boxes and k in cues.joints_px and np.isfinite(cues.joints_px[k]).all():
            arm |= _inside(shape, marks.boxes[k]) & (beyond_wrist(cues.joints_px[k], shape) < ARM_BEGINS)
        elif k in marks.boxes:
            arm |= _inside(shape, marks.boxes[k])
    for k, mask in marks.drawn.items():
        core = cv2.erode(mask.astype(np.uint8), np.ones((2 * EDGE_PX - 1,) * 2, np.uint8), borderValue=1) > 0
        excluded[core] = np.arange(label_set.count) != k
    for k, points in marks.negative.items():
        excluded[click_discs(points, shape), k] = True
    for k, points in marks.positive.items():
        excluded[click_discs(points, shape)] = np.arange(label_set.count) != k
    return excluded


def _possible(shape: tuple[int, int], marks: Marks, k: int, cues: Cues) -> np.ndarray:
    """Where an entity may be, (H, W) bool."""
    if k in marks.drawn:
        return cv2.dilate(marks.drawn[k].astype(np.uint8), np.ones((2 * EDGE_PX - 1,) * 2, np.uint8)) > 0
    if k in marks.boxes:
        return _inside(shape, marks.boxes[k], BOX_PX)
    reach = REACH * max(shape)
    if k in marks.prior:
        near = marks.prior[k] | (click_discs(marks.positive[k], shape) if k in marks.positive else False)
        return np.asarray(cv2.distanceTransform((~near).astype(np.uint8), cv2.DIST_L2, 3) < reach / 2)
    if k in marks.positive:
        return np.asarray(cv2.distanceTransform((~click_discs(marks.positive[k], shape)).astype(np.uint8), cv2.DIST_L2, 3) < reach)
    return np.zeros(shape, bool)


def _position_evidence(shape: tuple[int, int], label_set: LabelSet, marks: Marks, cues: Cues) -> np.ndarray:
    """Log-evidence (H, W, L) of positions: keypoints, boxes, earlier masks, and what the caller knows of the background."""
    evidence = np.zeros((*shape, label_set.count), np.float32)
    for k, joints in cues.joints_px.items():
        hand, background, arm = hand_evidence(joints, shape)
        evidence[..., k] += hand
        evidence[..., 0] += background
        evidence[..., label_set.arm] += arm
    if cues.background is not None:
        evidence[..., 0] += cues.background
    for k in marks.boxes:
        evidence[..., k] += BOXED
    for k, points in marks.positive.items():
        hull = np.zeros(shape, np.uint8)
        cv2.fillConvexPoly(hull, cv2.convexHull(np.round(points).astype(np.int32)), 1)
        evidence[..., k] += BETWEEN * hull
    for k, mask in marks.prior.items():
        signed = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5) - cv2.distanceTransform(
            (~mask).astype(np.uint8), cv2.DIST_L2, 5
        )
        evidence[..., k] += np.clip(signed / PRIOR_PX, -PRIOR_BOUND, PRIOR_BOUND)
    return evidence


def _click_evidence(lab: np.ndarray, marks: Marks, excluded: np.ndarray, count: int, region: tuple[slice, slice]) -> np.ndarray:
    """Log-evidence (h, w, L) of the clicks in a region: similar colour near a click, against what can only be background."""
    shape = lab.shape[:2]
    ys, xs = np.mgrid[: shape[0], : shape[1]]
    features = np.dstack([lab / SIMILAR_LAB, xs / (NEAR_SHARE * max(shape)), ys / (NEAR_SHARE * max(shape))]).astype(np.float32)
    inside = features[region]
    evidence = np.full((*inside.shape[:2], count), -CLICK_BOUND, np.float32)
    ring = np.asarray(excluded[..., 1:].all(axis=-1))
    ring[:] &= bool(marks.boxes) or not marks.prior
    ring[: region[0].start], ring[region[0].stop :], ring[:, : region[1].start], ring[:, region[1].stop :] = False, False, False, False
    sources = {k: click_discs(points, shape) for k, points in marks.positive.items()}
    sources |= {0: ring | (excluded[..., :-1] == (np.arange(count - 1) != 0)).all(axis=-1)}
    for k, mask in sources.items():
        evidence[..., k] = _likeness(features[mask], inside) - CLICK_BOUND
    for k in marks.boxes:
        if k not in marks.positive:
            evidence[..., k] = (_centrality(shape, marks.boxes[k])[region] - 1) * CLICK_BOUND
    if marks.prior and marks.boxes:  # the earlier mask outweighs the surroundings inside of it, and not outside
        evidence[..., [*marks.prior]] += CLICK_BOUND / 2
    elif marks.prior:  # clicks correct earlier masks: far from them they are no evidence
        evidence[..., [0, *marks.prior]] += CLICK_BOUND
    for k, points in marks.negative.items():
        evidence[..., k] -= _likeness(features[click_discs(points, shape)], inside)
    for clicked, sign in ((marks.positive, 1), (marks.negative, -1)):
        for k in set(clicked) & set(marks.prior):
            evidence[..., k] += sign * CORRECTED * np.any([_grown(lab, point) for point in clicked[k]], axis=0)[region]
    return evidence


def _grown(lab: np.ndarray, point: np.ndarray) -> np.ndarray:
    """The connected region (H, W) bool of similar colour around a click (x, y), within the reach of clicks."""
    disc = click_discs(point[None], lab.shape[:2])
    smooth = cv2.GaussianBlur(lab, (0, 0), 1.0)
    similar = np.linalg.norm(smooth - np.median(smooth[disc], axis=0), axis=-1) < SIMILAR_LAB
    similar &= click_discs(point[None], lab.shape[:2], REACH)
    _, parts = cv2.connectedComponents((similar | disc).astype(np.uint8), connectivity=4)
    return np.isin(parts, np.unique(parts[disc]))


def _likeness(samples: np.ndarray, features: np.ndarray) -> np.ndarray:
    """How near features (h, w, F) are to the nearest of the samples (N, F): CLICK_BOUND at a sample, 0 far away."""
    if not len(samples):
        return np.zeros(features.shape[:2], np.float32)
    tree = cKDTree(samples[:: max(len(samples) // RING_SAMPLES, 1)])
    distance, _ = tree.query(features.reshape(-1, features.shape[-1]), distance_upper_bound=np.sqrt(2 * CLICK_BOUND), workers=-1)
    return CLICK_BOUND - np.minimum(0.5 * np.square(distance), CLICK_BOUND).reshape(features.shape[:2]).astype(np.float32)


def _centrality(shape: tuple[int, int], box: Box) -> np.ndarray:
    """1 in the middle of a box, 0 on its edges and outside, (H, W)."""
    x1, y1, x2, y2 = box
    ys, xs = np.mgrid[: shape[0], : shape[1]]
    off = np.maximum(np.abs(2 * xs - x1 - x2) / max(x2 - x1, 1), np.abs(2 * ys - y1 - y2) / max(y2 - y1, 1))
    return np.clip(1 - off, 0, 1).astype(np.float32)


def _skin_evidence(lab: np.ndarray, marks: Marks, label_set: LabelSet, region: tuple[slice, slice]) -> np.ndarray:
    """Log-evidence (h, w, L) in a region against hands and arm where a colour is unlike all clicks on hands; shading counts little."""
    evidence = np.zeros((*lab[region].shape[:2], label_set.count), np.float32)
    discs = [click_discs(points, lab.shape[:2]) for k, points in marks.positive.items() if k in label_set.hands]
    if discs:
        samples = lab[np.any(discs, axis=0)] / SKIN_LAB
        distance, _ = cKDTree(samples[:: max(len(samples) // RING_SAMPLES, 1)]).query((lab[region] / SKIN_LAB).reshape(-1, 3), workers=-1)
        unlike = np.minimum(0.5 * np.square(np.maximum(distance - 1, 0)), SKIN_BOUND).reshape(evidence.shape[:2])
        evidence[..., label_set.skin] -= unlike[..., None]
    return evidence


def _inside(shape: tuple[int, int], box: Box, margin: int = 0) -> np.ndarray:
    mask = np.zeros(shape, bool)
    x1, y1, x2, y2 = (round(v) for v in box)
    mask[max(y1 - margin, 0) : max(y2 + margin, 0), max(x1 - margin, 0) : max(x2 + margin, 0)] = True
    return mask
