"""Selection of frame pairs to match: temporal neighbours, and image retrieval."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TypeVar

import cv2
import numpy as np
from scipy.spatial.distance import cdist

_NUM_WORDS = 32
_SAMPLE = 20000  # descriptors, from which the words are found
Frame = TypeVar("Frame")


def temporal_neighbours(frames: Sequence[Frame], max_distance: int) -> list[tuple[Frame, Frame]]:
    """Pairs of frames (names or indices) at most `max_distance` apart in `frames`, which are in temporal order."""
    return [(a, b) for i, a in enumerate(frames) for b in frames[i + 1 : i + 1 + max_distance]]


def select_pairs(names: Sequence[str], descriptors: Mapping[str, np.ndarray], num_pairs: int, seed: int) -> list[tuple[str, str]]:
    """Pairs out of the frames `names`, which are in temporal order; all of them where `num_pairs` partners are all others.

    Each frame gets about `num_pairs` partners: half of them temporal neighbours, half the most similar frames by VLAD
    (Jegou et al. 2010) over local descriptors (M, D).
    """
    total = len(names)
    if num_pairs >= total - 1:
        return list(combinations(names, 2))
    window = max(1, num_pairs // 4)  # each pair of temporal neighbours counts for both frames
    selected = set(temporal_neighbours(range(total), window))
    similarity = 1.0 - cdist(*2 * [_vlad([descriptors[name] for name in names], seed)], "sqeuclidean") / 2
    for i in range(total):
        similarity[i, max(i - window, 0) : i + window + 1] = -np.inf
        best = np.argsort(-similarity[i], kind="stable")[: num_pairs - 2 * window]
        selected |= {(min(i, int(j)), max(i, int(j))) for j in best if np.isfinite(similarity[i, j])}
    return [(names[i], names[j]) for i, j in sorted(selected)]


def _vlad(per_frame: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """(T, D) global image descriptors of unit length: residuals to k-means words, power-normalised."""
    last = np.cumsum([len(found) for found in per_frame])
    chosen = np.random.default_rng(seed).permutation(last[-1])[:_SAMPLE]
    frame = np.searchsorted(last, chosen, side="right")  # in which a descriptor is counted from the end
    sample = np.stack([per_frame[t][i - last[t]] for t, i in zip(frame, chosen, strict=True)]).astype(np.float32)
    cv2.setRNGSeed(seed)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 1.0)
    labels = np.zeros((len(sample), 1), np.int32)
    words = np.asarray(cv2.kmeans(sample, min(_NUM_WORDS, len(sample)), labels, criteria, 1, cv2.KMEANS_PP_CENTERS)[2])
    frames = np.zeros((len(per_frame), *words.shape))
    for t, found in enumerate(per_frame):
        nearest = cdist(found, words).argmin(axis=1)
        np.add.at(frames[t], nearest, found - words[nearest])
    flat = frames.reshape(len(frames), -1)
    flat = np.sign(flat) * np.sqrt(np.abs(flat))
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
