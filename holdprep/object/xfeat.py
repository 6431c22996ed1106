"""XFeat's features (xfeat_network.py), matched as mutual nearest neighbours.

On a real cube enlarged twice they gave 2.5 to 2.8 times as many correct matches as SIFT between views 19 to 48 degrees apart.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from holdprep.object import colmap, stored_features, xfeat_network
from holdprep.object.colmap import Crop, around
from holdprep.threads import in_order

_MIN_COSINE = 0.82  # between matching descriptors, as published
_AHEAD = 256  # frames or pairs whose results are held
A = TypeVar("A")
R = TypeVar("R")


@dataclass(frozen=True)
class XFeat:
    """The `max_features` best XFeat features per frame, found and matched on `device` (cpu, cuda)."""

    max_features: int = 2048
    device: str = "cpu"

    def extract(self, folder: Path, crop: Crop, K: np.ndarray, num_threads: int) -> None:
        colmap.write_keypoints(folder, crop, K, self.detect(folder, num_threads))

    def detect(self, folder: Path, num_threads: int) -> dict[str, np.ndarray]:
        """Find and store the features of every crop; frame name -> keypoints (K, 2) in pixels of the enlarged window."""
        network, names = xfeat_network.load(self.device), sorted(path.stem for path in (folder / "images").glob("*.png"))

        def detect(name: str) -> np.ndarray:
            image, mask = colmap.read_crop(folder, name), colmap.read_mask(folder, name)
            rows, columns = around(mask)
            found = network.detect(image[rows, columns], mask[rows, columns], self.max_features)
            px = found.px + np.array([columns.start, rows.start])
            stored_features.write(folder, name, px, found.scores, found.descriptors)
            return px

        return dict(zip(names, _in_threads(detect, names, num_threads), strict=True))

    def thin(self, folder: Path) -> None:
        """Keeps all: with 800 of 2048 the mappings of a real cube agreed less, so that more of them were needed."""

    def descriptors(self, folder: Path) -> Mapping[str, np.ndarray]:
        return stored_features.descriptors(folder)

    def match(
        self,
        folder: Path,
        pairs: Sequence[tuple[str, str]],
        max_error_px: float,
        seed: int,
        num_threads: int,
    ) -> None:
        colmap.write_matches(folder, self.matches(folder, pairs, num_threads), max_error_px, seed, num_threads)

    def matches(self, folder: Path, pairs: Sequence[tuple[str, str]], num_threads: int) -> Iterator[tuple[str, str, np.ndarray]]:
        """Frame, other frame and the indices (M, 2) of their mutual nearest neighbours, for each pair."""
        names = sorted({name for pair in pairs for name in pair})
        found = {name: torch.from_numpy(stored_features.read(folder, name)["descriptors"]).to(self.device) for name in names}

        def match(pair: tuple[str, str]) -> np.ndarray:
            return mutual_neighbours(found[pair[0]], found[pair[1]], _MIN_COSINE).cpu().numpy()

        for (a, b), matched in zip(pairs, _in_threads(match, pairs, num_threads), strict=True):
            yield a, b, matched


def _in_threads(function: Callable[[A], R], items: Sequence[A], num_threads: int) -> Iterator[R]:
    """`function` of every item, in order. torch itself uses one thread: its number would change the rounding."""
    torch.set_num_threads(1)
    yield from in_order(function, items, num_threads, _AHEAD)


@torch.inference_mode()
def mutual_neighbours(a: Tensor, b: Tensor, min_cosine: float) -> Tensor:
    """(M, 2) indices of those of unit vectors a (K, D) and b (L, D) that are each other's nearest, with at least this cosine."""
    if not len(a) or not len(b):
        return torch.zeros((0, 2), dtype=torch.long)
    cosine = a @ b.T
    own, other = (cosine > min_cosine).nonzero(as_tuple=True)
    value = cosine[own, other]
    best_of_own = value.new_zeros(len(a)).scatter_reduce(0, own, value, "amax")
    best_of_other = value.new_zeros(len(b)).scatter_reduce(0, other, value, "amax")
    is_mutual = (value == best_of_own[own]) & (value == best_of_other[other])
    return torch.stack([own[is_mutual], other[is_mutual]], dim=1)
