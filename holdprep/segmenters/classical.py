"""The segmenter without weights: key frames' outlines, carried through the clip by optical flow and local colour.

Between two key frames labels are carried forward from the one and backward from the other, and blended by distance. Per pixel, the
label's probability comes from its nearest neighbours in (place, colour) among the previous frame's labelled pixels, moved by
optical flow, smoothed along image edges (Min et al. 2014, fast global smoother). A second pass adds what the first has learnt
about the whole clip: the background's plate, where the camera does not move, and each label's colours.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from tqdm import tqdm

from holdprep.errors import HoldprepError
from holdprep.segmenters.prompts import ENTITIES, EntityPrompt

SIGMA_PX, SIGMA_LAB = 9.0, 7.0  # reach of the local classifier in place and in colour
SAMPLE_STEP = 2  # every second pixel in both directions teaches and is classified
NEIGHBOURS = 8
SMOOTH_LAMBDA, SMOOTH_SIGMA = 80.0, 6.0
STATIC_MEDIAN_PX, STATIC_P95_PX = 0.15, 0.5  # background motion a frame below which the camera stands still
HISTOGRAM_BINS = 24


@dataclass
class _Clip:
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


def propagate(
    images: Sequence[np.ndarray],
    prompts: Mapping[int, Mapping[str, EntityPrompt]],
    *,
    work_side: int = 640,
    progress: bool = False,
) -> dict[str, np.ndarray]:
    """Visible masks (T, H, W) bool of every prompted entity, disjoint, from T BGR images and prompts on some of them.

    `prompts` maps a frame's index to its entities; an entity without a prompt on a key frame is taken to be absent there.
    Propagation works at a longest side of `work_side` pixels. Raises HoldprepError where no key frame is given or one outlines nothing.
    """
    entities = [e for e in ENTITIES if any(e in p for p in prompts.values())]
    if not entities:
        raise HoldprepError("segmenter=classical: no key frame outlines anything: add prompts for the object and a hand")
    height, width = images[0].shape[:2]
    scale = min(1.0, work_side / max(height, width))
    clip = _Clip()
    for image in images:
        clip.add(image if scale == 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    keys = {t: _key_labels(clip, t, entities, prompts[t], scale) for t in sorted(prompts)}
    with tqdm(total=2 * len(images), desc="masks", unit="frame", disable=not progress) as bar:
        first = _carry_all(clip, keys, len(entities) + 1, None, bar)
        knowledge = _Knowledge(clip, keys, first, len(entities) + 1)
        labels = _carry_all(clip, keys, len(entities) + 1, knowledge, bar)
    full = [_enlarge(label, (height, width)) for label in labels]
    return {entity: np.stack([label == k for label in full]) for k, entity in enumerate(entities, start=1)}


def _enlarge(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Each label's mask enlarged smoothly, and the strongest one taken."""
    if labels.shape == size:
        return labels
    count = int(labels.max()) + 1
    planes = [
        cv2.resize(cv2.GaussianBlur((labels == k).astype(np.float32), (0, 0), 0.8), size[::-1], interpolation=cv2.INTER_CUBIC)
        for k in range(count)
    ]
    return np.argmax(planes, axis=0).astype(np.uint8)


def _one_hot(labels: np.ndarray, count: int) -> np.ndarray:
    return (labels[..., None] == np.arange(count)).astype(np.float32)


def _region(labels: np.ndarray, margin: int) -> tuple[slice, slice]:
    """The foreground's bounding box with a margin; the whole picture where there is none."""
    ys, xs = np.nonzero(labels)
    if len(ys) == 0:
        return slice(0, labels.shape[0]), slice(0, labels.shape[1])
    return (
        slice(max(int(ys.min()) - margin, 0), min(int(ys.max()) + margin, labels.shape[0])),
        slice(max(int(xs.min()) - margin, 0), min(int(xs.max()) + margin, labels.shape[1])),
    )


@dataclass
class _Samples:
    """Labelled pixels that teach the classifier: place (N, 2), colour (N, 3), label probabilities (N, L)."""

    place: np.ndarray
    color: np.ndarray
    probability: np.ndarray

    @staticmethod
    def of(lab: np.ndarray, probability: np.ndarray, flow: np.ndarray | None, region: tuple[slice, slice]) -> "_Samples":
        ys, xs = np.mgrid[region[0].start : region[0].stop : SAMPLE_STEP, region[1].start : region[1].stop : SAMPLE_STEP]
        place = np.stack([xs, ys], axis=-1).astype(np.float32)
        if flow is not None:
            place += flow[ys, xs]
        return _Samples(
            place.reshape(-1, 2), lab[ys, xs].reshape(-1, 3).astype(np.float32), probability[ys, xs].reshape(len(ys) * len(ys[0]), -1)
        )

    def where(self, keep: np.ndarray) -> "_Samples":
        return _Samples(self.place[keep], self.color[keep], self.probability[keep])


def _classify(samples: _Samples, lab: np.ndarray, region: tuple[slice, slice], neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Label probabilities (h, w, L) of a region: kernel-weighted nearest neighbours in place and colour."""
    tree = cKDTree(np.c_[samples.place / SIGMA_PX, samples.color / SIGMA_LAB], balanced_tree=False, compact_nodes=False)
    ys, xs = np.mgrid[region[0].start : region[0].stop : SAMPLE_STEP, region[1].start : region[1].stop : SAMPLE_STEP]
    query = np.c_[xs.ravel() / SIGMA_PX, ys.ravel() / SIGMA_PX, lab[ys, xs].reshape(-1, 3).astype(np.float32) / SIGMA_LAB]
    distance, index = tree.query(query, k=neighbours, eps=0.3, distance_upper_bound=6, workers=-1)
    found = index < len(samples.place)
    weight = np.where(found, np.exp(-0.5 * np.minimum(distance, 6) ** 2), 0)
    count = samples.probability.shape[1]
    votes = np.einsum("nk,nkl->nl", weight, samples.probability[np.where(found, index, 0)]) + 0.02 / count
    votes /= votes.sum(axis=1, keepdims=True)
    size = (region[1].stop - region[1].start, region[0].stop - region[0].start)
    return cv2.resize(votes.reshape(*ys.shape, count).astype(np.float32), size, interpolation=cv2.INTER_LINEAR)


def _smooth(probability: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """Probabilities smoothed within the edges of the picture `guide`, normalised."""
    smoother = cv2.ximgproc.createFastGlobalSmootherFilter(guide, SMOOTH_LAMBDA, SMOOTH_SIGMA)
    planes = [smoother.filter(np.ascontiguousarray(probability[..., k])) for k in range(probability.shape[2])]
    smooth = np.clip(np.stack(planes, axis=-1), 1e-4, None)
    return smooth / smooth.sum(axis=-1, keepdims=True)


def _clean(labels: np.ndarray) -> np.ndarray:
    """Specks go to what surrounds them: parts under a tenth (object) or a thirtieth (hands: fingers come apart) of an entity's largest."""
    out = labels.copy()
    count = int(labels.max()) + 1
    for k in range(count):
        _, index, stats, _ = cv2.connectedComponentsWithStats((labels == k).astype(np.uint8), connectivity=4)
        areas = stats[1:, cv2.CC_STAT_AREA]
        least = 60 if k == 0 else (0.1 if k == count - 1 else 0.03) * (areas.max() if len(areas) else 0)
        for part in np.flatnonzero(areas < least) + 1:
            speck = index == part
            ring = (cv2.dilate(speck.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0) & ~speck
            out[speck] = np.bincount(out[ring], minlength=count).argmax() if ring.any() else 0
    return out


def _key_labels(clip: _Clip, t: int, entities: list[str], prompts: Mapping[str, EntityPrompt], scale: float) -> np.ndarray:
    """A key frame's labels: outlines painted (the object over the hands unless it says otherwise), edges moved to those of the picture."""
    labels = np.zeros(clip.shape, np.uint8)
    for entity, prompt in prompts.items():
        if not prompt.absent:
            labels[_rough(clip.bgr[t], prompt, scale, t)] = entities.index(entity) + 1
    if not labels.any():
        raise HoldprepError(f"segmenter=classical: the prompts of key frame {t} outline nothing inside the picture")
    count = len(entities) + 1
    region = _region(labels, 25)
    for _ in range(2):
        near = cv2.GaussianBlur(_one_hot(labels, count), (0, 0), 5)
        core = np.zeros(labels.shape, bool)
        for k in range(count):
            core |= cv2.erode((labels == k).astype(np.uint8), np.ones((13, 13), np.uint8), borderValue=1) > 0
        ys, xs = np.mgrid[region[0].start : region[0].stop : SAMPLE_STEP, region[1].start : region[1].stop : SAMPLE_STEP]
        sure = _Samples.of(clip.lab[t], _one_hot(labels, count), None, region).where(core[ys, xs].ravel())
        probability = _classify(sure, clip.lab[t], region, neighbours=12) * near[region]
        probability = _smooth(probability / probability.sum(axis=-1, keepdims=True), clip.bgr[t][region])
        labels = np.zeros(clip.shape, np.uint8)
        labels[region] = probability.argmax(axis=-1)
    return _clean(labels)


def _rough(image: np.ndarray, prompt: EntityPrompt, scale: float, t: int) -> np.ndarray:
    """A prompt as a mask (H, W) bool: its polygons filled, or GrabCut from its box and clicks."""
    mask = np.zeros(image.shape[:2], np.uint8)
    for polygon in prompt.polygons:
        cv2.fillPoly(mask, [np.round(polygon * scale).astype(np.int32)], 1)
    if prompt.polygons:
        return mask > 0
    seeds = np.full(image.shape[:2], cv2.GC_BGD if prompt.box else cv2.GC_PR_BGD, np.uint8)
    if prompt.box is not None:
        x1, y1, x2, y2 = (round(v * scale) for v in prompt.box)
        seeds[max(y1, 0) : y2, max(x1, 0) : x2] = cv2.GC_PR_FGD
    radius = max(image.shape[:2]) // 80
    for clicks, value in ((prompt.positive, cv2.GC_FGD), (prompt.negative, cv2.GC_BGD)):
        for x, y in clicks * scale if clicks is not None else ():
            if prompt.box is None and value == cv2.GC_FGD:
                cv2.circle(seeds, (round(x), round(y)), 6 * radius, cv2.GC_PR_FGD, -1)
    for clicks, value in ((prompt.positive, cv2.GC_FGD), (prompt.negative, cv2.GC_BGD)):
        for x, y in clicks * scale if clicks is not None else ():
            cv2.circle(seeds, (round(x), round(y)), radius, value, -1)
    background = np.isin(seeds, (cv2.GC_BGD, cv2.GC_PR_BGD))
    if background.all() or not background.any():
        raise HoldprepError(
            f"segmenter=classical: a prompt of key frame {t} covers {'nothing' if background.all() else 'the whole picture'}: draw it anew"
        )
    cv2.setRNGSeed(0)
    cv2.grabCut(image, seeds, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    return np.isin(seeds, (cv2.GC_FGD, cv2.GC_PR_FGD))


def _carry_all(clip: _Clip, keys: Mapping[int, np.ndarray], count: int, knowledge: "_Knowledge | None", bar: tqdm) -> list[np.ndarray]:
    """Labels of every frame: carried from the key frame before and the one after, blended by distance."""
    at = sorted(keys)
    total = len(clip.bgr)
    labels: list[np.ndarray | None] = [keys.get(t) for t in range(total)]
    bar.update(len(at))
    for a, b in zip([None, *at], [*at, None], strict=True):
        inner = range((a if a is not None else -1) + 1, b if b is not None else total)
        forward = dict(_carry(clip, a, keys[a], list(inner), count, knowledge)) if a is not None else {}
        backward = dict(_carry(clip, b, keys[b], list(inner)[::-1], count, knowledge)) if b is not None else {}
        for t in inner:
            if t in forward and t in backward and a is not None and b is not None:
                share = (b - t) / (b - a)
                probability = share * forward[t].astype(np.float32) + (1 - share) * backward[t].astype(np.float32)
            else:
                probability = forward[t] if t in forward else backward[t]
            labels[t] = _clean(probability.argmax(axis=-1).astype(np.uint8))
            bar.update()
    return [label for label in labels if label is not None]


def _carry(
    clip: _Clip, start: int, labels: np.ndarray, order: list[int], count: int, knowledge: "_Knowledge | None"
) -> Iterator[tuple[int, np.ndarray]]:
    """(frame, probabilities (H, W, L) float16) along `order`, each from the frame before it."""
    flow_of = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    previous = start
    for t in order:
        flow = flow_of.calc(clip.grey[previous], clip.grey[t], None)  # type: ignore[call-overload]
        source = _region(labels, 30)
        samples = _Samples.of(clip.lab[previous], _one_hot(labels, count), flow, source)
        moved = np.abs(flow[labels > 0])
        region = _region(labels, 36 + int(min(moved.max() if moved.size else 0, 40)))
        probability = _classify(samples, clip.lab[t], region)
        if knowledge is not None:
            probability = np.exp(np.log(probability + 0.01) + knowledge.evidence(t, region))
            probability /= probability.sum(axis=-1, keepdims=True)
        full = np.zeros((*clip.shape, count), np.float16)
        full[..., 0] = 1
        full[region] = _smooth(probability, clip.bgr[t][region])
        labels = _clean(full.argmax(axis=-1).astype(np.uint8))
        previous = t
        yield t, full


class _Knowledge:
    """What a first pass tells about the whole clip: each label's colours, and the background's plate where the camera stands still."""

    def __init__(self, clip: _Clip, keys: Mapping[int, np.ndarray], labels: list[np.ndarray], count: int) -> None:
        self._clip = clip
        self._colors = self._histograms(clip, keys, count)
        self._plate = self._background(clip, labels) if _is_static(clip, labels) else None

    @staticmethod
    def _bins(lab: np.ndarray) -> np.ndarray:
        unit = (lab.astype(np.float32) + np.array([0, 60, 60], np.float32)) / np.array([100, 120, 120], np.float32)
        return np.clip(unit * HISTOGRAM_BINS, 0, HISTOGRAM_BINS - 1).astype(np.intp)

    def _histograms(self, clip: _Clip, keys: Mapping[int, np.ndarray], count: int) -> np.ndarray:
        """Log-likelihood (bins, bins, bins, L) of a colour under each label, from the key frames."""
        tables = np.zeros((count, *[HISTOGRAM_BINS] * 3), np.float32)
        for t, labels in keys.items():
            bins = self._bins(clip.lab[t])
            for k in range(count):
                np.add.at(tables[k], tuple(bins[labels == k].T), 1.0)
        return np.stack([np.log(gaussian_filter(h, 0.8) / max(float(h.sum()), 1.0) + 1e-6) for h in tables], axis=-1)

    @staticmethod
    def _background(clip: _Clip, labels: list[np.ndarray], margin: int = 15, frames: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def _is_static(clip: _Clip, labels: list[np.ndarray]) -> bool:
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
