"""Sizes that a binary COLMAP model declares, checked against its files before COLMAP's reader allocates them."""

import struct
from pathlib import Path

from holdprep.errors import HoldprepError
from holdprep.io.bounded import read_bytes

MAX_BYTES = 1 << 30
CAMERA, IMAGE, OBSERVATION, POINT, ELEMENT = 24, 64, 24, 43, 8  # bytes of a record without what its own counts add


def check(folder: Path) -> None:
    """Raise HoldprepError where a file of the model ends before what it declares. Text models declare nothing."""
    for name in ("cameras.bin", "images.bin", "points3D.bin"):
        path = folder / name
        if path.exists():
            content = read_bytes(path, MAX_BYTES)
            try:
                missing = _images(content) if name == "images.bin" else _records(content, name == "points3D.bin")
            except struct.error:
                missing = True
            if missing:
                raise HoldprepError(f"{path} declares more than its {len(content)} bytes hold: is it truncated, or not COLMAP's?")


def _records(content: bytes, is_points: bool) -> bool:
    (count,) = struct.unpack_from("<Q", content)
    if count * (POINT + 8 if is_points else CAMERA) > len(content) - 8:
        return True
    at = 8
    for _ in range(count if is_points else 0):
        (track,) = struct.unpack_from("<Q", content, at + POINT)
        at += POINT + 8 + track * ELEMENT
        if at > len(content):
            return True
    return False


def _images(content: bytes) -> bool:
    (count,) = struct.unpack_from("<Q", content)
    if count * (IMAGE + 9) > len(content) - 8:
        return True
    at = 8
    for _ in range(count):
        end = content.find(b"\0", at + IMAGE)
        if end < 0:
            return True
        (points,) = struct.unpack_from("<Q", content, end + 1)
        at = end + 9 + points * OBSERVATION
        if at > len(content):
            return True
    return False
