"""points.yaml: two points of the object, clicked in one or more frames each, and their measured distance."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from holdprep.align.problem import Marks
from holdprep.errors import HoldprepError
from holdprep.io.bounded import read_yaml, refuse_interpolations
from holdprep.io.clicks import known, numbers, scale_to_images

POINTS = ("a", "b")
CLICK_PX = 1.5  # standard error of a click
MOST_PX = 8.0  # from where the other clicks put the point
RANGE_MM = (2.0, 2000.0)


def read_points(path: Path, names: Sequence[str], image_size: tuple[int, int]) -> Marks:
    """The clicked points, in pixels of the pictures of `image_size` (width, height); `names` are the frames'.

    The file holds `distance_mm`, `frames: {<frame name>: {a: [x, y], b: [x, y]}}`, where a frame may have one of the points, and, optional,
    the `image_size` that its pixels belong to. Raises HoldprepError in one line naming file and frame.
    """
    tree = read_yaml(path)
    refuse_interpolations(path, tree)
    if not isinstance(tree, dict) or "distance_mm" not in tree or not isinstance(tree.get("frames"), dict) or not tree["frames"]:
        raise HoldprepError(f"{path}: needs 'distance_mm: <number>' and 'frames: {{<frame name>: {{a: [x, y], b: [x, y]}}}}'")
    for key in tree:
        known(key, ("distance_mm", "image_size", "frames"), f"{path}:")
    distance_mm = float(numbers(tree.get("distance_mm"), (), f"{path}: distance_mm"))
    if not RANGE_MM[0] <= distance_mm <= RANGE_MM[1]:
        raise HoldprepError(f"{path}: distance_mm is {distance_mm:g}, between {RANGE_MM[0]:g} and {RANGE_MM[1]:g} mm is possible")
    scale = scale_to_images(path, tree.get("image_size"), image_size)
    number = {name: t for t, name in enumerate(names)}
    clicks = []
    for name, points in tree["frames"].items():
        if name not in number:
            raise HoldprepError(f"{path}: frame {name} is not in images/ (frames are {names[0]} ... {names[-1]})")
        clicks += [(number[name], point, px * scale) for point, px in _clicks(points, f"{path}: frame {name}")]
    for t, k, (x, y) in clicks:
        if not (0 <= x <= image_size[0] and 0 <= y <= image_size[1]):
            raise HoldprepError(
                f"{path}: frame {names[t]}: {POINTS[k]} ({x:.0f}, {y:.0f}) lies outside the image of {image_size[0]} x "
                f"{image_size[1]} pixels: correct it, or image_size"
            )
    frame, point, px = (np.array(values) for values in zip(*clicks, strict=True))
    for k, label in enumerate(POINTS):
        if k not in point:
            raise HoldprepError(f"{path}: point {label} is in no frame: give its pixel in one frame or more")
    pair, distance_m = np.array([[0, 1]]), np.array([distance_mm / 1e3])
    return Marks("points", str(path), frame, point, px, pair, distance_m, POINTS, names, CLICK_PX, MOST_PX)


def _clicks(points: Any, where: str) -> list[tuple[int, np.ndarray]]:
    """Number and pixel (2,) of the points of one frame."""
    if not isinstance(points, dict) or not points:
        raise HoldprepError(f"{where}: needs one or both of a: [x, y] and b: [x, y]")
    for point in points:
        known(point, POINTS, f"{where}: point")
    return [(POINTS.index(point), numbers(px, (2,), f"{where}: {point}")) for point, px in points.items()]
