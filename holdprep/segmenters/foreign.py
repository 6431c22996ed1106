"""Masks of another tool: a folder of images, COCO's json, or a video; matched by frame name."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from holdprep.errors import HoldprepError
from holdprep.io import video
from holdprep.io.bounded import check_picture
from holdprep.segmenters.coco import read_coco

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
LOSSY = (".jpg", ".jpeg")
VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm")
NAMED = 5  # missing frames listed in a message


def read_masks(path: Path, names: Sequence[str], size: tuple[int, int], value: int | None = None) -> tuple[np.ndarray, list[str]]:
    """Masks (T, H, W) bool of the frames `names`, and notes on assumptions. `size` is (height, width) of images/.

    A mask belongs to the frame of its name (0001 and 00001 are the same number). Where no name matches and there are as many masks as
    frames, they are used in order, with a note; a video has no names and needs as many frames. Foreground are values above 0 (above 127 in
    lossy images that are not 0/1), or the label `value`: palette index, grey level, COCO category. Raises HoldprepError for masks that are
    missing, unreadable, of another size, or of several labels without a value.
    """
    notes: list[str] = []
    if path.suffix.lower() == ".json":
        found = read_coco(path, value)
        keys = _match(path, list(found), names, notes)
        masks = [_fitting(found[key], size, f"{path}: mask {key}") for key in keys]
    elif path.suffix.lower() in VIDEOS:
        masks = _read_video(path, names, size, value)
        notes.append(f"{path}: a video has no names, its frames are used in order of images/ ({names[0]} ...)")
    else:
        files = _pictures(path)
        keys = _match(path, list(files), names, notes)
        masks = [_fitting(_read_picture(files[key], value), size, str(files[key])) for key in keys]
    stack = np.stack(masks)
    if not stack.any():
        raise HoldprepError(f"{path}: all {len(names)} masks are empty{f' of label {value}' if value is not None else ''}")
    return stack, notes


def _pictures(folder: Path) -> dict[str, Path]:
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in PICTURES and not f.name.startswith(".")) if folder.is_dir() else []
    if not files:
        raise HoldprepError(f"{folder} holds no masks: one image per frame is needed, named as in images/; or a .json (COCO) or a video")
    by_stem: dict[str, Path] = {}
    for file in files:
        if file.stem in by_stem:
            raise HoldprepError(f"{folder} holds two masks of frame {file.stem}: {by_stem[file.stem].name} and {file.name}; remove one")
        by_stem[file.stem] = file
    return by_stem


def _key(stem: str) -> str:
    return str(int(stem)) if stem.isdecimal() else stem


def _match(path: Path, stems: list[str], names: Sequence[str], notes: list[str]) -> list[str]:
    """The mask's name for each of the frames `names`."""
    by_key: Mapping[str, str] = {_key(stem): stem for stem in stems}
    missing = [n for n in names if _key(n) not in by_key]
    if not missing:
        return [by_key[_key(n)] for n in names]
    numbers = {int(stem) for stem in stems if stem.isdecimal()}
    consecutive = numbers in ({*range(len(names))}, {*range(1, len(names) + 1)})
    if len(stems) == len(names) and (len(missing) == len(names) or consecutive):
        ordered = sorted(stems, key=lambda s: (len(_key(s)), s))
        notes.append(f"{path}: masks have other numbers ({ordered[0]} ...) and are used in order of images/ ({names[0]} ...)")
        return ordered
    listed = ", ".join(missing[:NAMED]) + (" ..." if len(missing) > NAMED else "")
    raise HoldprepError(f"{path}: {len(missing)} of {len(names)} frames have no mask ({listed}); masks must be named as in images/")


def _read_picture(path: Path, value: int | None) -> np.ndarray:
    """An image's mask (H, W) bool. Palette images are read by index, which OpenCV does not support."""
    check_picture(path)
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture if picture.mode in ("P", "L", "1", "I;16", "I") else picture.convert("RGB"))
            is_indexed = picture.mode == "P"
    except (OSError, SyntaxError, ValueError):
        raise HoldprepError(f"{path} is not a readable image ({path.stat().st_size} bytes)") from None
    pixels = pixels.max(axis=2) if pixels.ndim == 3 else pixels
    if value is not None:
        return pixels == value
    labels = np.unique(pixels[pixels > 0])
    if is_indexed and len(labels) > 1:
        listed = ", ".join(map(str, labels[:NAMED]))
        raise HoldprepError(f"{path} holds labels {listed}: set the label of each entity (segmenter.values.object=, .right=, .left=)")
    lossy = path.suffix.lower() in LOSSY and len(labels) > 0 and labels[-1] > 1
    return pixels > (127 if lossy else 0)


def _read_video(path: Path, names: Sequence[str], size: tuple[int, int], value: int | None) -> list[np.ndarray]:
    if value is not None:
        raise HoldprepError(f"{path}: a video is lossy and has no labels: do not set segmenter.values; one video per entity")
    video.probe_video(path)
    masks = []
    for frame in video.read_video(path):
        if isinstance(frame, str):
            raise HoldprepError(f"{path}: frame {frame} cannot be decoded: export the video again")
        masks.append(_fitting(cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY) > 127, size, f"{path}: frame {frame.name}"))
    if len(masks) != len(names):
        raise HoldprepError(f"{path} has {len(masks)} frames, images/ has {len(names)}: a video of masks needs one frame for each")
    return masks


def _fitting(mask: np.ndarray, size: tuple[int, int], what: str) -> np.ndarray:
    if mask.shape != size:
        raise HoldprepError(
            f"{what} is {mask.shape[1]} x {mask.shape[0]} pixels, images/ are {size[1]} x {size[0]}: export masks at the size of images/"
        )
    return mask
