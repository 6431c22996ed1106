"""The object's surface from its sparse cloud and its silhouettes: a signed distance, tabulated on a grid.

Near points it is the distance to the tangent planes of the nearest points; parts that no camera saw are closed by the convex hull. Where
silhouettes show that the object is larger than its cloud, points of their edges (`rim`) complete it; what they exclude is carved away, such
as the hole of a handle. On rendered sequences with real SfM the
error is at most 0.5 mm where fingers touch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from scipy.spatial import ConvexHull, QhullError, cKDTree
from scipy.spatial.distance import pdist
from torch import Tensor

from holdprep.align.rim import Rim
from holdprep.errors import HoldprepError

CELLS = 34  # along the longest side
MARGIN = 0.3  # of the longest side, for a finger
REACH = 0.1  # of the longest side: beyond this distance from all points, tangent planes are not used
PLANE_POINTS = 12
NORMAL_POINTS = 16
MAX_CURVED = 0.08  # share of a neighbourhood's variance across its plane
MAX_ISOLATION = 4.0  # times the median distance to neighbours
MIN_POINTS = 20
ALIKE_DEG = 5.0  # between normals of hull facets that are merged
OBSERVED = 0.08  # of the diameter: largest distance along the surface from a point of the cloud, or of the rim
# of the diameter: points of the silhouettes' edges by more than this outside of the cloud's surface show that it is too small
BEYOND = 0.02
AT_ONCE = 2**18  # distances to facets in memory at a time


class Kind(IntEnum):
    """What is known of a part of the surface: nothing (closed by the convex hull), its silhouette, or points of the cloud."""

    INVENTED = 0
    BOUNDED = 1
    OBSERVED = 2


@dataclass(frozen=True)
class Surface:
    """Signed distance to the surface in the cloud's frame and unit, negative inside: `values` (X, Y, Z) at origin + step (i, j, k).

    `points` (N, 3) is the cloud without outliers, and the points of the rim that complete it;
    `diameter` is their largest pairwise distance. `cloud` (C, 3) are those of the cloud alone, `rim` are all points of the silhouettes' edges.
    """

    origin: np.ndarray
    step: float
    values: np.ndarray
    points: np.ndarray
    diameter: float
    cloud: np.ndarray
    rim: Rim

    @staticmethod
    def of(points: np.ndarray, outward: np.ndarray) -> "Surface":
        """The surface of points (N, 3) with outward directions (N, 3), for example those to the cameras.

        Raises HoldprepError where the cloud has no volume.
        """
        kept, normals = _tangent_planes(points, outward)
        try:
            hull = ConvexHull(kept)
        except QhullError:
            raise HoldprepError(f"the object's cloud of {len(points)} points is flat: check the overlays of object_pose") from None
        low, high = kept.min(axis=0), kept.max(axis=0)
        longest = float((high - low).max())
        step, low, high = longest / CELLS, low - MARGIN * longest, high + MARGIN * longest
        axes = [np.arange(a, b + step, step) for a, b in zip(low, high, strict=True)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        values = _hull_distance(hull, grid)
        near = np.flatnonzero(values < REACH * longest)
        distance, nearest = cKDTree(kept).query(grid[near], k=PLANE_POINTS, workers=-1)
        reached = distance[:, 0] < REACH * longest
        near, nearest = near[reached], nearest[reached]
        along = np.einsum("gka,gka->gk", grid[near, None] - kept[nearest], normals[nearest])
        values[near] = np.maximum(values[near], np.median(along, axis=1))
        table = values.reshape([len(a) for a in axes])
        diameter = float(pdist(kept[hull.vertices]).max())
        return Surface(low, step, table, kept, diameter, kept, Rim.empty())

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> "Surface":
        """The inverse of `tensors`; raises KeyError where one is missing."""
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        rim = Rim(*(arrays[f"rim_{item.name}"] for item in fields(Rim)))
        values = arrays["values"].astype(float)
        return Surface(arrays["origin"], float(arrays["step"]), values, arrays["points"], float(arrays["diameter"]), arrays["cloud"], rim)

    def tensors(self) -> dict[str, Tensor]:
        """All of it as tensors, by name; the distances in float32."""
        own: dict[str, Any] = {"origin": self.origin, "step": self.step, "values": self.values.astype(np.float32)}
        own |= {"points": self.points, "diameter": self.diameter, "cloud": self.cloud}
        own |= {f"rim_{name}": values for name, values in vars(self.rim).items()}
        return {name: torch.as_tensor(np.asarray(value)) for name, value in own.items()}

    def completed(self, points: np.ndarray, outward: np.ndarray, rim: Rim) -> "Surface":
        """The surface of the same points and of those of the rim that are outside of this one, away from its points, by more than their error."""
        if not len(rim.points):
            return self
        least = np.maximum(BEYOND * self.diameter, 0.5 * rim.stretch)
        away = cKDTree(self.points).query(rim.points)[0]
        new = (away > OBSERVED * self.diameter) & (self.distance(rim.points) > least)
        whole = self
        if new.any():
            whole = Surface.of(np.concatenate([points, rim.points[new]]), np.concatenate([outward, rim.normals[new]]))
        return replace(whole, cloud=self.points, rim=rim)

    def carved(self, outside: Callable[[np.ndarray], np.ndarray]) -> "Surface":
        """The surface without what silhouettes exclude: `outside` gives how far points (N, 3) are outside of their visual hull, (N,)."""
        cells = np.argwhere(self.values < 0)
        values = self.values.copy()
        at = tuple(cells.T)
        values[at] = np.maximum(values[at], outside(self.origin + self.step * cells))
        return replace(self, values=values)

    @property
    def added(self) -> int:
        """The number of the rim's points that complete the cloud."""
        return max(len(self.points) - len(self.cloud), 0)

    @cached_property
    def outermost(self) -> np.ndarray:
        """(M, 3) corners of the convex hull of the points and of the rim, which reaches edges and corners that have no points."""
        known = np.concatenate([self.points, self.rim.points])
        return np.asarray(known[ConvexHull(known).vertices])

    @cached_property
    def across(self) -> float:
        """The object's size: the largest distance of two of the outermost points."""
        return float(pdist(self.outermost).max())

    def distance(self, points: np.ndarray) -> np.ndarray:
        """(...) signed distances of points (..., 3); outside the grid, the distance to the grid is added."""
        cells = ((points - self.origin) / self.step).reshape(-1, 3).T
        inside = np.clip(cells, 0, np.array(self.values.shape)[:, None] - 1)
        x, y, z = cells - inside
        found = map_coordinates(self.values, inside, order=1) + self.step * np.sqrt(x * x + y * y + z * z)
        return np.asarray(found).reshape(points.shape[:-1])

    def kind(self, points: np.ndarray) -> np.ndarray:
        """(...) values of `Kind`: what is known of the surface next to points (..., 3).

        It is observed near points of the cloud, bounded near points of the rim.
        """
        flat = points.reshape(-1, 3)
        off = np.square(self.distance(flat))
        found = np.full(len(flat), Kind.INVENTED, np.int8)
        for kind, tree in self._known_points.items():
            along = np.sqrt(np.maximum(np.square(tree.query(flat)[0]) - off, 0.0))
            found[along < OBSERVED * self.diameter] = kind
        return found.reshape(points.shape[:-1])

    @cached_property
    def _slopes(self) -> list[np.ndarray]:
        """Derivatives (X, Y, Z) of the values along the three axes."""
        return list(np.gradient(self.values, self.step))

    @cached_property
    def _known_points(self) -> dict[Kind, cKDTree]:
        """The points by kind, what is known best last."""
        points = {Kind.BOUNDED: self.rim.points, Kind.OBSERVED: self.cloud}
        return {kind: cKDTree(known) for kind, known in points.items() if len(known)}

    def known(self, points: np.ndarray) -> np.ndarray:
        """(...) bool: whether the surface next to points (..., 3) is observed or bounded. Elsewhere it is the guess of the convex hull."""
        return np.asarray(self.kind(points) > Kind.INVENTED)

    def gradient(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) derivative of the distance with respect to the point; its norm is about 1."""
        cells = ((points - self.origin) / self.step).reshape(-1, 3).T
        return np.stack([map_coordinates(s, cells, order=1, mode="nearest") for s in self._slopes], axis=-1).reshape(points.shape)


def _hull_distance(hull: ConvexHull, grid: np.ndarray) -> np.ndarray:
    """(G,) largest signed distance of points (G, 3) to the hull's planes; of facets with similar normals only the largest is used."""
    corners = hull.points[hull.simplices]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    left = hull.equations[np.argsort(-area), :3]
    facing = []
    while len(left):
        facing.append(left[0])
        left = left[left @ left[0] < np.cos(np.radians(ALIKE_DEG))]
    normals = np.array(facing)
    centroid = grid.mean(axis=0)
    offsets = ((hull.points[hull.vertices] - centroid) @ normals.T).max(axis=0).astype(np.float32)
    directions, local = normals.T.astype(np.float32), (grid - centroid).astype(np.float32)
    size = max(1, AT_ONCE // len(normals))
    parts = [(local[first : first + size] @ directions - offsets).max(axis=1) for first in range(0, len(grid), size)]
    return np.concatenate(parts).astype(float)


def _tangent_planes(points: np.ndarray, outward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points without outliers and their outward normals: the principal axis of least variance of their neighbours."""
    if len(points) < MIN_POINTS:
        raise HoldprepError(f"the object's cloud has {len(points)} points, {MIN_POINTS} are needed for a surface: check object_pose")
    distance, nearest = cKDTree(points).query(points, k=min(NORMAL_POINTS, len(points)))
    around = points[nearest] - points[nearest].mean(axis=1, keepdims=True)
    variance, axes = np.linalg.eigh(np.einsum("nka,nkb->nab", around, around))
    normals = axes[..., 0] * np.where((axes[..., 0] * outward).sum(axis=-1, keepdims=True) < 0, -1.0, 1.0)
    isolation = distance[:, 1:9].mean(axis=1)
    kept = (isolation < MAX_ISOLATION * np.median(isolation)) & (variance[:, 0] < MAX_CURVED * variance.sum(axis=1))
    if kept.sum() < MIN_POINTS:  # a cloud without planes: inaccurate normals are used
        kept = np.ones(len(points), bool)
    return points[kept], normals[kept]
