"""Feature backends: each one extracts and matches features and writes them to COLMAP's database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from holdprep.object import sift
from holdprep.object.colmap import Crop


class FeatureSource(Protocol):
    """A feature backend: a small picklable object whose methods run in child processes, on a folder of crops and masks."""

    def extract(self, folder: Path, crop: Crop, K: np.ndarray, num_threads: int) -> None:
        """Detect features on the masks and write frames, the initial camera `K` (3, 3) and keypoints to the database."""

    def thin(self, folder: Path) -> None:
        """Drop features that few frames share, where a frame has more than are useful. Called once, after the nearest frames were matched."""

    def descriptors(self, folder: Path) -> Mapping[str, np.ndarray]:
        """Frame name -> descriptors (M, D), for image retrieval."""

    def match(
        self,
        folder: Path,
        pairs: Sequence[tuple[str, str]],
        max_error_px: float,
        seed: int,
        num_threads: int,
    ) -> None:
        """Match pairs of frames and verify the epipolar geometry; `max_error_px` is that of the enlarged crop."""


@dataclass(frozen=True)
class Sift:
    """COLMAP's SIFT: at most `max_features` per frame with a contrast of at least `peak_threshold`, then at most `max_matched` of them."""

    max_features: int = 3000
    peak_threshold: float = 0.0045
    # With all of the 1900 features of a can in 720p, matching, mapping and memory are 2 to 3 times as much; rotations differ by .01 deg.
    max_matched: int = 800

    def extract(self, folder: Path, crop: Crop, K: np.ndarray, num_threads: int) -> None:
        sift.extract_sift(folder, crop, K, self.max_features, self.peak_threshold, num_threads)

    def thin(self, folder: Path) -> None:
        sift.keep_best(folder, self.max_matched)

    def descriptors(self, folder: Path) -> Mapping[str, np.ndarray]:
        return sift.sift_descriptors(folder)

    def match(
        self,
        folder: Path,
        pairs: Sequence[tuple[str, str]],
        max_error_px: float,
        seed: int,
        num_threads: int,
    ) -> None:
        sift.match_sift(folder, pairs, max_error_px, seed, num_threads)
