"""Pictures on disk: folders of them as sequences that are read when requested, and their codecs."""

import re
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from holdprep.errors import HoldprepError
from holdprep.io.bounded import picture_size
from holdprep.sequence.layout import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from holdprep.geometry.lens import Lens


class Images(Seq[np.ndarray]):
    """Pictures on disk as a sequence: read when requested, the last one kept; seen past `lens` where there is one."""

    def __init__(self, files: list[Path], flags: int = cv2.IMREAD_COLOR, lens: "Lens | None" = None) -> None:
        self.files = files
        self._flags = flags
        self._lens = lens
        self._last: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self.files))[index]
        last = self._last  # threads may read at once
        if last is None or last[0] != index:
            self._last = last = (index, self._read(self.files[index]))
        return last[1]

    def _read(self, path: Path) -> np.ndarray:
        return self._straight(read_image(path, self._flags), cv2.INTER_LINEAR if self._flags == cv2.IMREAD_COLOR else cv2.INTER_NEAREST)

    def _straight(self, picture: np.ndarray, interpolation: int) -> np.ndarray:
        return picture if self._lens is None else self._lens.undistorted(picture, interpolation)


class Masks(Images):
    """Binary masks on disk as a sequence of bool arrays."""

    def _read(self, path: Path) -> np.ndarray:
        return self._straight(read_image(path, cv2.IMREAD_GRAYSCALE), cv2.INTER_NEAREST) > 0


class Union(Seq[np.ndarray]):
    """The union of sequences of masks (H, W) bool of the same frames, read when requested; without any, masks like `empty` (H, W)."""

    def __init__(self, parts: list[Masks], frames: int, empty: np.ndarray) -> None:
        self._parts, self._frames, self._empty = parts, frames, empty

    def __len__(self) -> int:
        return self._frames

    def __getitem__(self, index: Any) -> Any:
        at = range(self._frames)[index]
        return np.any([part[at] for part in self._parts], axis=0) if self._parts else self._empty


def image_files(folder: Path, suffixes: Seq[str] = IMAGE_SUFFIXES) -> list[Path]:
    """The pictures of a folder, numbers in their names in numeric order; hidden files are passed over."""

    def key(path: Path) -> list[tuple[int, int | str]]:
        return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", path.stem) if part]

    found = [f for f in folder.iterdir() if f.suffix.lower() in suffixes and not f.name.startswith(".")]
    return sorted(found, key=key)


def read_image(path: Path, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    """A picture as BGR (or as `flags` say); raises HoldprepError naming the file if it cannot be decoded."""
    picture_size(path)
    data = np.fromfile(path, dtype=np.uint8)
    try:
        picture = cv2.imdecode(data, flags)
    except cv2.error:  # a header that OpenCV refuses
        picture = None
    if picture is None:
        raise HoldprepError(f"{path} is not a readable picture ({len(data)} bytes): replace or remove it")
    return picture


def write_image(path: Path, picture: np.ndarray) -> None:
    """A picture, encoded by its suffix; JPEG at quality 97."""
    path.write_bytes(encode(path, picture))


def encode(path: Path, picture: np.ndarray) -> bytes:
    ok, data = cv2.imencode(path.suffix, picture, [cv2.IMWRITE_JPEG_QUALITY, 97] if path.suffix == ".jpg" else [])
    if not ok:
        raise HoldprepError(f"cannot encode {path}: shape {picture.shape}, dtype {picture.dtype}")
    return data.tobytes()
