"""Values of files in which a person notes pixels of pictures: known names, numbers of a shape, the size of the pictures."""

import difflib
from pathlib import Path
from typing import Any

import numpy as np

from holdprep.errors import HoldprepError

SAME_ASPECT = 0.01  # relative difference of proportions that counts as none


def scale_to_images(path: Path, size: Any, image_size: tuple[int, int] | None) -> np.ndarray:
    """Factor (2,) from the file's image size to that of images/; both have the same proportions.

    Raises HoldprepError for other proportions.
    """
    if size is None or image_size is None:
        return np.ones(2)
    size = numbers(size, (2,), f"{path}: image_size")
    if not (size > 0).all() or abs(size[0] * image_size[1] / (size[1] * image_size[0]) - 1) > SAME_ASPECT:
        raise HoldprepError(
            f"{path}: image_size is {size.tolist()}, width and height in the proportions of images/ ({image_size}) are needed"
        )
    return np.array(image_size, float) / size


def known(name: Any, allowed: tuple[str, ...], where: str) -> None:
    """Raise HoldprepError unless `name` is one of `allowed`, with the nearest of them."""
    if name not in allowed:
        close = difflib.get_close_matches(str(name), allowed, n=1)
        raise HoldprepError(
            f"{where} '{name}' is unknown{f' (did you mean {close[0]!r}?)' if close else ''}; allowed: {', '.join(allowed)}"
        )


def numbers(value: Any, shape: tuple[int | None, ...], where: str) -> np.ndarray:
    """A value of a file as finite numbers of a shape, in which None is any length. Raises HoldprepError for others."""
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        array = np.zeros(())
    if array.ndim != len(shape) or any(want is not None and want != have for want, have in zip(shape, array.shape, strict=True)):
        raise HoldprepError(f"{where} must be numbers of shape {tuple('n' if s is None else s for s in shape)}")
    if not np.isfinite(array).all():
        raise HoldprepError(f"{where} holds a value that is not finite")
    return array
