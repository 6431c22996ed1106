"""SIFT and XFeat features of the same frames in one database: a frame's SIFT keypoints, then its XFeat keypoints.

Each kind is matched with its own kind; the epipolar geometry of a pair is verified over the matches of both.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from holdprep.object import colmap
from holdprep.object.colmap import Crop
from holdprep.object.features import Sift
from holdprep.object.sift import match_descriptors, sift_descriptors
from holdprep.object.xfeat import XFeat


@dataclass(frozen=True)
class SiftXFeat:
    """Both kinds of features. SIFT's are found in a database of their own, in `sift/` of the work folder."""

    sift: Sift = field(default_factory=Sift)
    xfeat: XFeat = field(default_factory=XFeat)

    def extract(self, folder: Path, crop: Crop, K: np.ndarray, num_threads: int) -> None:
        own = _sift_folder(folder)
        own.mkdir()
        for sub in ("images", "masks"):
            (own / sub).symlink_to(folder / sub, target_is_directory=True)
        self.sift.extract(own, crop, K, num_threads)
        sift_px = colmap.read_features(own, crop).keypoints_px
        found = self.xfeat.detect(folder, num_threads)
        both = {name: np.concatenate([crop.to_window(sift_px[name]), px]) for name, px in found.items()}
        colmap.write_keypoints(folder, crop, K, both)

    def thin(self, folder: Path) -> None:
        """Keeps all: their number is small."""

    def descriptors(self, folder: Path) -> Mapping[str, np.ndarray]:
        return self.xfeat.descriptors(folder)

    def match(
        self,
        folder: Path,
        pairs: Sequence[tuple[str, str]],
        max_error_px: float,
        seed: int,
        num_threads: int,
    ) -> None:
        colmap.write_matches(folder, self._joined(folder, pairs, num_threads), max_error_px, seed, num_threads)

    def _joined(self, folder: Path, pairs: Sequence[tuple[str, str]], num_threads: int) -> Iterator[tuple[str, str, np.ndarray]]:
        """Frame, other frame and the keypoint indices (M, 2) of both kinds' matches, for each pair."""
        sift = sift_descriptors(_sift_folder(folder))
        both = zip(match_descriptors(sift, pairs, num_threads), self.xfeat.matches(folder, pairs, num_threads), strict=True)
        for (a, b, of_sift), (_, _, of_xfeat) in both:
            yield a, b, np.concatenate([of_sift.astype(int), of_xfeat + np.array([len(sift[a]), len(sift[b])])])


def _sift_folder(folder: Path) -> Path:
    return folder / "sift"
