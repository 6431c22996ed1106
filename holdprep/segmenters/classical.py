"""The segmenter without network weights: key frames from clicks or outlines, propagated by optical flow and local colour.

On key frames hands, arm, object and background compete in one cut, with the same colours in all key frames (`clicked`).
Between two key frames labels are propagated forward from one and backward from the other, and blended by distance. A pixel's label
probabilities are those of its nearest neighbours in (position, colour) among the previous frame's labelled pixels, moved by optical flow
and smoothed along image edges (Min et al. 2014, fast global smoother). A first pass at half the size detects the background; the second
uses in addition the background's plate, where the camera is static or only rotates, and parts of key frames where a finger may be missing;
clicked key frames are cut again with the plate. In the end each frame's own evidence decides again about areas of skin, and holes in the
object that show neither the plate nor a hand are filled. Each label's colours and the hand's tracked keypoints are evidence in both passes. The bare
arm has its own label; its border with the hand is a line that moves with the skin around it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import cv2
import numpy as np
from tqdm import tqdm

from holdprep.errors import HoldprepError
from holdprep.segmenters import ENTITIES
from holdprep.segmenters.classifier import LabelSet, without_holes, without_sleeves
from holdprep.segmenters.clicked import Cues
from holdprep.segmenters.keyframes import KeyFrame, key_frame_labels
from holdprep.segmenters.knowledge import Clip, Knowledge
from holdprep.segmenters.prompts import EntityPrompt, anchors
from holdprep.segmenters.propagation import labels_at, propagate_all

Prompts = Mapping[int, Mapping[str, EntityPrompt]]
Tracked = Callable[[Sequence[np.ndarray], str, Prompts], np.ndarray]  # keypoints (T, 21, 2) px of a hand from images, side, prompts


def propagate(
    images: Sequence[np.ndarray],
    prompts: Prompts,
    *,
    work_side: int = 640,
    progress: Callable[..., tqdm] | None = None,
    track: Tracked | None = None,
) -> dict[str, np.ndarray]:
    """Visible masks (T, H, W) bool of every prompted entity, disjoint, from T BGR images and prompts on some of them.

    `prompts` maps a frame's index to its entities. Entities without a prompt on a key frame are propagated there from the nearest one with,
    and clicks alone correct propagated masks. `progress` creates the progress bar (tqdm or a subclass); `track` finds a hand's keypoints,
    which are evidence for its mask.
    Propagation works at a longest side of `work_side` pixels. Raises HoldprepError without key frames, or where one outlines nothing.
    """
    entities = [e for e in ENTITIES if any(e in p for p in prompts.values())]
    if not entities:
        raise HoldprepError("segmenter=classical: no key frame has an outline: add prompts for the object and a hand")
    size = images[0].shape[:2]
    labels = _label_frames(images, prompts, LabelSet(tuple(entities)), work_side, progress or partial(tqdm, disable=True), track)
    masks = {entity: np.empty((len(labels), *size), bool) for entity in entities}
    for t, small in enumerate(labels):
        label = enlarge(small, size)
        for k, entity in enumerate(entities, start=1):
            masks[entity][t] = label == k
    return masks


def outline(
    image: np.ndarray,
    prompts: Mapping[str, EntityPrompt],
    known: Mapping[str, np.ndarray],
    *,
    work_side: int = 640,
    track: Tracked | None = None,
) -> dict[str, np.ndarray]:
    """Disjoint masks (H, W) bool of one BGR image, from `prompts` and `known` masks of entities without a prompt or to be corrected."""
    entities = [e for e in ENTITIES if e in prompts or e in known]
    clip, scale = at_work_size([image], work_side)
    prior = np.zeros(clip.shape, np.uint8)
    for entity, mask in known.items():
        small = cv2.resize(mask.astype(np.uint8), clip.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
        prior[small] = entities.index(entity) + 1
    label_set = LabelSet(tuple(entities))
    joints_px = {k: scale * track([image], entities[k - 1], {0: prompts}) for k in label_set.hands} if track else {}
    frame = KeyFrame(prompts, prior, _cues(joints_px, 0))
    labels = enlarge(key_frame_labels(clip, {0: frame}, label_set, scale)[0], image.shape[:2])
    return {entity: labels == k for k, entity in enumerate(entities, start=1)}


def _label_frames(
    images: Sequence[np.ndarray],
    prompts: Prompts,
    label_set: LabelSet,
    work_side: int,
    progress: Callable[..., tqdm],
    track: Tracked | None,
) -> list[np.ndarray]:
    """Label images (h, w) uint8 of all frames, at work size."""
    clip, scale = at_work_size(images, work_side)
    joints_px = {k: scale * track(images, label_set.entities[k - 1], prompts) for k in label_set.hands} if track else {}
    keys = _label_key_frames(clip, label_set, prompts, scale, lambda t: _cues(joints_px, t))
    with progress(total=2 * len(images), desc="masks", unit="frame") as bar:
        knowledge = Knowledge(clip, keys, label_set, joints_px)
        knowledge.find_background(_first_pass(clip, keys, label_set, knowledge, bar))
        if _are_clicked(prompts):
            keys = _label_key_frames(clip, label_set, prompts, scale, lambda t: _cues(joints_px, t, knowledge))
            knowledge.learn(keys)
        knowledge.find_arms()
        with_unknown = {t: np.where(knowledge.missing_fingers(t, key), label_set.unknown, key) for t, key in keys.items()}
        propagated = propagate_all(clip, with_unknown, label_set, knowledge, bar)
        filled = [without_holes(frame, label_set, partial(knowledge.neither_background_nor_hand, t)) for t, frame in enumerate(propagated)]
        return _without_sleeves(filled, keys, label_set)


def _without_sleeves(labels: Sequence[np.ndarray], keys: Mapping[int, np.ndarray], label_set: LabelSet) -> list[np.ndarray]:
    """Labels of all frames, those of key frames as they are, and without sleeves in the object if no key frame has any."""
    whole = all((without_sleeves(key, label_set) == key).all() for key in keys.values())
    return [keys[t] if t in keys else without_sleeves(frame, label_set) if whole else frame for t, frame in enumerate(labels)]


def _label_key_frames(
    clip: Clip,
    label_set: LabelSet,
    prompts: Prompts,
    scale: float,
    cues: Callable[[int], Cues],
) -> dict[int, np.ndarray]:
    """Labels of all key frames: first those that outline every entity, then the others with propagated labels."""
    outlined = {e: anchors(prompts, e) for e in label_set.entities}
    own = {t: {e: p for e, p in prompts[t].items() if e in outlined and t in outlined[e]} for t in sorted(prompts)}
    seen = {t: KeyFrame(p, cues=cues(t)) for t, p in own.items() if any(not each.absent for each in p.values())}
    keys = key_frame_labels(clip, seen, label_set, scale)
    found, corrected = {}, {}
    for t in own:
        if set(own[t]) == set(label_set.entities):
            found[t] = keys.get(t, np.zeros(clip.shape, np.uint8))
            continue
        prior = np.zeros(clip.shape, np.uint8)
        for k, entity in enumerate(label_set.entities, start=1):
            sources = [s for s in outlined[entity] if s in keys]
            if entity not in own[t] and sources:
                source = min(sources, key=lambda s: abs(s - t))
                prior[(labels_at(clip, source, keys[source], t, label_set) == k) & (prior == 0)] = k
        corrected[t] = KeyFrame(prompts[t], prior, cues(t))
    return found | key_frame_labels(clip, corrected, label_set, scale)


def _cues(joints_px: Mapping[int, np.ndarray], t: int, knowledge: Knowledge | None = None) -> Cues:
    return Cues({k: joints[t] for k, joints in joints_px.items()}, None if knowledge is None else knowledge.like_background(t))


def _are_clicked(prompts: Prompts) -> bool:
    """Whether any mask of a key frame is cut, not drawn."""
    return any(not p.polygons and not p.absent for by in prompts.values() for p in by.values())


def at_work_size(images: Iterable[np.ndarray], work_side: int) -> tuple[Clip, float]:
    """BGR images (H, W, 3) at a longest side of `work_side` pixels or unchanged, and their scale factor."""
    clip, scale = Clip([]), 1.0
    for image in images:
        scale = min(1.0, work_side / max(image.shape))
        clip.bgr.append(image if scale == 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    return clip, scale


def _first_pass(clip: Clip, keys: Mapping[int, np.ndarray], label_set: LabelSet, knowledge: Knowledge, bar: tqdm) -> list[np.ndarray]:
    """Labels of all frames without the background's plate, at half the size, which is sufficient to detect the background."""
    small = clip.halved()
    small_keys = {t: cv2.resize(k, small.shape[::-1], interpolation=cv2.INTER_NEAREST) for t, k in keys.items()}
    labels = propagate_all(small, small_keys, label_set, knowledge.of_halved(small), bar)
    return [cv2.resize(each, clip.shape[::-1], interpolation=cv2.INTER_NEAREST) for each in labels]


def enlarge(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarged labels: masks are enlarged smoothly, and the largest value determines the label."""
    if labels.shape == size:
        return labels
    strongest, best = np.zeros(size, np.uint8), np.full(size, -np.inf, np.float32)
    for k in range(int(labels.max()) + 1):
        plane = cv2.resize(cv2.GaussianBlur((labels == k).astype(np.float32), (0, 0), 0.8), size[::-1], interpolation=cv2.INTER_CUBIC)
        strongest[plane > best] = k
        np.maximum(best, plane, out=best)
    return strongest
