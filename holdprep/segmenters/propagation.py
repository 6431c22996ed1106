"""The classical segmenter's propagation: labels of key frames, propagated by optical flow and the classifier."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from tqdm import tqdm

from holdprep.segmenters.arm import KEPT_PX, keep_near
from holdprep.segmenters.classifier import LabelSet, Probabilities, Samples, classify, clean_labels, one_hot, region_of, smooth_in_edges
from holdprep.segmenters.knowledge import Clip, Knowledge
from holdprep.segmenters.wrist import Wrist

NEW_LABEL = 0.03  # probability of a label without neighbours
OWN_WEIGHT, LEAST = 0.5, 1e-3  # weight of a frame's own evidence in the last decision; least propagated probability there
MARGIN_PX, THICK_PX = 36, 5  # the last decision's area beyond the entities; width of the narrowest part that it changes


def propagate_all(
    clip: Clip, keys: Mapping[int, np.ndarray], label_set: LabelSet, knowledge: Knowledge | None, bar: tqdm
) -> list[np.ndarray]:
    """Labels of all frames: propagated from the previous and the next key frame, blended by distance."""
    at, labels = sorted(keys), dict(keys)
    bar.update(len(at))
    for a, b in zip([None, *at], [*at, None], strict=True):
        labels |= _propagate_between(clip, keys, a, b, label_set, knowledge, bar)
    return [labels[t] for t in range(len(clip.bgr))]


def _propagate_between(
    clip: Clip, keys: Mapping[int, np.ndarray], a: int | None, b: int | None, label_set: LabelSet, knowledge: Knowledge | None, bar: tqdm
) -> dict[int, np.ndarray]:
    """Labels of the frames between key frames `a` and `b`, by frame; None is the clip's start or end, without propagation.

    A frame's probabilities from one direction are kept until the other direction reaches the frame.
    """
    inner = range((a if a is not None else -1) + 1, b if b is not None else len(clip.bgr))
    waiting: dict[int, Probabilities] = {}
    labels: dict[int, np.ndarray] = {}

    def follow(start: int, order: range) -> None:
        for t, here in _propagate_from(clip, start, keys[start], order, label_set, knowledge):
            if a is None or b is None:
                probability = here.whole(clip.shape)
            elif waiting.setdefault(t, here) is here:
                continue
            else:
                share = 1 - abs(t - start) / (b - a)
                probability = share * here.whole(clip.shape) + (1 - share) * waiting.pop(t).whole(clip.shape)
            labels[t] = decided(probability, clip, t, label_set, knowledge)
            bar.update()

    ways = [(start, order) for start, order in ((a, inner), (b, inner[::-1])) if start is not None]
    with ThreadPoolExecutor(len(ways)) as pool:  # OpenCV and SciPy release Python's lock
        list(pool.map(follow, *zip(*ways, strict=True)))
    return labels


def decided(probability: np.ndarray, clip: Clip, t: int, label_set: LabelSet, knowledge: Knowledge | None) -> np.ndarray:
    """Labels (H, W) uint8 of frame `t` from propagated probabilities (H, W, L), with skin decided again by the frame's own evidence.

    Propagation grows certain, and a gap that opens between fingers, or an arm that comes behind a hand, keeps the label of the frames before.
    Only skin gains or loses here: the object's other sides have colours that no key frame shows, so the object stays, and object and
    background have the same evidence. Edges stay too: parts narrower than THICK_PX are not changed.
    """
    labels = clean_labels(probability.argmax(axis=-1).astype(np.uint8), label_set)
    if knowledge is None or not label_set.hands:
        return labels
    region = region_of(labels, MARGIN_PX)
    evidence, others = knowledge.evidence(t, region), [k for k in range(label_set.count) if k not in label_set.skin]
    evidence[..., others] = evidence[..., others].max(axis=-1, keepdims=True)
    both = np.log(np.maximum(probability[region], LEAST)) + OWN_WEIGHT * evidence
    both = np.exp(both - both.max(axis=-1, keepdims=True))
    again = smooth_in_edges(both / both.sum(axis=-1, keepdims=True), clip.bgr[t][region]).argmax(axis=-1)
    before, kernel = labels[region], np.ones((THICK_PX, THICK_PX), np.uint8)
    changed = (again != before) & ~np.isin(before, others[1:])
    changed &= cv2.dilate(cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_OPEN, kernel), kernel) > 0
    before[changed] = again[changed]
    return clean_labels(labels, label_set)


def labels_at(clip: Clip, source: int, labels: np.ndarray, t: int, label_set: LabelSet) -> np.ndarray:
    """Labels of frame `t` propagated from the key frame `source`."""
    step = 1 if t > source else -1
    for _, probabilities in _propagate_from(clip, source, labels, range(source + step, t + step, step), label_set, None):
        last = probabilities
    return last.whole(clip.shape).argmax(axis=-1).astype(np.uint8)


def _min_probability(labels: np.ndarray, label_set: LabelSet, region: tuple[slice, slice]) -> np.ndarray:
    """Minimal probability (h, w, L) of each label, for new parts; new skin belongs to the closer one of hand and arm."""
    minimum = np.full((*labels[region].shape, label_set.count), NEW_LABEL, np.float32)
    near = cv2.GaussianBlur(one_hot(labels[region], label_set.count), (0, 0), KEPT_PX / 2)[..., label_set.skin] + 1e-6
    minimum[..., label_set.skin] *= near / near.max(axis=-1, keepdims=True)
    return minimum


def _propagate_from(
    clip: Clip, start: int, labels: np.ndarray, order: Iterable[int], label_set: LabelSet, knowledge: Knowledge | None
) -> Iterator[tuple[int, Probabilities]]:
    """Yield (frame, label probabilities) along `order`, each from the previous frame."""
    flow_of = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey, lab, wrists = clip.grey(start), clip.lab(start), {k: Wrist.of(labels, k, label_set.arm) for k in label_set.hands}
    for t in order:
        before, grey = grey, clip.grey(t)
        flow = flow_of.calc(before, grey, None)  # type: ignore[call-overload]
        wrists = {k: w and w.moved(flow, np.isin(labels, (k, label_set.arm))) for k, w in wrists.items()}
        samples = Samples.of(lab, one_hot(labels, label_set.count), flow, region_of(labels, 30))
        samples = samples.where(samples.probability.sum(axis=-1) > 0)
        moved = np.abs(flow[labels > 0])
        region = region_of(labels, 36 + int(min(moved.max() if moved.size else 0, 40)))
        lab = clip.lab(t)
        probability = classify(samples, lab, region)
        if knowledge is not None:
            probability = np.exp(np.log(probability + _min_probability(labels, label_set, region)) + knowledge.evidence(t, region))
            probability /= probability.sum(axis=-1, keepdims=True)
        probability = smooth_in_edges(probability, clip.bgr[t][region])
        for k, wrist in wrists.items():
            probability = wrist.split(probability, region, k, label_set.arm) if wrist else probability
        labels = np.zeros(clip.shape, np.uint8)
        labels[region] = probability.argmax(axis=-1)
        labels = keep_near(clean_labels(labels, label_set), label_set.arm, label_set.hands)
        yield t, Probabilities.of(probability, region)
