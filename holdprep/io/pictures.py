"""Pictures of a folder as frames: 8 bits a channel from any depth, upright by their EXIF data; cropping and resizing."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, ImageOps

from holdprep.errors import HoldprepError
from holdprep.io.bounded import HEIC, check_picture, open_picture, reads_heic
from holdprep.io.video import Frame

FULL_FRAME_MM = (36.0, 24.0)
DEPTHS = (8, 10, 12, 14, 16)  # bits of cameras' pictures; those between 8 and 16 are stored in 16
BY_PILLOW = (".avif", *HEIC)
UNREAD = {
    **dict.fromkeys(HEIC, "HEIC needs pillow-heif (pip install 'holdprep[heic]'; GPL-2.0), or export as JPEG"),
    ".jxl": "JPEG XL: convert (magick in out.png)",
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf"), "raw pictures: develop to JPEG or PNG"),
}
_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH


class Folder:
    """The pictures `files` as frames under their stems. `notes` are complete once the frames have been read."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self.notes: list[str] = []
        self.fps = 0.0
        self.frame_count = len(files)

    def frames(self) -> Iterator[Frame | str]:
        """Every picture in order; the bare file name where one cannot be decoded."""
        scale = self._scale()
        for path in self.files:
            image = _decoded(path)
            if image is None:
                yield path.name
                continue
            if image.dtype != np.uint8:
                image = np.clip(np.nan_to_num(image.astype(np.float32)) * scale + 0.5, 0, 255).astype(np.uint8)
            yield Frame(path.stem, float("nan"), image)

    def _scale(self) -> float:
        """Factor to 0..255 of pictures of more than 8 bits: one for all, by the largest value."""
        largest, depth, count = 0.0, np.dtype(np.uint8), 0
        for path in self.files:
            image = None if path.suffix.lower() in (".jpg", ".jpeg", ".bmp", ".webp", *BY_PILLOW) else _decoded(path)
            if image is not None and image.dtype != np.uint8:
                largest, depth, count = max(largest, float(np.nanmax(image))), image.dtype, count + 1
        if not count:
            return 1.0
        if depth.kind == "f":
            self.notes.append(
                f"{count} pictures of floating point numbers up to {largest:.4g}: {'0..1' if largest <= 1 else 'scaled to it'}"
            )
            return 255 / max(largest, 1.0)
        bits = next(b for b in DEPTHS if largest < 2**b)
        if bits < DEPTHS[-1]:
            self.notes.append(f"{count} pictures have 16 bits of which {bits} are used (up to {largest:.0f}): scaled by {2 ** (16 - bits)}")
        return 255 / (2**bits - 1)


def unread(folder: Path) -> str | None:
    """What to do about pictures in a folder that are not read, in words; None where there are none."""
    suffixes = set(UNREAD) - set(HEIC if reads_heic() else ())
    found = [f for f in folder.iterdir() if f.suffix.lower() in suffixes and not f.name.startswith(".")]
    if not found:
        return None
    return f"{len(found)} pictures of {folder} are not read (first: {min(found).name}): {UNREAD[min(found).suffix.lower()]}, or remove them"


def _decoded(path: Path) -> np.ndarray | None:
    if check_picture(path) is None:
        return None
    if path.suffix.lower() in BY_PILLOW:
        return _by_pillow(path)
    try:
        return cv2.imdecode(np.fromfile(path, dtype=np.uint8), _FLAGS)
    except cv2.error:  # a header that OpenCV refuses
        return None


def _by_pillow(path: Path) -> np.ndarray | None:
    """(H, W, 3) BGR, upright by its EXIF data; pictures of 10 and 12 bits come in 8."""
    try:
        with open_picture(path) as picture:
            return np.ascontiguousarray(np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))[..., ::-1])
    except (OSError, SyntaxError, ValueError, RuntimeError, EOFError):  # whatever the codecs raise at damaged data
        return None


def focal_px(file: Path, crop: tuple[int, int, int, int] | None, size: tuple[int, int]) -> float | None:
    """What a picture's EXIF data say of its focal length, in pixels of what `fit` makes of it, which is of `size` (width, height).

    By the 35 mm equivalent, which compares the pictures' diagonals; None where there is none.
    """
    if check_picture(file) is None:
        return None
    try:
        with open_picture(file) as picture:
            equivalent_mm = picture.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.FocalLengthIn35mmFilm)
            full = picture.size
    except (OSError, SyntaxError, ValueError):  # a damaged picture is refused where its pixels are read
        return None
    if not equivalent_mm:
        return None
    scale = max(size) / max(crop[2:] if crop else full)
    return float(equivalent_mm / np.hypot(*FULL_FRAME_MM) * np.hypot(*full) * scale)


def fit(image: np.ndarray, crop: tuple[int, int, int, int] | None, max_side: int) -> np.ndarray:
    """The picture cropped to (x, y, width, height) and reduced so that its longest side is at most `max_side`.

    Raises HoldprepError where the crop leaves the picture.
    """
    if crop is not None:
        x, y, width, height = crop
        if x < 0 or y < 0 or width < 1 or height < 1 or x + width > image.shape[1] or y + height > image.shape[0]:
            raise HoldprepError(f"create.crop={list(crop)} leaves the picture, which is {image.shape[1]} x {image.shape[0]} pixels")
        image = image[y : y + height, x : x + width]
    scale = max_side / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
