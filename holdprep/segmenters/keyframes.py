"""The classical segmenter's key frames: labels from prompts, by one cut for all labels and the classifier."""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from holdprep.errors import HoldprepError
from holdprep.segmenters.arm import find_arm
from holdprep.segmenters.classifier import SAMPLE_STEP, LabelSet, Samples, classify, clean_labels, one_hot, region_of, smooth_in_edges
from holdprep.segmenters.clicked import NO_CUES, Cues, MarkedFrame, Marks, click_discs, cut_clicked
from holdprep.segmenters.knowledge import Clip
from holdprep.segmenters.prompts import EntityPrompt
from holdprep.segmenters.skeleton import arm_area

DRAWN_CORE_PX, CUT_CORE_PX = 13, 5  # width of the uncertain edge of a drawn outline, and of a cut, which lies on the image's edges
SETTLED = 0.99  # share of one label above which a pixel is not classified


@dataclass(frozen=True)
class KeyFrame:
    """The prompts of a frame, `prior` labels (H, W) of entities without a prompt or to be corrected by clicks alone, further evidence."""

    prompts: Mapping[str, EntityPrompt]
    prior: np.ndarray | None = None
    cues: Cues = NO_CUES

    @property
    def present(self) -> dict[str, EntityPrompt]:
        return {e: p for e, p in self.prompts.items() if not p.absent}

    @property
    def is_drawn(self) -> bool:
        """Whether all masks are drawn, so that there is nothing to cut."""
        return all(p.polygons for p in self.present.values())

    def drawn(self, shape: tuple[int, int], label_set: LabelSet, scale: float) -> np.ndarray:
        """Labels (H, W) of the outlines in their order, over prior labels of entities without a prompt."""
        labels = np.zeros(shape, np.uint8)
        if self.prior is not None:
            kept = np.isin(self.prior, [k for k, e in enumerate(label_set.entities, start=1) if e not in self.prompts])
            labels[kept] = self.prior[kept]
        for entity, prompt in self.present.items():
            for polygon in prompt.polygons:
                cv2.fillPoly(labels, [np.round(polygon * scale).astype(np.int32)], label_set.entities.index(entity) + 1)
        return labels


def key_frame_labels(clip: Clip, frames: Mapping[int, KeyFrame], label_set: LabelSet, scale: float) -> dict[int, np.ndarray]:
    """Labels of key frames by frame: outlines in the prompts' order; boxes and clicks by one cut; edges moved to the image's."""
    drawn = {t: frame.drawn(clip.shape, label_set, scale) for t, frame in frames.items()}
    marks = {t: Marks.of(f.prompts, label_set, scale, f.prior, drawn[t]) for t, f in frames.items() if not f.is_drawn}
    for t, marked in marks.items():
        _check(marked, clip.shape, t)
    cuts = cut_clicked([MarkedFrame(clip.bgr[t], marked, frames[t].cues) for t, marked in marks.items()], label_set) if marks else []
    labels = drawn | dict(zip(marks, cuts, strict=True))
    return {t: _finished(clip, t, labels[t], frame, label_set, scale) for t, frame in frames.items()}


def _finished(clip: Clip, t: int, labels: np.ndarray, frame: KeyFrame, label_set: LabelSet, scale: float) -> np.ndarray:
    """A key frame's labels with the arm and exact edges."""
    if not labels.any():
        if frame.prior is None:
            raise HoldprepError(f"segmenter=classical: the prompts of key frame {t} outline nothing inside the image")
        return labels
    maybe_arm = arm_area(frame.cues.joints_px.values(), labels.shape)
    labels[find_arm(clip.lab(t), labels, label_set.hands, maybe_arm) & (labels == 0)] = label_set.arm
    prompts = {label_set.entities.index(e) + 1: p for e, p in frame.present.items()}
    return clean_labels(_refine_edges(clip, t, labels, label_set, prompts, scale), label_set)


def _refine_edges(
    clip: Clip, t: int, labels: np.ndarray, label_set: LabelSet, prompts: Mapping[int, EntityPrompt], scale: float
) -> np.ndarray:
    """Labels with edges moved to those of the image; clicks of `prompts` (by label) are always respected.

    Between two skin labels the image has no edge: there the drawn line is kept.
    """
    edge_px = DRAWN_CORE_PX if any(p.polygons for p in prompts.values()) else CUT_CORE_PX
    region, drawn, clicked, lab = region_of(labels, 25), labels, np.zeros(clip.shape, bool), clip.lab(t)
    for _ in range(2):
        near = cv2.GaussianBlur(one_hot(labels, label_set.count), (0, 0), 5)
        core = np.zeros(labels.shape, bool)
        for k in range(label_set.count):
            core |= _without_edge(labels == k, edge_px)
        ys, xs = np.mgrid[region[0].start : region[0].stop : SAMPLE_STEP, region[1].start : region[1].stop : SAMPLE_STEP]
        sure = Samples.of(lab, one_hot(labels, label_set.count), None, region).where(core[ys, xs].ravel())
        probability = classify(sure, lab, region, 12, near.max(axis=-1) < SETTLED) * near[region]
        probability = smooth_in_edges(probability / probability.sum(axis=-1, keepdims=True), clip.bgr[t][region])
        for k, prompt in prompts.items():
            for points, value in ((prompt.positive, 1.0), (prompt.negative, -1.0)):
                if points is not None:
                    disc = click_discs(points * scale, clip.shape)
                    clicked |= disc
                    probability[disc[region], k] += value
        labels = np.zeros(clip.shape, np.uint8)
        labels[region] = probability.argmax(axis=-1)
        skin = np.isin(labels, label_set.skin) & np.isin(drawn, label_set.skin) & ~clicked
        labels[skin] = drawn[skin]
    return labels


def _without_edge(mask: np.ndarray, edge_px: int) -> np.ndarray:
    """A mask (H, W) without its uncertain edge of the odd width `edge_px`; narrower parts, as handles are, are eroded by one pixel only."""
    whole, kernel = mask.astype(np.uint8), np.ones((edge_px, edge_px), np.uint8)
    core = cv2.erode(whole, kernel, borderValue=1)
    beside = mask & (cv2.dilate(core, kernel) == 0)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(beside.astype(np.uint8), connectivity=4)
    narrow = np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= edge_px**2) + 1  # smaller ones are corners
    thin = cv2.erode(whole, np.ones((3, 3), np.uint8), borderValue=1)
    return (core > 0) | ((thin > 0) & np.isin(parts, narrow))


def _check(marks: Marks, shape: tuple[int, int], t: int) -> None:
    """Raise HoldprepError for a box that covers no pixel of the image, or all."""
    height, width = shape
    for x1, y1, x2, y2 in marks.boxes.values():
        covered = max(min(x2, width) - max(x1, 0), 0) * max(min(y2, height) - max(y1, 0), 0)
        if covered < 1 or covered >= width * height:
            raise HoldprepError(
                f"segmenter=classical: a prompt of key frame {t} covers {'nothing' if covered < 1 else 'the whole image'}: draw it again"
            )
