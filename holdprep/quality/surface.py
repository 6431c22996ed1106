"""Distances between a closed surface, points, and another body."""

from dataclasses import dataclass

import numpy as np
import trimesh
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

_SAMPLES = 60_000
_NEIGHBOURS = 8
_CUBES = 1_000_000
_FIT_STEPS = 30
_MAX_SIZE_SD = 0.01
_OFF_EDGES = np.array(
    [2.7e-6, 3.1e-6, 0.0]
)  # of a cube: moves columns away from edges of axis-aligned meshes, where intersections count twice


@dataclass(frozen=True)
class Surface:
    """A triangle mesh as dense samples with normals. `points` and `normals` (N, 3); `spacing_m` is their typical distance."""

    points: np.ndarray
    normals: np.ndarray
    tree: cKDTree
    spacing_m: float

    @staticmethod
    def of(vertices: np.ndarray, faces: np.ndarray, samples: int = _SAMPLES, seed: int = 0) -> "Surface":
        """A surface of samples uniform in area; the faces (F, 3) are oriented outwards."""
        mesh = trimesh.Trimesh(vertices, faces, process=False)
        points, face = trimesh.sample.sample_surface(mesh, samples, seed=seed)
        normals = mesh.triangles_cross[face]
        normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
        return Surface(np.asarray(points), normals, cKDTree(points), float(np.sqrt(mesh.area / samples)))

    def signed_distance(self, points: np.ndarray) -> np.ndarray:
        """(M,) distance of points (M, 3) from the surface, negative inside.

        Exact over flat parts, with errors of about `spacing_m` at edges.

        The sign is that of the neighbouring sample whose normal is closest to the direction of the point: at an edge the nearest
        sample may lie on the other face, whose normal does not determine the side.
        """
        distance, near = self.tree.query(points, k=_NEIGHBOURS)
        along = ((points[:, None] - self.points[near]) * self.normals[near]).sum(axis=2)
        rival = np.where(distance <= distance[:, :1] + 2 * self.spacing_m, np.abs(along), -1.0).argmax(axis=1)
        side = np.sign(np.take_along_axis(along, rival[:, None], axis=1)[:, 0])
        beside = np.sqrt(np.maximum(distance[:, 0] ** 2 - along[:, 0] ** 2, 0.0))
        return side * np.where(beside < 2 * self.spacing_m, np.abs(along[:, 0]), distance[:, 0])


@dataclass(frozen=True)
class Lattice:
    """A grid of cubes of width `pitch_m`: the centre of cube (i, j, k) is `low` + pitch_m (i, j, k), with `shape` cubes along each axis."""

    low: np.ndarray
    pitch_m: float
    shape: tuple[int, int, int]

    @staticmethod
    def around(vertices: np.ndarray, pitch_m: float = 0.002) -> "Lattice":
        """Cubes of 2 mm around the vertices (V, 3), or larger where more than a million would be needed."""
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        pitch_m = max(pitch_m, float(np.cbrt(np.prod(high - low) / _CUBES)))
        nx, ny, nz = np.maximum(np.ceil((high - low) / pitch_m), 1).astype(int).tolist()
        return Lattice((low + high) / 2 - pitch_m * (np.array([nx, ny, nz]) - 1) / 2, pitch_m, (nx, ny, nz))

    def inside(self, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
        """`shape` bool: whether each cube's centre lies inside a mesh (V, 3), (F, 3), of either orientation.

        Each column of cubes is intersected with the triangles; a cube is inside where the signed intersections below it do not cancel.
        Holes, such as MANO's wrist, are first closed by triangles to the mean of their border.
        """
        triangles = (_closed(vertices, faces) - self.low) / self.pitch_m + _OFF_EDGES
        first = np.clip(np.ceil(triangles[..., :2].min(axis=1)), 0, None).astype(int)
        last = np.minimum(np.floor(triangles[..., :2].max(axis=1)), np.array(self.shape[:2]) - 1).astype(int)
        wide, high = np.maximum(last - first + 1, 0).T
        pair = np.repeat(np.arange(len(triangles)), wide * high)
        nth = np.arange(len(pair)) - np.repeat(np.cumsum(wide * high) - wide * high, wide * high)
        column = first[pair] + np.stack([nth % wide[pair], nth // wide[pair]], axis=1)
        a, b, c = (triangles[pair, i, :2] - column for i in range(3))
        shares = np.stack([_cross(b, c), _cross(c, a), _cross(a, b)], axis=1)
        hit = (shares > 0).all(axis=1) | (shares < 0).all(axis=1)
        shares, column = shares[hit], column[hit]
        total = shares.sum(axis=1)
        cut = (shares * triangles[pair[hit], :, 2]).sum(axis=1) / total
        windings = np.zeros((*self.shape[:2], self.shape[2] + 1), int)
        np.add.at(windings, (column[:, 0], column[:, 1], np.clip(np.ceil(cut), 0, self.shape[2]).astype(int)), np.sign(total).astype(int))
        return windings.cumsum(axis=2)[..., :-1] != 0

    def volume_m3(self, inside: np.ndarray) -> float:
        """Volume of the cubes marked in `inside`."""
        return float(np.count_nonzero(inside) * self.pitch_m**3)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _closed(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Triangles (F', 3, 3) of the mesh and of a fan over every edge that has a face on one side only."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    there, back = edges @ [len(vertices), 1], edges @ [1, len(vertices)]
    border = edges[~np.isin(back, there)]
    if len(border) == 0:
        return vertices[faces]
    centroid = np.broadcast_to(vertices[border].mean(axis=(0, 1)), (len(border), 3))
    return np.concatenate([vertices[faces], np.stack([vertices[border[:, 1]], vertices[border[:, 0]], centroid], axis=1)])


def cloud_errors_mm(
    cloud: np.ndarray, surface: Surface, thresholds_mm: tuple[int, ...] = (5, 10), samples: int = 10_000
) -> dict[str, float]:
    """Errors of a cloud (N, 3) m with respect to the true surface.

    accuracy_mm: mean distance of the cloud from the surface; completeness_mm: mean distance of points of the surface from the cloud;
    chamfer_mm: the mean of both (Fan et al., A point set generation network, CVPR 2017, unsquared); precision_<d>mm_pct and
    recall_<d>mm_pct: shares of either within d; fscore_<d>mm_pct: their harmonic mean (Knapitsch et al., Tanks and Temples, 2017).
    SfM reconstructs a part of the object: accuracy and precision do not depend on the missing part, the others do.
    """
    to_surface = 1000 * np.abs(surface.signed_distance(cloud))
    to_cloud = 1000 * cKDTree(cloud).query(surface.points[:samples])[0]
    accuracy, completeness = float(to_surface.mean()), float(to_cloud.mean())
    found = {"accuracy_mm": accuracy, "completeness_mm": completeness, "chamfer_mm": (accuracy + completeness) / 2}
    for d in thresholds_mm:
        precision, recall = 100 * float((to_surface < d).mean()), 100 * float((to_cloud < d).mean())
        both = precision + recall
        found |= {f"precision_{d}mm_pct": precision, f"recall_{d}mm_pct": recall}
        found[f"fscore_{d}mm_pct"] = 2 * precision * recall / both if both else 0.0
    return found


def size_error_pct(cloud: np.ndarray, surface: Surface) -> float | None:
    """Relative size error of a cloud (N, 3) m near the true surface, from the similarity transform that aligns it with the surface.

    The alignment is point to plane (Chen & Medioni, 1992) with Geman-McClure weights. Unlike the trajectory's scale, it is independent of
    the focal length. None where the standard error of the size exceeds 1 %.
    """
    centroid = cloud.mean(axis=0)
    moved, log_scale = cloud - centroid, 0.0
    for _ in range(_FIT_STEPS):
        _, near = surface.tree.query(moved + centroid)
        normal = surface.normals[near]
        off = ((moved + centroid - surface.points[near]) * normal).sum(axis=1)
        sigma = max(3 * float(np.median(np.abs(off))), surface.spacing_m)
        weight = (sigma**2 / (sigma**2 + off**2)) ** 2
        J = np.column_stack([np.cross(moved, normal), normal, (moved * normal).sum(axis=1)])
        H = (J * weight[:, None]).T @ J
        step = -np.linalg.pinv(H, rcond=1e-10, hermitian=True) @ (J * weight[:, None]).T @ off
        moved = np.exp(step[6]) * moved @ Rotation.from_rotvec(step[:3]).as_matrix().T + step[3:6]
        log_scale += step[6]
    variance = float((weight * off**2).sum() / weight.sum())
    ridge = 1e-9 * np.trace(H) * np.eye(7)  # undetermined parameters have a large error
    known = np.sqrt(variance * np.linalg.inv(H + ridge)[6, 6]) < _MAX_SIZE_SD
    return 100 * float(np.exp(-log_scale) - 1) if known else None
