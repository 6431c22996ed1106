"""tracks.npz beside HOLD's arrays in colmap/: what these do not hold (observations, registered frames, lens).

HOLD's own script replaces the arrays and leaves tracks.npz: it counts only while it belongs to the arrays beside it. `safeio`, which
imports torch, is imported where a file is read.
"""

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

import numpy as np

from holdprep.io.meshfile import read_vertices

FILE = "tracks.npz"
CLOUD = "sparse_points_normalized.obj"
ARRAYS = ("intrinsic", "o2w", "normalization_mat")
DIGEST = "arrays"  # its key


def write(folder: Path, tracks: Mapping[str, np.ndarray]) -> None:
    """Write tracks.npz into `folder`, whose arrays are written already."""
    np.savez_compressed(folder / FILE, **{**tracks, DIGEST: np.array(_digest(folder))})  # type: ignore[arg-type]


def read(folder: Path) -> dict[str, np.ndarray]:
    """The content of tracks.npz; empty where there is none, or where the arrays beside it are of another source."""
    if not (folder / FILE).is_file():
        return {}
    from holdprep.io.safeio import load_npz

    found = load_npz(folder / FILE)
    digest = found.pop(DIGEST, None)
    belongs = _is_of_before(folder, found) if digest is None else str(digest) == _digest(folder)
    return found if belongs else {}


def _digest(folder: Path) -> str:
    """Of the arrays' values, whatever their type on disk."""
    from holdprep.io.safeio import load_npy

    hashed = blake2b(digest_size=16)
    for name in ARRAYS:
        hashed.update(np.ascontiguousarray(load_npy(folder / f"{name}.npy"), np.float64).tobytes())
    return hashed.hexdigest()


def _is_of_before(folder: Path, found: Mapping[str, np.ndarray]) -> bool:
    """Whether tracks of version 0.2 or older, which have no digest, have as many frames as the arrays and the points of the cloud beside them."""
    from holdprep.io.safeio import load_npy

    frames, matrix = len(load_npy(folder / "o2w.npy")), np.asarray(load_npy(folder / "normalization_mat.npy"), np.float64)
    points = np.asarray(found.get("points_obj", np.zeros((0, 3))), np.float64)
    if len(found.get("registered", ())) != frames or not len(points):
        return False
    canonical = points @ matrix[:3, :3].T + matrix[:3, 3]
    cloud = read_vertices(folder / CLOUD)
    return cloud.shape == canonical.shape and bool(np.abs(cloud - canonical).max() < 1e-4)
