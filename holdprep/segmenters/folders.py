"""What a segmentation tool leaves: a folder with one mask a frame, matched by name."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from holdprep.errors import HoldprepError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def read_mask_folder(folder: Path, names: Sequence[str], size: tuple[int, int], value: int | None = None) -> tuple[np.ndarray, list[str]]:
    """Masks (T, H, W) bool of the frames `names`, and notes on what was assumed. `size` is (height, width).

    A mask belongs to the frame of its name (0001 and 00001 are one number). Where no name fits and there are as many masks as
    frames, the tool has numbered them anew: they are taken in order, and a note says so. Over 0 is foreground, or the label `value`.
    Raises HoldprepError for a missing folder, missing or unreadable masks, or another aspect ratio.
    """
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")) if folder.is_dir() else []
    if not files:
        raise HoldprepError(f"{folder} holds no masks: one picture a frame is needed, named as in images/")
    notes: list[str] = []
    by_frame = _match(folder, files, names, notes)
    masks = np.zeros((len(names), *size), bool)
    for t, name in enumerate(names):
        masks[t] = _read(by_frame[name], size, value, notes)
    if not masks.any():
        raise HoldprepError(f"{folder}: all {len(names)} masks are empty{f' of label {value}' if value is not None else ''}")
    return masks, list(dict.fromkeys(notes))


def _key(stem: str) -> str:
    return str(int(stem)) if stem.isdecimal() else stem


def _match(folder: Path, files: list[Path], names: Sequence[str], notes: list[str]) -> dict[str, Path]:
    by_key = {_key(f.stem): f for f in files}
    missing = [n for n in names if _key(n) not in by_key]
    if not missing:
        return {n: by_key[_key(n)] for n in names}
    numbered = [f for f in files if f.stem.isdecimal()]
    consecutive = len(files) == len(names) == len(numbered) and {int(f.stem) for f in files} in (
        {*range(len(names))},
        {*range(1, len(names) + 1)},
    )
    if (len(missing) == len(names) or consecutive) and len(files) == len(names):
        notes.append(f"{folder}: masks are numbered anew ({files[0].name} ...), taken in order of images/ ({names[0]} ...)")
        return dict(zip(names, sorted(files, key=lambda f: (len(_key(f.stem)), f.stem)), strict=True))
    raise HoldprepError(
        f"{folder}: {len(missing)} of {len(names)} frames have no mask (first: {missing[0]}); masks must be named as in images/"
    )


def _read(path: Path, size: tuple[int, int], value: int | None, notes: list[str]) -> np.ndarray:
    data = np.fromfile(path, dtype=np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    if picture is None:
        raise HoldprepError(f"{path} is not a readable picture ({len(data)} bytes)")
    if picture.ndim == 3:
        picture = picture[..., :3].max(axis=2)
    mask = picture > 0 if value is None else picture == value
    if mask.shape == size:
        return mask
    if abs(mask.shape[0] / mask.shape[1] - size[0] / size[1]) > 0.01 * size[0] / size[1]:
        raise HoldprepError(
            f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels, images/ are {size[1]} x {size[0]}: masks must show the same picture"
        )
    notes.append(f"{path.parent}: masks of {mask.shape[1]} x {mask.shape[0]} pixels were resized to {size[1]} x {size[0]}")
    return cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST) > 0
