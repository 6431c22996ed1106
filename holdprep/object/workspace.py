"""What one structure-from-motion run works on: its folder, crop, initial camera and frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from holdprep.object.colmap import Crop


@dataclass(frozen=True)
class Workspace:
    """Folder, crop, initial camera and frame names of one SfM run, small enough to be sent to child processes.

    Features are not part of it: they are large, and only sent to the functions that use them.
    """

    folder: Path  # crops, masks, database.db and sparse models
    crop: Crop
    K: np.ndarray  # (3, 3) initial camera matrix of the full image; its principal point is never refined
    image_size: tuple[int, int]  # full image, (width, height)
    names: Sequence[str]  # all T frames in temporal order
    keys: Sequence[str]  # the keyframes: those that are mapped incrementally, in temporal order
    refine_focal: bool
    num_threads: int = 1  # changes no result

    @property
    def principal_px(self) -> tuple[float, float]:
        return float(self.K[0, 2]), float(self.K[1, 2])
