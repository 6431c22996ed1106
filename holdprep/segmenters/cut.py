"""One cut for all labels: alpha expansion over superpixels (Boykov, Veksler and Zabih 2001), with a Potts term that edges of the image reduce."""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

SUPERPIXEL_PX, COMPACTNESS = 7, 12.0
SMOOTHNESS = 1.6  # cost of a border between two labels, per pixel of its length, where the image has no edge
PER_UNIT = 100.0  # integer capacity of a cost of 1
FORBIDDEN = 1e4  # cost per pixel of a label that is excluded
SWEEPS = 3


@dataclass(frozen=True)
class Superpixels:
    """The superpixels of an image region: `index` (h, w) of each pixel, their sizes (N,) in pixels, and their borders.

    Pairs (E, 2) of adjacent superpixels have the costs `weights` (E,) of a border between them.
    """

    index: np.ndarray
    sizes: np.ndarray
    pairs: np.ndarray
    weights: np.ndarray

    @staticmethod
    def of(bgr: np.ndarray, smoothness: float = SMOOTHNESS) -> "Superpixels":
        """The superpixels of an image (h, w, 3) uint8."""
        lab = cv2.cvtColor(bgr, cv2.COLOR_BGR2Lab)
        slic = cv2.ximgproc.createSuperpixelSLIC(lab, cv2.ximgproc.SLIC, SUPERPIXEL_PX, COMPACTNESS)
        slic.iterate(5)
        slic.enforceLabelConnectivity(12)
        index = slic.getLabels().astype(np.intp)
        pairs, weights = _borders(index, cv2.GaussianBlur(bgr, (0, 0), 0.7).astype(np.float32))
        return Superpixels(index, np.bincount(index.ravel()), pairs, smoothness * weights)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sums (N, L) over the pixels' values (h, w, L)."""
        flat, count = self.index.ravel(), len(self.sizes)
        return np.stack([np.bincount(flat, plane, count) for plane in np.moveaxis(values, -1, 0).reshape(values.shape[-1], -1)], axis=1)


def _borders(index: np.ndarray, bgr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (E, 2) of adjacent superpixels, and the sum over their border's pixels of exp(-contrast / its mean), diagonals included."""
    ends, contrasts, lengths = [], [], []
    height, width = index.shape
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        one = slice(0, height - dy), slice(max(-dx, 0), width - max(dx, 0))
        two = slice(dy, height), slice(max(dx, 0), width + min(dx, 0))
        contrast = np.square(bgr[one] - bgr[two]).sum(axis=-1)
        a, b = index[one], index[two]
        at = a != b
        ends.append(np.stack([np.minimum(a[at], b[at]), np.maximum(a[at], b[at])], axis=1))
        contrasts.append(contrast[at])
        lengths.append(np.full(int(at.sum()), 0.5 / np.hypot(dy, dx)))
    pairs, cost = np.concatenate(ends), np.concatenate(contrasts)
    cost = np.concatenate(lengths) * np.exp(-cost / (2 * max(float(cost.mean()), 1.0)))
    count = int(index.max()) + 1
    unique, inverse = np.unique(pairs[:, 0] * count + pairs[:, 1], return_inverse=True)
    return np.stack([unique // count, unique % count], axis=1), np.bincount(inverse, cost)


def cut(superpixels: Superpixels, costs: np.ndarray) -> np.ndarray:
    """The labels (h, w) uint8 of least cost from the pixels' costs (h, w, L); FORBIDDEN or more excludes a label.

    A superpixel that contains pixels with excluded labels takes none of them unless it has no other.
    """
    unary = superpixels.sums(np.minimum(costs, FORBIDDEN))
    labels = unary.argmin(axis=1)
    energy = _energy(superpixels, unary, labels)
    for _ in range(SWEEPS):
        before = energy
        for alpha in range(unary.shape[1]):
            moved = _expanded(superpixels, unary, labels, alpha)
            if (new := _energy(superpixels, unary, moved)) < energy - 1e-6:
                labels, energy = moved, new
        if energy >= before - 1e-6:
            break
    return labels[superpixels.index].astype(np.uint8)


def _energy(superpixels: Superpixels, unary: np.ndarray, labels: np.ndarray) -> float:
    ends = labels[superpixels.pairs]
    return float(np.take_along_axis(unary, labels[:, None], axis=1).sum() + superpixels.weights[ends[:, 0] != ends[:, 1]].sum())


def _expanded(superpixels: Superpixels, unary: np.ndarray, labels: np.ndarray, alpha: int) -> np.ndarray:
    """Labels (N,) after the best expansion of `alpha`: each superpixel keeps its label or takes alpha, by a minimum cut."""
    count, (p, q) = len(labels), superpixels.pairs.T
    keep, take = unary[np.arange(count), labels].copy(), unary[:, alpha].copy()
    # E = A + (C - A) x_p - C x_q + (B + C - A) (1 - x_p) x_q, x = 1 takes alpha; A, B, C of (keep, keep), (keep, take), (take, keep)
    kept = superpixels.weights * (labels[p] != labels[q])
    first, second = superpixels.weights * (labels[p] != alpha), superpixels.weights * (labels[q] != alpha)
    np.add.at(take, p, second - kept)
    np.add.at(take, q, -second)
    between = first + second - kept
    least = np.minimum(keep, take)
    to_sink, from_source = keep - least, take - least
    source, sink = count, count + 1
    node = np.arange(count)
    rows = np.concatenate([np.full(count, source), node, p])
    columns = np.concatenate([node, np.full(count, sink), q])
    # the source's side keeps its label, so the source's edges carry what taking alpha costs
    capacity = np.concatenate([from_source, to_sink, between])
    whole = np.minimum(np.round(PER_UNIT * capacity), 2**30).astype(np.int32)
    graph = csr_array(coo_array((whole, (rows, columns)), shape=(count + 2, count + 2)))
    rest = graph - maximum_flow(graph, source, sink).flow
    rest.data = np.maximum(rest.data, 0)
    rest.eliminate_zeros()
    keeps = np.zeros(count + 2, bool)
    keeps[breadth_first_order(rest, source, return_predecessors=False)] = True
    return np.where(keeps[:count], labels, alpha)
