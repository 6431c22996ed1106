"""Which frames to match: all of them while that is cheap, else neighbours in time and look-alikes."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TypeVar

import cv2
import numpy as np
from scipy.spatial.distance import cdist

_NUM_WORDS = 32
Frame = TypeVar("Frame")


def neighbours(frames: Sequence[Frame], reach: int) -> list[tuple[Frame, Frame]]:
    """Pairs of frames (names or numbers) at most `reach` apart in `frames`, which is in order of time."""
    return [(a, b) for i, a in enumerate(frames) for b in frames[i + 1 : i + 1 + reach]]


def choose_pairs(
    names: Sequence[str], descriptors: Mapping[str, np.ndarray], num_pairs: int, exhaustive_frames: int, seed: int
) -> list[tuple[str, str]]:
    """Pairs of frame names, `names` being in order of time.

    Up to `exhaustive_frames` frames: every pair. Beyond: for each frame half of `num_pairs` neighbours in time and as many of the
    frames most alike by VLAD (Jegou et al. 2010) over the SIFT descriptors (M, 128). Any number of pairs for any number of frames.
    """
    total = len(names)
    if total <= exhaustive_frames or num_pairs >= total - 1:
        return list(combinations(names, 2))
    window = max(1, num_pairs // 4)  # each neighbour in time serves both frames
    chosen = set(neighbours(range(total), window))
    likeness = 1.0 - cdist(*2 * [_vlad([descriptors[name] for name in names], seed)], "sqeuclidean") / 2
    for i in range(total):
        likeness[i, max(i - window, 0) : i + window + 1] = -np.inf
        best = np.argsort(-likeness[i], kind="stable")[: num_pairs - 2 * window]
        chosen |= {(min(i, int(j)), max(i, int(j))) for j in best if np.isfinite(likeness[i, j])}
    return [(names[i], names[j]) for i, j in sorted(chosen)]


def _vlad(per_frame: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """(T, D) unit descriptors of whole frames: residuals to k-means words, power-normalised."""
    everything = np.concatenate(per_frame).astype(np.float32)
    sample = everything[np.random.default_rng(seed).permutation(len(everything))[:20000]]
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
