"""Depth maps of another tool, one file a frame: 16-bit PNG or .npy, of any unit and gain."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from holdprep.errors import HoldprepError
from holdprep.io.matching import match
from holdprep.sequence.images import image_files, read_image

if TYPE_CHECKING:
    from holdprep.geometry.lens import Lens

SUFFIXES = (".png", ".npy")


def read_depth_maps(
    folder: Path, names: Sequence[str], frames: Sequence[int], size: tuple[int, int], lens: "Lens | None" = None
) -> tuple[np.ndarray, list[str]]:
    """Depth (F, H, W) float16 of some frames, each divided by its median, 0 where unknown; and notes about their order.

    `names` are those of all frames, `size` (width, height) that of images/; with `lens`, maps are undistorted as the pictures are. Files
    belong to frames by the rule of `holdprep.io.matching`. Raises HoldprepError in one line naming the file for a missing map, another
    size, 8 bits, or a map without any depth.
    """
    if not folder.is_dir():
        raise HoldprepError(
            f"align.depth_maps: {folder} is not a folder: give the folder of depth maps, <frame>.png (16 bit) or <frame>.npy"
        )
    files = image_files(folder, SUFFIXES)
    matched = match(str(folder), [file.stem for file in files], names)
    lacking = [name for name, i in zip(names, matched.of_frame, strict=True) if i is None]
    if lacking:
        raise HoldprepError(f"{folder} lacks depth maps of {len(lacking)} of {len(names)} frames (first: {lacking[0]})")
    maps = np.zeros((len(frames), size[1], size[0]), np.float16)
    for k, t in enumerate(frames):
        i = matched.of_frame[t]
        if i is not None:
            depth = _read(files[i], size)
            maps[k] = depth if lens is None else lens.undistorted(depth, cv2.INTER_NEAREST)
    return maps, matched.notes


def _read(path: Path, size: tuple[int, int]) -> np.ndarray:
    """(H, W) float32 relative depth, 0 where unknown."""
    from holdprep.io import safeio

    depth = np.asarray(safeio.load_npy(path) if path.suffix.lower() == ".npy" else read_image(path, cv2.IMREAD_UNCHANGED))
    depth = depth[..., 0] if depth.ndim == 3 and depth.shape[-1] == 1 else depth
    depth = depth[0] if depth.ndim == 3 and depth.shape[0] == 1 else depth
    if depth.dtype == np.uint8 or depth.dtype.kind not in "fiu":
        raise HoldprepError(f"{path} holds {depth.dtype}: depth needs 16-bit PNG, or .npy of numbers")
    if depth.shape != size[::-1]:
        have = " x ".join(str(side) for side in depth.shape[::-1])
        raise HoldprepError(f"{path} has {have} values, images/ has {size[0]} x {size[1]} pixels: resize the maps, without interpolation")
    known = np.isfinite(depth) & (depth > 0)
    if not known.any():
        raise HoldprepError(f"{path} has no positive value: is it a depth map?")
    relative = np.where(known, depth, 0).astype(np.float64)
    return np.asarray(np.minimum(relative / np.median(relative[known]), np.finfo(np.float16).max), np.float32)
