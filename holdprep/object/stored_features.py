"""Features that this project finds itself, one file a frame in `features/` of the work folder, until they are matched."""

from pathlib import Path

import numpy as np

FOLDER = "features"


def write(folder: Path, name: str, keypoints_px: np.ndarray, scores: np.ndarray, descriptors: np.ndarray) -> None:
    """Store a frame's keypoints (K, 2) in pixels of the enlarged window, scores (K,) and descriptors (K, D)."""
    (folder / FOLDER).mkdir(exist_ok=True)
    np.savez(_file(folder, name), keypoints_px=keypoints_px, scores=scores, descriptors=descriptors)


def read(folder: Path, name: str) -> dict[str, np.ndarray]:
    """A frame's `keypoints_px`, `scores` and `descriptors`."""
    with np.load(_file(folder, name), allow_pickle=False) as found:
        return dict(found)


def frames(folder: Path) -> list[str]:
    """Names of the frames with stored features."""
    return sorted(path.stem for path in (folder / FOLDER).glob("*.npz"))


def descriptors(folder: Path) -> dict[str, np.ndarray]:
    """Frame name -> descriptors (K, D)."""
    return {name: read(folder, name)["descriptors"] for name in frames(folder)}


def _file(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"{name}.npz"
