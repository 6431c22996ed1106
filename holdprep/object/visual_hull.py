"""The visual hull of an object from posed silhouettes, on a grid: what no silhouette excludes (Laurentini 1994).

The pixels of hands are unknown: they exclude nothing. What is hidden by a hand in every frame is closed by the convex shape.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy.ndimage import map_coordinates

from holdprep.geometry.cameras import project
from holdprep.geometry.isosurface import zero_level
from holdprep.geometry.raster import covered
from holdprep.geometry.rigid import apply
from holdprep.object.support_shape import SupportShape, sphere_points

CELLS = 56  # along the longest side
MARGIN_CELLS = 3
DIRECTIONS = 600  # tangent planes that bound the convex shape
WRONG_SHARE = 0.05  # of the frames may exclude a point of the object by an error of pose or mask
EDGE_PX = 0.5  # from the centre of an outermost pixel to the silhouette's edge


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

    A point is outside if more than WRONG_SHARE of the frames exclude it.
    """
    directions = sphere_points(DIRECTIONS)
    reach = shape.value(torch.as_tensor(np.concatenate([np.eye(3), -np.eye(3)]))).numpy()
    low, high = -reach[3:], reach[:3]
    step = float((high - low).max()) / CELLS
    axes = [np.arange(a - MARGIN_CELLS * step, b + (MARGIN_CELLS + 1) * step, step) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    field = shape.distance(grid, directions)
    near = np.flatnonzero(field < 2 * step)
    beyond = np.stack(list(_beyond_m(grid[near], seen, T_cam_obj, K)))
    allowed = round(WRONG_SHARE * len(beyond))
    excluded = np.partition(beyond, len(beyond) - 1 - allowed, axis=0)[len(beyond) - 1 - allowed]
    field[near] = np.maximum(field[near], excluded)
    vertices, faces = zero_level(field.reshape([len(a) for a in axes]), np.array([a[0] for a in axes]), step)
    return Hull(vertices, faces)


def silhouette_iou(predicted: np.ndarray, mask: np.ndarray, hand: np.ndarray) -> float:
    """Intersection over union of a silhouette and a mask (H, W) bool, outside of the hands' pixels; NaN where both are empty there."""
    union = (predicted | mask) & ~hand
    return float((predicted & mask & ~hand).sum() / union.sum()) if union.any() else float("nan")


def _beyond_m(
    points: np.ndarray, seen: Iterable[tuple[np.ndarray, np.ndarray]], T_cam_obj: np.ndarray, K: np.ndarray
) -> Iterator[np.ndarray]:
    """(N,) float32 per frame: how far points (N, 3) are outside of the silhouette (m), negative inside; -inf outside of the image."""
    for (mask, hand), T in zip(seen, T_cam_obj, strict=True):
        cam = apply(T, points)
        px = project(cam, K)
        signed_px = map_coordinates(_signed_px(mask | hand), px.T[::-1], order=1, mode="constant", cval=-np.inf)
        yield (signed_px * cam[:, 2] / K[0, 0]).astype(np.float32)


def _signed_px(region: np.ndarray) -> np.ndarray:
    """(H, W) signed distance in px to the edge of a region (H, W) bool, negative inside."""
    outside = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    inside = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(np.where(region, EDGE_PX - inside, outside - EDGE_PX))
