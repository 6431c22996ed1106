"""Masks in COCO's json: polygons, or run lengths along columns, as numbers or in COCO's compressed string."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from holdprep.errors import HoldprepError, short
from holdprep.io.bounded import MAX_MASK_PIXELS, read_json
from holdprep.segmenters import polygons

Label = int | str | None
NAMED = 5  # labels listed in a message


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
    height, width = (int(n) for n in size)
    if min(runs, default=0) < 0 or sum(runs) != height * width or min(height, width) < 0 or height * width > MAX_MASK_PIXELS:
        raise ValueError(f"run lengths add up to {sum(runs):.10g}, not {height:.10g} x {width:.10g} of at most {MAX_MASK_PIXELS} pixels")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(width, height).T


def read_coco(path: Path, label: Label) -> dict[str, np.ndarray]:
    """{frame name: mask (H, W) bool} of a json with `images` and `annotations`, or with a mapping of frame names to run lengths.

    Annotations (polygons or run lengths) of the category `label`, its number or name, are used, or all if they are of one; parts of a frame
    are united, a frame without any is empty. Raises HoldprepError for several categories without `label`, and for other content.
    """
    tree = read_json(path)
    try:
        if isinstance(tree, dict) and "annotations" in tree:
            return _dataset(path, tree, label)
        return {PurePosixPath(name).stem: _mask(rle, None) for name, rle in tree.items()}
    except HoldprepError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise HoldprepError(
            f"{path} holds no COCO masks ({detail}): needs 'images' and 'annotations' with run lengths or polygons"
        ) from None


def chosen_label(source: str, names: Mapping[str, str], label: Label) -> str | None:
    """The key of `names` (label: its name) that `label` says, by key or name; None (all) without a label if there is one at most.

    Raises HoldprepError for several labels without `label`, and for one that is not there.
    """
    some = sorted(names.items())[:NAMED]
    listed = ", ".join(short(key) if key == name else f"{short(key)} ({short(name)})" for key, name in some)
    if label is None:
        if len(names) > 1:
            raise HoldprepError(f"{source} holds labels {listed}: set the label of each entity (segmenter.values.object=, .right=, .left=)")
        return None
    found = next((key for key, name in names.items() if str(label) in (key, name)), None)
    if found is None:
        raise HoldprepError(f"{source} holds no label {short(label)}, only {listed or 'none'}: check segmenter.values")
    return found


def _dataset(path: Path, tree: dict[str, Any], label: Label) -> dict[str, np.ndarray]:
    stems = {image["id"]: PurePosixPath(image["file_name"]).stem for image in tree["images"]}
    sizes = {image["id"]: (int(image["height"]), int(image["width"])) for image in tree["images"]}
    masks = {stems[i]: _empty(size) for i, size in sizes.items()}
    titles = {str(c["id"]): str(c.get("name", c["id"])) for c in tree.get("categories", [])}
    used = {str(a["category_id"]) for a in tree["annotations"]}
    wanted = chosen_label(str(path), {key: titles.get(key, key) for key in used}, label)
    for annotation in tree["annotations"]:
        if wanted is None or str(annotation["category_id"]) == wanted:
            image = annotation["image_id"]
            masks[stems[image]] |= _mask(annotation["segmentation"], sizes[image])
    return masks


def _empty(size: tuple[int, int]) -> np.ndarray:
    if not (0 < size[0] <= MAX_MASK_PIXELS and 0 < size[1] <= MAX_MASK_PIXELS and size[0] * size[1] <= MAX_MASK_PIXELS):
        raise ValueError(f"an image of {size[1]:.10g} x {size[0]:.10g} pixels")
    return np.zeros(size, bool)


def _mask(segmentation: Any, size: tuple[int, int] | None) -> np.ndarray:
    """Run lengths, or a list of polygons x, y, x, y, ... in an image of `size` (H, W)."""
    if isinstance(segmentation, dict):
        return decode_rle(segmentation["counts"], segmentation["size"])
    if size is None:
        raise ValueError("a segmentation is a polygon, and the json has no 'images' that give its size")
    return polygons.fill([np.reshape(np.asarray(p, np.float64), (-1, 2)) for p in segmentation], size)
