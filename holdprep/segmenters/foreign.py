"""Masks of another tool: a folder of pictures, arrays or labelme's json, COCO's json, a stack of arrays, or a video."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from holdprep.errors import HoldprepError
from holdprep.io.bounded import MAX_MASK_PIXELS, check_picture, open_picture
from holdprep.io.matching import match, numbers
from holdprep.io.video import Video
from holdprep.segmenters import levels
from holdprep.segmenters.coco import NAMED, Label, read_coco
from holdprep.segmenters.labelme import json_files, read_labelme
from holdprep.segmenters.levels import Picture
from holdprep.segmenters.stacks import read_array, read_stack

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
LOSSY = (".jpg", ".jpeg", ".webp")
VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv", ".gif")
ARRAYS = (".npy", ".npz")
FORMATS = "one picture, .npy or labelme .json per frame, named as in images/; or a .json (COCO), a stack (.npy, .npz) or a video"


@dataclass(frozen=True)
class Entries:
    """What a source holds: names of its frames (None: all frames of images/ in order), and pictures by their place."""

    names: list[str] | None
    count: int
    read: Callable[[int], Picture]
    is_labelled: bool = False  # pictures hold only what the label selects
    notes: list[str] = field(default_factory=list)


def read_masks(path: Path, names: Sequence[str], size: tuple[int, int], value: Label = None) -> tuple[np.ndarray, list[str]]:
    """Masks (T, H, W) bool of the frames `names`, and notes on assumptions. `size` is (height, width) of images/.

    A mask belongs to the frame of its name or number (`io.matching`). What the mask is, `levels.masks` decides; `value` is a label: palette
    index, grey level, number of DAVIS's colour, COCO category or labelme label. Raises HoldprepError for masks that are missing,
    unreadable, of another size, or of several labels without a value.
    """
    entries = _entries(path, names, value)
    places, notes = _places(path, entries, names)

    def fitting(t: int) -> Picture:
        picture = entries.read(places[t])
        if picture.pixels.shape[:2] != size:
            height, width = picture.pixels.shape[:2]
            what = f"{path}: mask of frame {names[t]}"
            raise HoldprepError(
                f"{what} is {width} x {height} pixels, images/ are {size[1]} x {size[0]}: export masks at the size of images/"
            )
        return picture

    label = None if entries.is_labelled else value
    if isinstance(label, str):
        raise HoldprepError(f"{path} has labels without names: segmenter.values is a number, not {label!r}")
    masks, remarks = levels.masks(str(path), len(names), fitting, label)
    stack = np.stack(masks)
    if not stack.any():
        raise HoldprepError(f"{path}: all {len(names)} masks are empty{f' of label {value}' if value is not None else ''}")
    return stack, [*entries.notes, *notes, *remarks]


def _entries(path: Path, names: Sequence[str], value: Label) -> Entries:
    suffix = path.suffix.lower()
    if not path.exists():
        raise HoldprepError(f"{path} does not exist: segmenter.object=, .right= and .left= are the paths of the masks")
    if path.is_dir():
        return _folder(path, value)
    if suffix == ".json":
        found = read_coco(path, value)
        return Entries(list(found), len(found), lambda i: Picture(list(found.values())[i]), is_labelled=True)
    if suffix in ARRAYS:
        stack = read_stack(path, value)
        return Entries(stack.names, len(stack.arrays), lambda i: Picture(stack.arrays[i]), is_labelled=stack.is_labelled)
    if suffix in VIDEOS:
        return _video(path, value)
    raise HoldprepError(f"{path} holds no masks: {FORMATS}, is needed")


def _folder(folder: Path, value: Label) -> Entries:
    """labelme's json where there is any (its folder holds the photos too), else arrays, else pictures."""
    annotated = json_files(folder)
    if annotated:
        masks = read_labelme(list(annotated.values()), value)
        return Entries(list(annotated), len(masks), lambda i: Picture(masks[i]), is_labelled=True)
    arrays = sorted(f for f in folder.glob("*.npy") if not f.name.startswith("."))
    if arrays:
        return Entries([f.stem for f in arrays], len(arrays), lambda i: Picture(read_array(arrays[i])))
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in PICTURES and not f.name.startswith("."))
    if not files:
        raise HoldprepError(f"{folder} holds no masks: {FORMATS}, is needed")
    return Entries([f.stem for f in files], len(files), lambda i: _read_picture(files[i]))


def _places(path: Path, entries: Entries, names: Sequence[str]) -> tuple[list[int], list[str]]:
    """The entry of each frame."""
    if entries.names is None:
        return _unnamed(path, entries.count, names)
    found = match(str(path), entries.names, names)
    missing = [name for name, i in zip(names, found.of_frame, strict=True) if i is None]
    if missing:
        listed = ", ".join(missing[:NAMED]) + (" ..." if len(missing) > NAMED else "")
        raise HoldprepError(f"{path}: {len(missing)} of {len(names)} frames have no mask ({listed}); masks must be named as in images/")
    return [i for i in found.of_frame if i is not None], found.notes


def _unnamed(path: Path, count: int, names: Sequence[str]) -> tuple[list[int], list[str]]:
    """Frames of a video or stack: in order where there are as many, else by number where it has all frames of the video."""
    own = [n for n in numbers(names) if n is not None]
    if count == len(names):
        return list(range(count)), [f"{path}: its frames have no names and are used in order of images/ ({names[0]} ...)"]
    if len(own) == len(names) and max(own) < count:
        return own, [
            f"{path}: its {count} frames are taken as those of the whole video, from 0 on, by the numbers of images/ ({names[0]} ...)"
        ]
    raise HoldprepError(f"{path} has {count} frames, images/ has {len(names)}: one for each is needed, or those of the whole video")


def _read_picture(path: Path) -> Picture:
    """An image's pixels, its alpha channel, and its palette's indices."""
    check_picture(path, MAX_MASK_PIXELS)  # palettes and alpha channels are decoded several times
    try:
        with open_picture(path) as picture:
            index = np.asarray(picture) if picture.mode == "P" else None
            if picture.mode in ("P", "PA", "RGBA", "LA", "La", "RGBa"):
                rgba = np.asarray(picture.convert("RGBA"))
                return Picture(np.ascontiguousarray(rgba[..., :3]), rgba[..., 3], index, path.suffix.lower() in LOSSY)
            plain = picture if picture.mode in ("L", "1", "I", "F") or picture.mode.startswith("I;16") else picture.convert("RGB")
            return Picture(np.asarray(plain), is_lossy=path.suffix.lower() in LOSSY)
    except (OSError, SyntaxError, ValueError):
        raise HoldprepError(f"{path} is not a readable image ({path.stat().st_size} bytes)") from None


def _video(path: Path, value: Label) -> Entries:
    """A video's frames as grey levels, since their colours are inexact. Raises HoldprepError for several colours, through `levels`."""
    if value is not None:
        raise HoldprepError(f"{path}: a video is lossy and has no labels: do not set segmenter.values; one video per entity")
    video = Video(path)
    frames = []
    for frame in video.frames():
        if isinstance(frame, str):
            raise HoldprepError(f"{path}: frame {frame} cannot be decoded: export the video again")
        rgb = np.ascontiguousarray(frame.image[..., ::-1])
        frames.append(rgb if levels.is_coloured(rgb) else rgb[..., 1].copy())
    return Entries(None, len(frames), lambda i: Picture(frames[i], is_lossy=True), notes=[f"{path}: {note}" for note in video.notes])
