"""Where features and their matches come from: one class a backend, each of which fills COLMAP's database; all that follows is the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from holdprep.object import colmap
from holdprep.object.colmap import Crop


class FeatureSource(Protocol):
    """A feature backend: a small picklable object whose methods run in child processes, one after another, on a folder of crops and masks."""

    def extract(self, folder: Path, crop: Crop, K: np.ndarray, num_threads: int) -> None:
        """Find the features of every crop and write the database: frames, their camera as it begins (`K`, of the full image), keypoints on the masks."""

    def descriptors(self, folder: Path) -> Mapping[str, np.ndarray]:
        """Frame name -> descriptors (M, D) float32, by which look-alikes are found."""

    def match(self, folder: Path, pairs: Sequence[tuple[str, str]], max_error_px: float, seed: int, num_threads: int) -> None:
        """Match pairs of frame names and verify them by epipolar geometry, within `max_error_px` of the enlarged crop."""


@dataclass(frozen=True)
class Sift:
    """COLMAP's SIFT: `max_features` a frame of at least `peak_threshold` contrast."""

    max_features: int = 3000
    peak_threshold: float = 0.0045

    def extract(self, folder: Path, crop: Crop, K: np.ndarray, num_threads: int) -> None:
        colmap.extract_sift(folder, crop, K, self.max_features, self.peak_threshold, num_threads)

    def descriptors(self, folder: Path) -> Mapping[str, np.ndarray]:
        return colmap.sift_descriptors(folder)

    def match(self, folder: Path, pairs: Sequence[tuple[str, str]], max_error_px: float, seed: int, num_threads: int) -> None:
        colmap.match_sift(folder, pairs, max_error_px, seed, num_threads)
