"""The segmenter without weights: key frames' outlines, carried through the clip by optical flow and local colour.

Between two key frames labels are carried forward from the one and backward from the other, and blended by distance. Per pixel, the
label's probability comes from its nearest neighbours in (place, colour) among the previous frame's labelled pixels, moved by
optical flow, smoothed along image edges (Min et al. 2014, fast global smoother). A first pass at half the size tells where the
background is; the second adds what that teaches about the whole clip: the background's plate, where the camera stands still or only
turns, each label's colours, and where a key frame may have left a finger out. The bare arm is a label of its own; its border with the
hand is a line that goes with the skin about it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from scipy.spatial import cKDTree
from tqdm import tqdm

from holdprep.errors import HoldprepError
from holdprep.segmenters.arm import KEPT_PX, find_arm, keep_near
from holdprep.segmenters.knowledge import Clip, Knowledge
from holdprep.segmenters.prompts import ENTITIES, EntityPrompt, anchors
from holdprep.segmenters.wrist import Wrist

SIGMA_PX, SIGMA_LAB = 9.0, 7.0  # reach of the local classifier in place and in colour
SAMPLE_STEP = 2  # every second pixel in both directions teaches and is classified
NEIGHBOURS = 8
GRABCUT_SIDE, GRABCUT_MARGIN = 200, 40  # px: longest side of the crop it works on, background that it sees around
CORE_PX, SETTLED = 13, 0.99  # a prompt's outline may be off by half of that many pixels; what has so much of one label about it keeps it
NEWCOMER = 0.01  # probability of a label that no neighbour has
SMOOTH_LAMBDA, SMOOTH_SIGMA = 80.0, 6.0


def propagate(
    images: Sequence[np.ndarray],
    prompts: Mapping[int, Mapping[str, EntityPrompt]],
    *,
    work_side: int = 640,
    progress: Callable[..., tqdm] | None = None,
) -> dict[str, np.ndarray]:
    """Visible masks (T, H, W) bool of every prompted entity, disjoint, from T BGR images and prompts on some of them.

    `prompts` maps a frame's index to its entities. What a key frame says nothing about is carried there from the nearest one that does,
    and clicks alone correct what is carried. `progress` makes the bar (tqdm, or a kind of it).
    Propagation works at a longest side of `work_side` pixels. Raises HoldprepError where no key frame is given or one outlines nothing.
    """
    entities = [e for e in ENTITIES if any(e in p for p in prompts.values())]
    if not entities:
        raise HoldprepError("segmenter=classical: no key frame outlines anything: add prompts for the object and a hand")
    size = images[0].shape[:2]
    labels = _labels(images, prompts, _Cast(tuple(entities)), work_side, progress or partial(tqdm, disable=True))
    masks = {entity: np.empty((len(labels), *size), bool) for entity in entities}
    for t, small in enumerate(labels):
        label = _enlarge(small, size)
        for k, entity in enumerate(entities, start=1):
            masks[entity][t] = label == k
    return masks


def _labels(
    images: Sequence[np.ndarray],
    prompts: Mapping[int, Mapping[str, EntityPrompt]],
    cast: "_Cast",
    work_side: int,
    progress: Callable[..., tqdm],
) -> list[np.ndarray]:
    """Label pictures (h, w) uint8 of all frames, at work size."""
    clip, scale = _at_work_size(images, work_side)
    keys = _all_keys(clip, cast, prompts, scale)
    with progress(total=2 * len(images), desc="masks", unit="frame") as bar:
        knowledge = Knowledge(clip, keys, _first_pass(clip, keys, cast, bar), cast.count, cast.arm, cast.hands)
        doubted = {t: np.where(knowledge.unoutlined(t, key), cast.unknown, key) for t, key in keys.items()}
        return [keys.get(t, labels) for t, labels in enumerate(_carry_all(clip, doubted, cast, knowledge, bar))]


def _at_work_size(images: Iterable[np.ndarray], work_side: int) -> tuple[Clip, float]:
    """BGR images (H, W, 3) at a longest side of `work_side` pixels or as they are, and by what they are scaled."""
    clip, scale = Clip([]), 1.0
    for image in images:
        scale = min(1.0, work_side / max(image.shape))
        clip.bgr.append(image if scale == 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    return clip, scale


def _first_pass(clip: Clip, keys: Mapping[int, np.ndarray], cast: "_Cast", bar: tqdm) -> list[np.ndarray]:
    """Every frame's labels by flow and local colour alone, at half the size: enough to know where the background is."""
    small = clip.halved()
    small_keys = {t: cv2.resize(k, small.shape[::-1], interpolation=cv2.INTER_NEAREST) for t, k in keys.items()}
    labels = _carry_all(small, small_keys, cast, None, bar)
    return [cv2.resize(each, clip.shape[::-1], interpolation=cv2.INTER_NEAREST) for each in labels]


def _enlarge(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Each label's mask enlarged smoothly, and the strongest one taken."""
    if labels.shape == size:
        return labels
    strongest, best = np.zeros(size, np.uint8), np.full(size, -np.inf, np.float32)
    for k in range(int(labels.max()) + 1):
        plane = cv2.resize(cv2.GaussianBlur((labels == k).astype(np.float32), (0, 0), 0.8), size[::-1], interpolation=cv2.INTER_CUBIC)
        strongest[plane > best] = k
        np.maximum(best, plane, out=best)
    return strongest


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


@dataclass(frozen=True)
class _Cast:
    """Which label is what: 0 the background, k the k-th of `entities`, and the hands' bare arms the last, which counts as background.

    What is `unknown` is on key frames alone, and teaches nothing.
    """

    entities: tuple[str, ...]

    @property
    def hands(self) -> list[int]:
        return [k for k, e in enumerate(self.entities, start=1) if e != "object"]

    @property
    def arm(self) -> int:
        return len(self.entities) + 1

    @property
    def skin(self) -> list[int]:
        return [*self.hands, self.arm]

    @property
    def count(self) -> int:
        return len(self.entities) + 2

    @property
    def unknown(self) -> int:
        return self.count

    def least(self, label: int, largest: float) -> float:
        """Pixels that a part of a label needs, beside the label's `largest`: hands come apart where fingers do."""
        if label in (0, self.arm):
            return 60
        return (0.1 if self.entities[label - 1] == "object" else 0.03) * largest


@dataclass(frozen=True)
class _Probabilities:
    """Of the entities' and arm's labels in a region of a picture, 255 for 1, (h, w, L - 1) uint8; the rest, and all else, is background.

    A long clip has room for no more than that.
    """

    of_labels: np.ndarray
    region: tuple[slice, slice]

    @staticmethod
    def of(probability: np.ndarray, region: tuple[slice, slice]) -> "_Probabilities":
        """From those of all labels (h, w, L) in a region."""
        return _Probabilities(np.round(255 * probability[..., 1:]).astype(np.uint8), region)

    def whole(self, shape: tuple[int, int]) -> np.ndarray:
        """(H, W, L) float32, in a picture of `shape`."""
        full = np.zeros((*shape, self.of_labels.shape[-1] + 1), np.float32)
        full[self.region][..., 1:] = self.of_labels / np.float32(255)
        full[..., 0] = 1 - full[..., 1:].sum(axis=-1)
        return full


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
        return _Samples(place.reshape(-1, 2), lab[ys, xs].reshape(-1, 3), probability[ys, xs].reshape(len(ys) * len(ys[0]), -1))

    def where(self, keep: np.ndarray) -> "_Samples":
        return _Samples(self.place[keep], self.color[keep], self.probability[keep])


def _classify(
    samples: _Samples, lab: np.ndarray, region: tuple[slice, slice], neighbours: int = NEIGHBOURS, asked: np.ndarray | None = None
) -> np.ndarray:
    """Label probabilities (h, w, L) of a region: kernel-weighted nearest neighbours in place and colour; alike where not `asked` (H, W)."""
    tree = cKDTree(np.c_[samples.place / SIGMA_PX, samples.color / SIGMA_LAB], balanced_tree=False, compact_nodes=False)
    ys, xs = np.mgrid[region[0].start : region[0].stop : SAMPLE_STEP, region[1].start : region[1].stop : SAMPLE_STEP]
    wanted = np.ones(ys.shape, bool) if asked is None else asked[ys, xs]
    query = np.c_[xs[wanted] / SIGMA_PX, ys[wanted] / SIGMA_PX, lab[ys, xs][wanted] / SIGMA_LAB]
    distance, index = tree.query(query, k=neighbours, eps=0.3, distance_upper_bound=6, workers=-1)
    found = index < len(samples.place)
    weight = np.where(found, np.exp(-0.5 * np.minimum(distance, 6) ** 2), 0)
    count = samples.probability.shape[1]
    votes = np.full((*ys.shape, count), 0.02 / count, np.float32)
    votes[wanted] += np.einsum("nk,nkl->nl", weight, samples.probability[np.where(found, index, 0)])
    votes /= votes.sum(axis=-1, keepdims=True)
    size = (region[1].stop - region[1].start, region[0].stop - region[0].start)
    return cv2.resize(votes, size, interpolation=cv2.INTER_LINEAR)


def _smooth(probability: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """Probabilities smoothed within the edges of the picture `guide`, normalised."""
    smoother = cv2.ximgproc.createFastGlobalSmootherFilter(guide, SMOOTH_LAMBDA, SMOOTH_SIGMA)
    planes = [smoother.filter(np.ascontiguousarray(probability[..., k])) for k in range(probability.shape[2])]
    smooth = np.clip(np.stack(planes, axis=-1), 1e-4, None)
    return smooth / smooth.sum(axis=-1, keepdims=True)


def _clean(labels: np.ndarray, cast: _Cast) -> np.ndarray:
    """Specks go to what surrounds them."""
    out = labels.copy()
    for k in range(cast.count):
        _, index, stats, _ = cv2.connectedComponentsWithStats((labels == k).astype(np.uint8), connectivity=4)
        areas = stats[1:, cv2.CC_STAT_AREA]
        for part in np.flatnonzero(areas < cast.least(k, max(areas, default=0))) + 1:
            speck = index == part
            ring = (cv2.dilate(speck.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0) & ~speck
            out[speck] = np.bincount(out[ring], minlength=cast.count).argmax() if ring.any() else 0
    return out


def outline(
    image: np.ndarray, prompts: Mapping[str, EntityPrompt], known: Mapping[str, np.ndarray], *, work_side: int = 640
) -> dict[str, np.ndarray]:
    """Masks (H, W) bool, disjoint, of one BGR image: `prompts` as a key frame's, `known` masks for what they leave open or correct."""
    entities = [e for e in ENTITIES if e in prompts or e in known]
    clip, scale = _at_work_size([image], work_side)
    prior = np.zeros(clip.shape, np.uint8)
    for entity, mask in known.items():
        small = cv2.resize(mask.astype(np.uint8), clip.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
        prior[small] = entities.index(entity) + 1
    labels = _enlarge(_key_labels(clip, 0, _Cast(tuple(entities)), prompts, scale, prior), image.shape[:2])
    return {entity: labels == k for k, entity in enumerate(entities, start=1)}


def _all_keys(clip: Clip, cast: _Cast, prompts: Mapping[int, Mapping[str, EntityPrompt]], scale: float) -> dict[int, np.ndarray]:
    """Every key frame's labels: first those that say all by themselves, then the others with what is carried to them."""
    sure = {e: anchors(prompts, e) for e in cast.entities}
    own = {t: {e: p for e, p in prompts[t].items() if e in sure and t in sure[e]} for t in sorted(prompts)}
    keys = {t: _key_labels(clip, t, cast, p, scale) for t, p in own.items() if any(not each.absent for each in p.values())}
    found = {}
    for t in own:
        if set(own[t]) == set(cast.entities):
            found[t] = keys.get(t, np.zeros(clip.shape, np.uint8))
            continue
        prior = np.zeros(clip.shape, np.uint8)
        for k, entity in enumerate(cast.entities, start=1):
            sources = [s for s in sure[entity] if s in keys]
            if entity not in own[t] and sources:
                source = min(sources, key=lambda s: abs(s - t))
                prior[(_carried(clip, source, keys[source], t, cast) == k) & (prior == 0)] = k
        found[t] = _key_labels(clip, t, cast, prompts[t], scale, prior)
    return found


def _carried(clip: Clip, source: int, labels: np.ndarray, t: int, cast: _Cast) -> np.ndarray:
    """Labels of frame `t` carried from the key frame `source`."""
    step = 1 if t > source else -1
    for _, probabilities in _carry(clip, source, labels, range(source + step, t + step, step), cast, None):
        last = probabilities
    return last.whole(clip.shape).argmax(axis=-1).astype(np.uint8)


def _key_labels(
    clip: Clip, t: int, cast: _Cast, prompts: Mapping[str, EntityPrompt], scale: float, prior: np.ndarray | None = None
) -> np.ndarray:
    """A key frame's labels: outlines painted (the object over the hands unless it says otherwise), edges moved to those of the picture.

    `prior` labels hold for entities without a prompt, and are what clicks alone correct.
    """
    labels = np.zeros(clip.shape, np.uint8)
    for k, entity in enumerate(cast.entities, start=1):
        if prior is not None and entity not in prompts:
            labels[prior == k] = k
    # outlines as they are ordered; then what is found by colour, the object first: it fills its box better than a hand does
    present = {e: p for e, p in prompts.items() if e in cast.entities and not p.absent}
    for entity in sorted(present, key=lambda e: 0 if present[e].polygons else 1 if e == "object" else 2):
        k = cast.entities.index(entity) + 1
        before = prior == k if prior is not None and not present[entity].is_outline and (prior == k).any() else None
        taken = (labels > 0) & (labels != k)
        for other, prompt in present.items():
            if other != entity and prompt.positive is not None:
                taken |= _discs(prompt.positive * scale, clip.shape)
        labels[_rough(clip.bgr[t], present[entity], scale, t, taken, before)] = k
    if prior is not None and not labels.any():
        return labels
    if not labels.any():
        raise HoldprepError(f"segmenter=classical: the prompts of key frame {t} outline nothing inside the picture")
    labels[find_arm(clip.lab(t), labels, cast.hands)] = cast.arm
    return _clean(_refined(clip, t, labels, cast, {cast.entities.index(e) + 1: p for e, p in present.items()}, scale), cast)


def _refined(clip: Clip, t: int, labels: np.ndarray, cast: _Cast, prompts: Mapping[int, EntityPrompt], scale: float) -> np.ndarray:
    """Labels whose edges are moved to those of the picture; clicks of `prompts` (by label) hold whatever the picture says.

    Between skin and skin the picture has no edge: there the drawn line stays.
    """
    region, drawn, clicked, lab = _region(labels, 25), labels, np.zeros(clip.shape, bool), clip.lab(t)
    for _ in range(2):
        near = cv2.GaussianBlur(_one_hot(labels, cast.count), (0, 0), 5)
        core = np.zeros(labels.shape, bool)
        for k in range(cast.count):
            core |= _core(labels == k)
        ys, xs = np.mgrid[region[0].start : region[0].stop : SAMPLE_STEP, region[1].start : region[1].stop : SAMPLE_STEP]
        sure = _Samples.of(lab, _one_hot(labels, cast.count), None, region).where(core[ys, xs].ravel())
        probability = _classify(sure, lab, region, 12, near.max(axis=-1) < SETTLED) * near[region]
        probability = _smooth(probability / probability.sum(axis=-1, keepdims=True), clip.bgr[t][region])
        for k, prompt in prompts.items():
            for points, value in ((prompt.positive, 1.0), (prompt.negative, -1.0)):
                if points is not None:
                    disc = _discs(points * scale, clip.shape)
                    clicked |= disc
                    probability[disc[region], k] += value
        labels = np.zeros(clip.shape, np.uint8)
        labels[region] = probability.argmax(axis=-1)
        skin = np.isin(labels, cast.skin) & np.isin(drawn, cast.skin) & ~clicked
        labels[skin] = drawn[skin]
    return labels


def _core(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W) without its edge, whose place is not sure; parts too thin for that stay nearly whole."""
    core = cv2.erode(mask.astype(np.uint8), np.ones((CORE_PX, CORE_PX), np.uint8), borderValue=1) > 0
    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    thin = mask & ~np.isin(parts, np.unique(parts[core]))
    return core | (cv2.erode(thin.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1) > 0)


def _discs(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """What clicks cover, (H, W) bool."""
    mask = np.zeros(shape, np.uint8)
    for x, y in points:
        cv2.circle(mask, (round(x), round(y)), max(shape) // 80, 1, -1)
    return mask > 0


def _rough(
    image: np.ndarray, prompt: EntityPrompt, scale: float, t: int, taken: np.ndarray, before: np.ndarray | None = None
) -> np.ndarray:
    """A prompt as a mask (H, W) bool: its polygons filled, or GrabCut from its box and clicks, or from the mask `before` them.

    What is `taken` (H, W) belongs to others.
    """
    mask = np.zeros(image.shape[:2], np.uint8)
    for polygon in prompt.polygons:
        cv2.fillPoly(mask, [np.round(polygon * scale).astype(np.int32)], 1)
    if prompt.polygons:
        return mask > 0
    seeds = np.full(image.shape[:2], cv2.GC_BGD if prompt.box else cv2.GC_PR_BGD, np.uint8)
    if prompt.box is not None:
        x1, y1, x2, y2 = (round(v * scale) for v in prompt.box)
        seeds[max(y1, 0) : y2, max(x1, 0) : x2] = cv2.GC_PR_FGD
    if before is not None:
        seeds = np.where(before, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        near = cv2.distanceTransform((~before).astype(np.uint8), cv2.DIST_L2, 3) < max(image.shape[:2]) / 10
        seeds[~near] = cv2.GC_BGD
    clicks = {cv2.GC_FGD: prompt.positive, cv2.GC_BGD: prompt.negative}
    discs = {value: _discs(points * scale, image.shape[:2]) for value, points in clicks.items() if points is not None}
    if prompt.box is None and before is None and cv2.GC_FGD in discs:
        reach = cv2.distanceTransform((~discs[cv2.GC_FGD]).astype(np.uint8), cv2.DIST_L2, 3)
        seeds[reach < max(image.shape[:2]) / 16] = cv2.GC_PR_FGD
    seeds[taken] = cv2.GC_BGD
    for value, mask in discs.items():
        seeds[mask] = value
    background = np.isin(seeds, (cv2.GC_BGD, cv2.GC_PR_BGD))
    if background.all() or not background.any():
        raise HoldprepError(
            f"segmenter=classical: a prompt of key frame {t} covers {'nothing' if background.all() else 'the whole picture'}: draw it anew"
        )
    return _grab_cut(image, seeds)


def _grab_cut(image: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """GrabCut's mask (H, W) bool, found on a reduced crop around what may be foreground: edges are refined later."""
    region = _region(seeds != cv2.GC_BGD, GRABCUT_MARGIN)
    crop, start = image[region], seeds[region]
    scale = min(1.0, GRABCUT_SIDE / max(start.shape))
    small = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    found = cv2.resize(start, small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    cv2.setRNGSeed(0)
    cv2.grabCut(small, found, None, np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    inside = cv2.resize(np.isin(found, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32), start.shape[::-1], interpolation=cv2.INTER_LINEAR)
    mask = np.zeros(seeds.shape, bool)
    mask[region] = inside > 0.5
    return mask


def _carry_all(clip: Clip, keys: Mapping[int, np.ndarray], cast: _Cast, knowledge: Knowledge | None, bar: tqdm) -> list[np.ndarray]:
    """Labels of every frame: carried from the key frame before and the one after, blended by distance."""
    at, labels = sorted(keys), dict(keys)
    bar.update(len(at))
    for a, b in zip([None, *at], [*at, None], strict=True):
        labels |= _between(clip, keys, a, b, cast, knowledge, bar)
    return [labels[t] for t in range(len(clip.bgr))]


def _between(
    clip: Clip, keys: Mapping[int, np.ndarray], a: int | None, b: int | None, cast: _Cast, knowledge: Knowledge | None, bar: tqdm
) -> dict[int, np.ndarray]:
    """Labels of the frames between key frames `a` and `b`, by frame; None is the clip's end, from which nothing is carried.

    What the one way brings to a frame waits for the other, which comes by when both have gone half-way.
    """
    inner = range((a if a is not None else -1) + 1, b if b is not None else len(clip.bgr))
    waiting: dict[int, _Probabilities] = {}
    labels: dict[int, np.ndarray] = {}

    def follow(start: int, order: range) -> None:
        for t, here in _carry(clip, start, keys[start], order, cast, knowledge):
            if a is None or b is None:
                probability = here.whole(clip.shape)
            elif waiting.setdefault(t, here) is here:
                continue
            else:
                share = 1 - abs(t - start) / (b - a)
                probability = share * here.whole(clip.shape) + (1 - share) * waiting.pop(t).whole(clip.shape)
            labels[t] = _clean(probability.argmax(axis=-1).astype(np.uint8), cast)
            bar.update()

    ways = [(start, order) for start, order in ((a, inner), (b, inner[::-1])) if start is not None]
    with ThreadPoolExecutor(len(ways)) as pool:  # both are mostly inside OpenCV and SciPy, which let go of Python's lock
        list(pool.map(follow, *zip(*ways, strict=True)))
    return labels


def _newcomers(labels: np.ndarray, cast: _Cast, region: tuple[slice, slice]) -> np.ndarray:
    """Least probability (h, w, L) of each label, for what comes into sight: new skin is that of the hand or arm it is nearer to."""
    least = np.full((*labels[region].shape, cast.count), NEWCOMER, np.float32)
    near = cv2.GaussianBlur(_one_hot(labels[region], cast.count), (0, 0), KEPT_PX / 2)[..., cast.skin] + 1e-6
    least[..., cast.skin] *= near / near.max(axis=-1, keepdims=True)
    return least


def _carry(
    clip: Clip, start: int, labels: np.ndarray, order: Iterable[int], cast: _Cast, knowledge: Knowledge | None
) -> Iterator[tuple[int, _Probabilities]]:
    """(frame, label probabilities) along `order`, each from the frame before it."""
    flow_of = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey, lab, wrists = clip.grey(start), clip.lab(start), {k: Wrist.of(labels, k, cast.arm) for k in cast.hands}
    for t in order:
        before, grey = grey, clip.grey(t)
        flow = flow_of.calc(before, grey, None)  # type: ignore[call-overload]
        wrists = {k: w and w.moved(flow, np.isin(labels, (k, cast.arm))) for k, w in wrists.items()}
        samples = _Samples.of(lab, _one_hot(labels, cast.count), flow, _region(labels, 30))
        samples = samples.where(samples.probability.sum(axis=-1) > 0)
        moved = np.abs(flow[labels > 0])
        region = _region(labels, 36 + int(min(moved.max() if moved.size else 0, 40)))
        lab = clip.lab(t)
        probability = _classify(samples, lab, region)
        if knowledge is not None:
            probability = np.exp(np.log(probability + _newcomers(labels, cast, region)) + knowledge.evidence(t, region))
            probability /= probability.sum(axis=-1, keepdims=True)
        probability = _smooth(probability, clip.bgr[t][region])
        for k, wrist in wrists.items():
            probability = wrist.split(probability, region, k, cast.arm) if wrist else probability
        labels = np.zeros(clip.shape, np.uint8)
        labels[region] = probability.argmax(axis=-1)
        labels = keep_near(_clean(labels, cast), cast.arm, cast.hands)
        yield t, _Probabilities.of(probability, region)
