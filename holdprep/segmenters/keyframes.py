"""The classical segmenter's key frames: labels from prompts, by GrabCut and the classifier."""

from collections.abc import Mapping

import cv2
import numpy as np

from holdprep.errors import HoldprepError
from holdprep.segmenters.arm import find_arm
from holdprep.segmenters.classifier import SAMPLE_STEP, LabelSet, Samples, classify, clean_labels, one_hot, region_of, smooth_in_edges
from holdprep.segmenters.knowledge import Clip
from holdprep.segmenters.prompts import EntityPrompt

GRABCUT_SIDE, GRABCUT_MARGIN = 200, 40  # px: longest side of the crop, margin of background
CORE_PX, SETTLED = 13, 0.99  # width of the uncertain edge of a prompt's outline; share of one label above which a pixel is not classified


def key_frame_labels(
    clip: Clip, t: int, label_set: LabelSet, prompts: Mapping[str, EntityPrompt], scale: float, prior: np.ndarray | None = None
) -> np.ndarray:
    """A key frame's labels: outlines in the prompts' order (by default the object over the hands), edges moved to the image's.

    `prior` labels are used for entities without a prompt, and are corrected by clicks alone.
    """
    labels = np.zeros(clip.shape, np.uint8)
    for k, entity in enumerate(label_set.entities, start=1):
        if prior is not None and entity not in prompts:
            labels[prior == k] = k
    # outlines in their order, then segmentation by colour, the object first: it fills its box better than a hand
    present = {e: p for e, p in prompts.items() if e in label_set.entities and not p.absent}
    for entity in sorted(present, key=lambda e: 0 if present[e].polygons else 1 if e == "object" else 2):
        k = label_set.entities.index(entity) + 1
        before = prior == k if prior is not None and not present[entity].is_outline and (prior == k).any() else None
        taken = (labels > 0) & (labels != k)
        for other, prompt in present.items():
            if other != entity and prompt.positive is not None:
                taken |= _click_discs(prompt.positive * scale, clip.shape)
        labels[_mask_of_prompt(clip.bgr[t], present[entity], scale, t, taken, before)] = k
    if prior is not None and not labels.any():
        return labels
    if not labels.any():
        raise HoldprepError(f"segmenter=classical: the prompts of key frame {t} outline nothing inside the image")
    labels[find_arm(clip.lab(t), labels, label_set.hands)] = label_set.arm
    return clean_labels(
        _refine_edges(clip, t, labels, label_set, {label_set.entities.index(e) + 1: p for e, p in present.items()}, scale), label_set
    )


def _refine_edges(
    clip: Clip, t: int, labels: np.ndarray, label_set: LabelSet, prompts: Mapping[int, EntityPrompt], scale: float
) -> np.ndarray:
    """Labels with edges moved to those of the image; clicks of `prompts` (by label) are always respected.

    Between two skin labels the image has no edge: there the drawn line is kept.
    """
    region, drawn, clicked, lab = region_of(labels, 25), labels, np.zeros(clip.shape, bool), clip.lab(t)
    for _ in range(2):
        near = cv2.GaussianBlur(one_hot(labels, label_set.count), (0, 0), 5)
        core = np.zeros(labels.shape, bool)
        for k in range(label_set.count):
            core |= _without_edge(labels == k)
        ys, xs = np.mgrid[region[0].start : region[0].stop : SAMPLE_STEP, region[1].start : region[1].stop : SAMPLE_STEP]
        sure = Samples.of(lab, one_hot(labels, label_set.count), None, region).where(core[ys, xs].ravel())
        probability = classify(sure, lab, region, 12, near.max(axis=-1) < SETTLED) * near[region]
        probability = smooth_in_edges(probability / probability.sum(axis=-1, keepdims=True), clip.bgr[t][region])
        for k, prompt in prompts.items():
            for points, value in ((prompt.positive, 1.0), (prompt.negative, -1.0)):
                if points is not None:
                    disc = _click_discs(points * scale, clip.shape)
                    clicked |= disc
                    probability[disc[region], k] += value
        labels = np.zeros(clip.shape, np.uint8)
        labels[region] = probability.argmax(axis=-1)
        skin = np.isin(labels, label_set.skin) & np.isin(drawn, label_set.skin) & ~clicked
        labels[skin] = drawn[skin]
    return labels


def _without_edge(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W) without its uncertain edge; thin parts are eroded by one pixel only."""
    core = cv2.erode(mask.astype(np.uint8), np.ones((CORE_PX, CORE_PX), np.uint8), borderValue=1) > 0
    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    thin = mask & ~np.isin(parts, np.unique(parts[core]))
    return core | (cv2.erode(thin.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1) > 0)


def _click_discs(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Discs around clicks, (H, W) bool."""
    mask = np.zeros(shape, np.uint8)
    for x, y in points:
        cv2.circle(mask, (round(x), round(y)), max(shape) // 80, 1, -1)
    return mask > 0


def _mask_of_prompt(
    image: np.ndarray, prompt: EntityPrompt, scale: float, t: int, taken: np.ndarray, before: np.ndarray | None = None
) -> np.ndarray:
    """A prompt as a mask (H, W) bool: its polygons filled, or GrabCut from its box and clicks, or from the earlier mask `before`.

    Pixels `taken` (H, W) belong to other entities.
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
    discs = {value: _click_discs(points * scale, image.shape[:2]) for value, points in clicks.items() if points is not None}
    if prompt.box is None and before is None and cv2.GC_FGD in discs:
        reach = cv2.distanceTransform((~discs[cv2.GC_FGD]).astype(np.uint8), cv2.DIST_L2, 3)
        seeds[reach < max(image.shape[:2]) / 16] = cv2.GC_PR_FGD
    seeds[taken] = cv2.GC_BGD
    for value, mask in discs.items():
        seeds[mask] = value
    background = np.isin(seeds, (cv2.GC_BGD, cv2.GC_PR_BGD))
    if background.all() or not background.any():
        raise HoldprepError(
            f"segmenter=classical: a prompt of key frame {t} covers {'nothing' if background.all() else 'the whole image'}: draw it again"
        )
    return _grab_cut(image, seeds)


def _grab_cut(image: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """GrabCut's mask (H, W) bool, on a reduced crop around possible foreground; edges are refined later."""
    region = region_of(seeds != cv2.GC_BGD, GRABCUT_MARGIN)
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
