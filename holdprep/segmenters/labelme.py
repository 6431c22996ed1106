"""Masks of labelme: one `<frame>.json` a frame, with shapes that carry a label."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from holdprep.errors import HoldprepError, short
from holdprep.io.bounded import MAX_MASK_PIXELS, read_json
from holdprep.segmenters import polygons
from holdprep.segmenters.coco import Label, chosen_label


def json_files(folder: Path) -> dict[str, Path]:
    """The json files of a folder by frame name."""
    return {f.stem: f for f in sorted(folder.glob("*.json")) if not f.name.startswith(".")}


def read_labelme(files: Sequence[Path], label: Label) -> list[np.ndarray]:
    """The masks (H, W) bool of the files' shapes with `label`, or of all shapes if they have one label.

    Polygons, rectangles and circles are read. Raises HoldprepError for several labels without `label`, other shapes and other content.
    """
    trees = [_read(file) for file in files]
    labels = {str(shape["label"]) for tree in trees for shape in tree["shapes"]}
    wanted = chosen_label(str(files[0].parent), {name: name for name in labels}, label)
    return [_mask(file, tree, wanted) for file, tree in zip(files, trees, strict=True)]


def _read(file: Path) -> dict[str, Any]:
    tree = read_json(file)
    try:
        for shape in tree["shapes"]:
            shape["label"], shape["points"]
        if not 0 < int(tree["imageHeight"]) * int(tree["imageWidth"]) <= MAX_MASK_PIXELS or int(tree["imageHeight"]) < 0:
            raise ValueError(f"an image of {tree['imageWidth']:.10g} x {tree['imageHeight']:.10g} pixels")
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise HoldprepError(
            f"{file} is not labelme's ({type(error).__name__}: {str(error)[:150]}): needs shapes, imageHeight and imageWidth"
        ) from None
    return dict(tree)


def _mask(file: Path, tree: dict[str, Any], label: str | None) -> np.ndarray:
    mask = np.zeros((int(tree["imageHeight"]), int(tree["imageWidth"])), bool)
    for shape in tree["shapes"]:
        if label is None or str(shape["label"]) == label:
            try:
                mask |= polygons.fill([_outline(shape)], mask.shape)
            except (ValueError, TypeError, OverflowError) as error:
                raise HoldprepError(f"{file}: shape '{short(shape['label'])}': {error}") from None
    return mask


def _outline(shape: dict[str, Any]) -> np.ndarray:
    """A shape's points (N, 2) as a polygon."""
    points, kind = np.asarray(shape["points"], np.float64), shape.get("shape_type") or "polygon"
    if kind == "rectangle" and points.shape == (2, 2):
        (x0, y0), (x1, y1) = points
        return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    if kind == "circle" and points.shape == (2, 2):
        angle = np.linspace(0, 2 * np.pi, 256, endpoint=False)
        return points[0] + np.linalg.norm(points[1] - points[0]) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if kind != "polygon":
        raise ValueError(f"is a {kind}; polygons, rectangles and circles are read: draw it as a polygon")
    return points
