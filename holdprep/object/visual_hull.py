"""The visual hull of an object from posed silhouettes, on a grid: what no silhouette excludes (Laurentini 1994).

The pixels of hands are unknown: they exclude nothing. What is hidden by a hand in every frame is closed by the convex shape.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from holdprep.geometry.cameras import project
from holdprep.geometry.isosurface import zero_level
from holdprep.geometry.raster import covered
from holdprep.geometry.rigid import apply
from holdprep.geometry.silhouettes import outside_hull, signed_px
from holdprep.object.support_shape import SupportShape, sphere_points

CELLS = 56  # along the longest side
MARGIN_CELLS = 3
DIRECTIONS = 600  # tangent planes that bound the convex shape


@dataclass(frozen=True)
class Hull:
    """A closed surface in the object's frame (m): `vertices` (V, 3), `faces` (F, 3) oriented outwards."""

    vertices: np.ndarray
    faces: np.ndarray

    def silhouette(self, T_cam_obj: np.ndarray, K: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """(H, W) bool pixels that the object covers at a pose (4, 4), in an image of `size` (width, height)."""
        return covered(project(apply(T_cam_obj, self.vertices), K), self.faces, size)

    def points(self, number: int) -> np.ndarray:
        """At most `number` points (N, 3), evenly spread over the surface: vertices have the spacing of the grid."""
        return self.vertices[:: max(1, -(-len(self.vertices) // number))]


def visual_hull(shape: SupportShape, seen: Iterable[tuple[np.ndarray, np.ndarray]], T_cam_obj: np.ndarray, K: np.ndarray) -> Hull:
    """The part of the convex `shape` inside of silhouettes: `seen` masks of object and hands (H, W) bool, in F frames with poses (F, 4, 4).

    A point is outside if enough frames exclude it (`outside_hull`).
    """
    directions = sphere_points(DIRECTIONS)
    reach = shape.value(torch.as_tensor(np.concatenate([np.eye(3), -np.eye(3)]))).numpy()
    low, high = -reach[3:], reach[:3]
    step = float((high - low).max()) / CELLS
    axes = [np.arange(a - MARGIN_CELLS * step, b + (MARGIN_CELLS + 1) * step, step) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    field = shape.distance(grid, directions)
    near = np.flatnonzero(field < 2 * step)
    field[near] = np.maximum(field[near], outside_hull(grid[near], (signed_px(mask | hand) for mask, hand in seen), T_cam_obj, K))
    vertices, faces = zero_level(field.reshape([len(a) for a in axes]), np.array([a[0] for a in axes]), step)
    return Hull(vertices, faces)


def silhouette_iou(predicted: np.ndarray, mask: np.ndarray, hand: np.ndarray) -> float:
    """Intersection over union of a silhouette and a mask (H, W) bool, outside of the hands' pixels; NaN where both are empty there."""
    union = (predicted | mask) & ~hand
    return float((predicted & mask & ~hand).sum() / union.sum()) if union.any() else float("nan")
