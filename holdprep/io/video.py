"""Frames of a video or an image folder, with their times; cropping and resizing."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from holdprep.errors import HoldprepError
from holdprep.io.bounded import check_picture

FULL_FRAME_MM = (36.0, 24.0)


@dataclass(frozen=True)
class Frame:
    """A decoded frame: its number in the video (or its file's stem), its time in seconds (NaN for image folders), BGR pixels."""

    name: str
    time_s: float
    image: np.ndarray


@dataclass(frozen=True)
class VideoInfo:
    """What the container says: frames per second and number of frames (both may be 0 where it does not)."""

    fps: float
    frame_count: int


def probe_video(path: Path) -> VideoInfo:
    """Raises HoldprepError where the file is missing or holds no video that can be decoded."""
    if not path.is_file():
        raise HoldprepError(f"video {path} does not exist: check video=")
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise HoldprepError(f"video {path} cannot be decoded: is it a video file? re-encode it (ffmpeg -i in -c:v libx264 out.mp4)")
        return VideoInfo(capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    finally:
        capture.release()


def read_video(path: Path) -> Iterator[Frame | str]:
    """Every frame in order, upright (rotation metadata honoured); the bare frame name where one cannot be decoded."""
    capture = cv2.VideoCapture(str(path))
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    index = 0
    try:
        while capture.grab():
            time_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            ok, image = capture.retrieve()
            name = f"{index:04d}"
            yield Frame(name, time_s, image) if ok else name
            index += 1
    finally:
        capture.release()


def read_folder(files: list[Path]) -> Iterator[Frame | str]:
    """Every picture of a list, under its stem; the bare file name where one cannot be decoded."""
    for path in files:
        is_picture = check_picture(path) is not None
        data = np.fromfile(path, dtype=np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) and is_picture else None
        yield path.name if image is None else Frame(path.stem, float("nan"), image)


def focal_px(file: Path, crop: tuple[int, int, int, int] | None, size: tuple[int, int]) -> float | None:
    """What a picture's EXIF data say of its focal length, in pixels of what `fit` makes of it, which is of `size` (width, height).

    By the 35 mm equivalent, which compares the pictures' diagonals; None where there is none.
    """
    if check_picture(file) is None:
        return None
    try:
        with Image.open(file) as picture:
            equivalent_mm = picture.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.FocalLengthIn35mmFilm)
            full = picture.size
    except UnidentifiedImageError:
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
