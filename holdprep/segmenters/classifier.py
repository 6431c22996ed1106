"""The classical segmenter's classifier: label probabilities of pixels from labelled ones of similar position and colour."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree

SIGMA_PX, SIGMA_LAB = 9.0, 7.0  # kernel widths of position and colour
SAMPLE_STEP = 2  # every second pixel in both directions is used and classified
NEIGHBOURS = 8
MAX_HOLE = 0.04  # of the object's area: smaller holes in its mask are filled
UNLIKE = 0.7  # of a hole: a share that shows neither background nor hand, from which a hole of any size is filled
TOUCHING_PX = 4  # distance from a hand at which a part of the object touches it
SMOOTH_LAMBDA, SMOOTH_SIGMA = 80.0, 6.0


@dataclass(frozen=True)
class LabelSet:
    """The labels of a clip: 0 background, k the k-th of `entities`, the last the bare arms, which are part of the background.

    The label `unknown` occurs on key frames only, and not in samples.
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

    def min_part_px(self, label: int, largest: float) -> float:
        """Minimal size of a connected part of a label whose largest part has `largest` pixels; fingers may be separate parts."""
        if label in (0, self.arm):
            return 60
        return (0.1 if self.entities[label - 1] == "object" else 0.03) * largest


@dataclass(frozen=True)
class Probabilities:
    """Probabilities of the entities' and arm's labels in a region of an image, (h, w, L - 1) uint8, 255 for 1.

    The rest, and pixels outside of the region, are background. uint8 saves memory in long clips.
    """

    of_labels: np.ndarray
    region: tuple[slice, slice]

    @staticmethod
    def of(probability: np.ndarray, region: tuple[slice, slice]) -> "Probabilities":
        """Probabilities from those of all labels (h, w, L) in a region."""
        return Probabilities(np.round(255 * probability[..., 1:]).astype(np.uint8), region)

    def whole(self, shape: tuple[int, int]) -> np.ndarray:
        """Probabilities (H, W, L) float32 of the whole image of `shape`."""
        full = np.zeros((*shape, self.of_labels.shape[-1] + 1), np.float32)
        full[self.region][..., 1:] = self.of_labels / np.float32(255)
        full[..., 0] = 1 - full[..., 1:].sum(axis=-1)
        return full


@dataclass
class Samples:
    """Labelled pixels for the classifier: position (N, 2), colour (N, 3), label probabilities (N, L)."""

    position: np.ndarray
    color: np.ndarray
    probability: np.ndarray

    @staticmethod
    def of(lab: np.ndarray, probability: np.ndarray, flow: np.ndarray | None, region: tuple[slice, slice]) -> "Samples":
        ys, xs = np.mgrid[region[0].start : region[0].stop : SAMPLE_STEP, region[1].start : region[1].stop : SAMPLE_STEP]
        position = np.stack([xs, ys], axis=-1).astype(np.float32)
        if flow is not None:
            position += flow[ys, xs]
        return Samples(position.reshape(-1, 2), lab[ys, xs].reshape(-1, 3), probability[ys, xs].reshape(len(ys) * len(ys[0]), -1))

    def where(self, keep: np.ndarray) -> "Samples":
        return Samples(self.position[keep], self.color[keep], self.probability[keep])


def classify(
    samples: Samples, lab: np.ndarray, region: tuple[slice, slice], neighbours: int = NEIGHBOURS, selected: np.ndarray | None = None
) -> np.ndarray:
    """Label probabilities (h, w, L) of a region: by kernel-weighted nearest neighbours in position and colour.

    They are uniform where not `selected` (H, W).
    """
    tree = cKDTree(np.c_[samples.position / SIGMA_PX, samples.color / SIGMA_LAB], balanced_tree=False, compact_nodes=False)
    ys, xs = np.mgrid[region[0].start : region[0].stop : SAMPLE_STEP, region[1].start : region[1].stop : SAMPLE_STEP]
    wanted = np.ones(ys.shape, bool) if selected is None else selected[ys, xs]
    query = np.c_[xs[wanted] / SIGMA_PX, ys[wanted] / SIGMA_PX, lab[ys, xs][wanted] / SIGMA_LAB]
    distance, index = tree.query(query, k=neighbours, eps=0.3, distance_upper_bound=6, workers=-1)
    found = index < len(samples.position)
    weight = np.where(found, np.exp(-0.5 * np.minimum(distance, 6) ** 2), 0)
    count = samples.probability.shape[1]
    votes = np.full((*ys.shape, count), 0.02 / count, np.float32)
    votes[wanted] += np.einsum("nk,nkl->nl", weight, samples.probability[np.where(found, index, 0)])
    votes /= votes.sum(axis=-1, keepdims=True)
    size = (region[1].stop - region[1].start, region[0].stop - region[0].start)
    return cv2.resize(votes, size, interpolation=cv2.INTER_LINEAR)


def smooth_in_edges(probability: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """Normalised probabilities, smoothed except across edges of the image `guide`."""
    smoother = cv2.ximgproc.createFastGlobalSmootherFilter(guide, SMOOTH_LAMBDA, SMOOTH_SIGMA)
    planes = [smoother.filter(np.ascontiguousarray(probability[..., k])) for k in range(probability.shape[2])]
    smooth = np.clip(np.stack(planes, axis=-1), 1e-4, None)
    return smooth / smooth.sum(axis=-1, keepdims=True)


def clean_labels(labels: np.ndarray, label_set: LabelSet) -> np.ndarray:
    """Labels without small parts, which get the label of their surroundings."""
    out = labels.copy()
    for k in range(label_set.count):
        _, index, stats, _ = cv2.connectedComponentsWithStats((labels == k).astype(np.uint8), connectivity=4)
        areas = stats[1:, cv2.CC_STAT_AREA]
        for part in np.flatnonzero(areas < label_set.min_part_px(k, max(areas, default=0))) + 1:
            small = index == part
            ring = (cv2.dilate(small.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0) & ~small
            out[small] = np.bincount(out[ring], minlength=label_set.count).argmax() if ring.any() else 0
    if "object" in label_set.entities:
        _fill_holes(out, label_set.entities.index("object") + 1, (0, label_set.arm))
    return out


def without_sleeves(labels: np.ndarray, label_set: LabelSet) -> np.ndarray:
    """Labels without parts of the object that come from the image's border, as sleeves do, and touch no hand.

    The largest part stays, and so do parts within the image, which an arm may separate from it.
    """
    if "object" not in label_set.entities:
        return labels
    k = label_set.entities.index("object") + 1
    number, parts, stats, _ = cv2.connectedComponentsWithStats((labels == k).astype(np.uint8), connectivity=8)
    if number <= 2:
        return labels
    hands = cv2.dilate(np.isin(labels, label_set.hands).astype(np.uint8), np.ones((2 * TOUCHING_PX + 1,) * 2, np.uint8)) > 0
    kept = [1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()), *np.unique(parts[hands])]
    border = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    return np.where(np.isin(parts, np.setdiff1d(border, [0, *kept])), 0, labels).astype(labels.dtype)


def _fill_holes(labels: np.ndarray, k: int, empty: tuple[int, int]) -> None:
    """Give small parts of the labels `empty` that label `k` encloses to it, in place: a rigid object seldom shows the room through it."""
    total = np.count_nonzero(labels == k)
    for hole in _holes(labels, k, empty):
        if hole.sum() < MAX_HOLE * total:
            labels[hole] = k


def _holes(labels: np.ndarray, k: int, empty: tuple[int, int]) -> Iterator[np.ndarray]:
    """The parts (H, W) bool of the labels `empty` that have no other neighbour than label `k`."""
    number, index = cv2.connectedComponents(np.isin(labels, empty).astype(np.uint8), connectivity=4)
    for part in range(1, number):
        hole = index == part
        ring = (cv2.dilate(hole.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0) & ~hole
        if (labels[ring] == k).all():
            yield hole


def _at_border(part: np.ndarray) -> bool:
    return bool(part[[0, -1]].any() or part[:, [0, -1]].any())


def without_holes(labels: np.ndarray, label_set: LabelSet, unlike: Callable[[], np.ndarray | None]) -> np.ndarray:
    """Labels with those holes in the object filled that show neither the background nor a hand.

    `unlike` returns the pixels (H, W) bool that do not, None where that is unknown. Colours of a side of the object that no key frame shows
    make such holes, of any size.
    """
    if "object" not in label_set.entities:
        return labels
    k = label_set.entities.index("object") + 1
    holes = [hole for hole in _holes(labels, k, (0, label_set.arm)) if not _at_border(hole)]
    if not holes or (neither := unlike()) is None:
        return labels
    out = labels.copy()
    for hole in holes:
        if neither[hole].mean() > UNLIKE:
            out[hole] = k
    return out


def one_hot(labels: np.ndarray, count: int) -> np.ndarray:
    return (labels[..., None] == np.arange(count)).astype(np.float32)


def region_of(labels: np.ndarray, margin: int) -> tuple[slice, slice]:
    """The foreground's bounding box with a margin; the whole image without foreground."""
    ys, xs = np.nonzero(labels)
    if len(ys) == 0:
        return slice(0, labels.shape[0]), slice(0, labels.shape[1])
    return (
        slice(max(int(ys.min()) - margin, 0), min(int(ys.max()) + margin, labels.shape[0])),
        slice(max(int(xs.min()) - margin, 0), min(int(xs.max()) + margin, labels.shape[1])),
    )
