"""Masks as arrays: .npy and .npz of SAM 2, Track-Anything and others.

One array (T, H, W) of all frames (an axis of length 1 may stand anywhere); a .npz of one array a frame, of one such stack and `names`, or
of one stack for each label; a folder of one `<frame>.npy` a frame; a dict {frame: {label: mask}}, as SAM 2's video predictor fills it,
saved by np.save.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from holdprep.errors import HoldprepError
from holdprep.io.safeio import is_zip, load_npy, load_npz
from holdprep.segmenters.coco import Label, chosen_label


class Stack(NamedTuple):
    """Arrays (H, W), `names` of their frames (None: all frames in order), and whether they are those of the label alone."""

    names: list[str] | None
    arrays: list[np.ndarray]
    is_labelled: bool = False


def read_stack(path: Path, label: Label) -> Stack:
    """The masks or labels of an .npy or .npz. Raises HoldprepError for other content."""
    if path.suffix.lower() == ".npy":
        content = load_npy(path)
        return _of_dict(path, content, label) if isinstance(content, Mapping) else Stack(None, _stack(path, content))
    if path.is_file() and not is_zip(path):
        raise HoldprepError(f"{path} is no .npz: is it truncated?")
    arrays = {key: np.asarray(array) for key, array in load_npz(path).items()}
    names = arrays.pop("names", None)
    if len(arrays) == 1:
        frames = _stack(path, next(iter(arrays.values())))
        if names is not None and len(names) != len(frames):
            raise HoldprepError(f"{path} has {len(frames)} masks and {len(names)} names")
        return Stack(None if names is None else [Path(str(n)).stem for n in names], frames)
    if arrays and all(array.ndim > 2 for array in arrays.values()):  # one stack for each entity
        chosen = chosen_label(str(path), {key: key for key in arrays}, label)
        return Stack(None, _stack(path, arrays[chosen or ""]), is_labelled=True)
    if not arrays:
        raise HoldprepError(f"{path} holds no arrays: a stack (frames, height, width), or one array per frame, is needed")
    return Stack(list(arrays), [picture(path, key, array) for key, array in arrays.items()])


def read_array(path: Path) -> np.ndarray:
    """The mask or labels (H, W) of one frame's .npy."""
    return picture(path, path.stem, load_npy(path))


def picture(path: Path, what: str, array: Any) -> np.ndarray:
    """(H, W) of an array with further axes of length 1. Raises HoldprepError for another shape, or without numbers."""
    found = np.asarray(array)
    squeezed = found.reshape([n for n in found.shape if n != 1]) if found.ndim > 2 else found
    if squeezed.ndim != 2 or squeezed.dtype.kind not in "biuf":
        raise HoldprepError(f"{path}: {what} is {found.dtype} {found.shape}, numbers of (height, width) are needed: one entity per file")
    return squeezed


def _stack(path: Path, content: Any) -> list[np.ndarray]:
    found = np.asarray(content)
    shape = found.shape
    if found.ndim == 2:
        raise HoldprepError(
            f"{path} is one mask {shape}; all frames are needed: (frames, height, width), or a folder of one file per frame"
        )
    if found.ndim > 3:
        found = found[0] if shape[0] == 1 < shape[1] else found
        found = found.reshape([len(found), *(n for n in found.shape[1:] if n != 1)])
    if found.ndim != 3 or found.dtype.kind not in "biuf" or not len(found):
        raise HoldprepError(f"{path} is {found.dtype} {shape}, numbers of (frames, height, width) are needed: one entity per file")
    return list(found)


def _of_dict(path: Path, content: Mapping[Any, Any], label: Label) -> Stack:
    """Frames of {frame: {label: mask}} or {frame: mask}; a frame that lacks the label is empty."""
    by_frame = {str(frame): masks if isinstance(masks, Mapping) else {label: masks} for frame, masks in content.items()}
    labels = {str(key): key for masks in by_frame.values() for key in masks}
    chosen = chosen_label(str(path), {name: name for name in labels}, label) if len(labels) > 1 else next(iter(labels), "")
    wanted = labels.get(chosen or "")
    found = {frame: picture(path, frame, masks[wanted]) for frame, masks in by_frame.items() if wanted in masks}
    if not found:
        raise HoldprepError(f"{path} holds no masks: {{frame: {{label: mask}}}} is needed")
    empty = np.zeros_like(next(iter(found.values())))
    is_labelled = label is not None and all(mask.dtype == bool for mask in found.values())
    return Stack(list(by_frame), [found.get(frame, empty) for frame in by_frame], is_labelled)
