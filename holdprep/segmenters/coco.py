"""Masks in COCO's json: run lengths along columns, as numbers or in COCO's compressed string."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from holdprep.errors import HoldprepError
from holdprep.io.bounded import MAX_PIXELS, read_json


def decode_rle(counts: str | Sequence[int], size: Sequence[int]) -> np.ndarray:
    """A mask (H, W) bool of `size` (H, W) from alternating run lengths of background and foreground, column by column.

    A string holds each length in 5-bit digits from 48 on, lowest first: bit 32 says that more follow, bit 16 of the last is the sign;
    from the fourth on, what it differs from the length two before (COCO's maskApi.c). Raises ValueError where it does not fill `size`.
    """
    runs: list[int] = []
    if isinstance(counts, str):
        value, shift = 0, 0
        for digit in (ord(c) - 48 for c in counts):
            value |= (digit & 31) << shift
            shift += 5
            if not digit & 32:
                value -= (1 << shift) if digit & 16 else 0
                runs.append(value + (runs[-2] if len(runs) > 2 else 0))
                value, shift = 0, 0
    else:
        runs = [int(n) for n in counts]
    if min(runs, default=0) < 0 or sum(runs) != size[0] * size[1] or min(size) < 0 or size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"run lengths add up to {sum(runs):.10g}, not {size[0]:.10g} x {size[1]:.10g} of at most {MAX_PIXELS} pixels")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(size[1], size[0]).T


def read_coco(path: Path, value: int | None) -> dict[str, np.ndarray]:
    """{frame name: mask (H, W) bool} of a json with `images` and `annotations`, or with a mapping of frame names to run lengths.

    Annotations of category `value` are used, or all if it is None; parts of a frame are united, a frame without any is empty.
    """
    tree = read_json(path)
    try:
        if isinstance(tree, dict) and "annotations" in tree:
            return _dataset(tree, value)
        return {PurePosixPath(name).stem: _mask(rle) for name, rle in tree.items()}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise HoldprepError(f"{path} holds no COCO masks ({detail}): needs 'images' and 'annotations' with run lengths") from None


def _dataset(tree: dict[str, Any], value: int | None) -> dict[str, np.ndarray]:
    stems = {image["id"]: PurePosixPath(image["file_name"]).stem for image in tree["images"]}
    masks = {stems[image["id"]]: _empty(image["height"], image["width"]) for image in tree["images"]}
    for annotation in tree["annotations"]:
        if value is None or annotation["category_id"] == value:
            masks[stems[annotation["image_id"]]] |= _mask(annotation["segmentation"])
    return masks


def _empty(height: int, width: int) -> np.ndarray:
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(f"an image of {width:.10g} x {height:.10g} pixels")
    return np.zeros((height, width), bool)


def _mask(rle: Any) -> np.ndarray:
    if not isinstance(rle, dict):
        raise ValueError("a segmentation is a polygon, not run lengths")
    return decode_rle(rle["counts"], rle["size"])
