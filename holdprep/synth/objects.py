"""Everyday objects of real size: meshes and signed distances. The object's axis is y, the origin of its frame its centre."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from holdprep.errors import HoldprepError

Distance = Callable[[Tensor], Tensor]
SIDES = 72  # segments around a solid of revolution
CASE_RADIUS_M, CASE_STEPS = 0.011, 24
SHARP_DEG = 35.0  # sharper profile corners are edges, without shared normals


@dataclass(frozen=True)
class SynthObject:
    """An object: `vertices_m` (V, 3), `faces` (F, 3) outward, `uv` (V, 2) in 0..1, `texture` a kind of `textures.make_texture`.

    `signed_distance` takes points (..., 3) in metres to (...,), negative inside, exact outside, differentiable. `grip_m` is how wide the
    object is where fingers and thumb oppose each other: along z. `has_handle`: something at +x that fingers must keep clear of.
    """

    name: str
    vertices_m: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    texture: str
    signed_distance: Distance
    grip_m: float
    has_handle: bool

    @property
    def height_m(self) -> float:
        """Extent along y."""
        return float(np.ptp(self.vertices_m[:, 1]))


def make_object(name: str) -> SynthObject:
    """One of OBJECTS; raises HoldprepError for another name."""
    if name not in OBJECTS:
        raise HoldprepError(f"no synthetic object {name!r}; there are {', '.join(OBJECTS)}")
    shape, texture = OBJECTS[name]
    vertices, faces, uv, distance, grip = SHAPES[shape]()
    return SynthObject(name, vertices, faces, uv, texture, distance, grip, has_handle=shape == "mug")


Shape = tuple[np.ndarray, np.ndarray, np.ndarray, Distance, float]


def _can() -> Shape:
    profile = np.array([[0, -57.5], [33, -57.5], [33, 57.5], [0, 57.5]]) / 1000
    return (*revolve(profile), revolved_distance(profile), 0.066)


def _bottle() -> Shape:
    """A body with rounded shoulders, a neck and a cap."""
    angle = np.linspace(0, np.pi / 2, 10)
    shoulder = np.stack([13 + 19.5 * np.cos(angle), 40 + 34 * np.sin(angle)], axis=1)
    ends = np.array([[0, -100], [29, -100], [32.5, -96]]), np.array([[13, 82], [15.5, 82], [15.5, 100], [0, 100]])
    profile = np.concatenate([ends[0], shoulder, ends[1]]) / 1000
    return (*revolve(profile), revolved_distance(profile), 0.065)


def _mug() -> Shape:
    """A full mug with a flat top; its handle is half a ring at +x that ends inside the wall."""
    profile = np.array([[0, -47.5], [37, -47.5], [40, -44.5], [40, 47.5], [36, 47.5], [36, 42], [0, 42]]) / 1000
    body, ring = revolve(profile), _half_ring(np.array([0.038, 0, 0]), 0.026, 0.0055)
    vertices, uv = np.concatenate([body[0], ring[0]]), np.concatenate([body[2], ring[2]])
    inside = revolved_distance(profile)

    def distance(points: Tensor) -> Tensor:
        return torch.minimum(inside(points), _half_ring_distance(points, (0.038, 0.0, 0.0), 0.026, 0.0055))

    return vertices, np.concatenate([body[1], ring[1] + len(body[0])]), uv, distance, 0.08


def _box() -> Shape:
    """A box of 60 x 90 x 40 mm; each face has its own part of the texture."""
    half = np.array([30, 45, 20]) / 1000
    vertices, faces, uv = [], [], []
    for face in range(6):
        axis, sign = face // 2, 1.0 if face % 2 else -1.0
        u, v = (axis + 1) % 3, (axis + 2) % 3
        corners = np.zeros((4, 3))
        corners[:, axis] = sign * half[axis]
        corners[:, u] = half[u] * np.array([-1, 1, 1, -1]) * sign
        corners[:, v] = half[v] * np.array([-1, -1, 1, 1])
        faces += [[4 * face, 4 * face + 1, 4 * face + 2], [4 * face, 4 * face + 2, 4 * face + 3]]
        low = np.array([(face % 3) / 3, (face // 3) / 2])
        uv.append(low + 0.02 + np.array([[1, 0], [0, 0], [0, 1], [1, 1]]) * [0.3, 0.45])
        vertices.append(corners)

    def distance(points: Tensor) -> Tensor:
        beyond = points.abs() - torch.as_tensor(half).to(points)
        outside = (beyond.clamp_min(0).square().sum(dim=-1) + 1e-20).sqrt()
        return outside + beyond.amax(dim=-1).clamp_max(0)

    return np.concatenate(vertices), np.array(faces), np.concatenate(uv), distance, 0.04


def _case() -> Shape:
    """A box of 60 x 46 x 28 mm with round edges, as the case of earbuds: the points at CASE_RADIUS_M from a smaller box."""
    inner = np.array([30, 23, 14]) / 1000 - CASE_RADIUS_M
    polar = (np.arange(CASE_STEPS) + 0.5) * np.pi / CASE_STEPS
    angle = (np.arange(2 * CASE_STEPS + 1) + 0.5) * np.pi / CASE_STEPS  # the last column repeats the first, with its own uv
    around = np.stack([np.cos(angle), np.zeros_like(angle), np.sin(angle)], axis=1)
    normals = np.sin(polar)[:, None, None] * around + np.cos(polar)[:, None, None] * np.array([0.0, 1.0, 0.0])
    grid = inner * np.sign(normals) + CASE_RADIUS_M * normals
    ends = (inner + CASE_RADIUS_M) * np.array([[0, 1, 0], [0, -1, 0]])
    n = len(angle)
    faces = [f for a in range((CASE_STEPS - 1) * n) if (a + 1) % n for f in ([a, a + 1, a + n], [a + 1, a + n + 1, a + n])]
    top, bottom, last = CASE_STEPS * n, CASE_STEPS * n + 1, (CASE_STEPS - 1) * n
    faces += [[top, a + 1, a] for a in range(n - 1)] + [[bottom, last + a, last + a + 1] for a in range(n - 1)]
    uv = np.stack(np.broadcast_arrays(angle / angle[-1], polar[:, None] / np.pi), axis=-1).reshape(-1, 2)

    def distance(points: Tensor) -> Tensor:
        beyond = points.abs() - torch.as_tensor(inner).to(points)
        outside = (beyond.clamp_min(0).square().sum(dim=-1) + 1e-20).sqrt()
        return outside + beyond.amax(dim=-1).clamp_max(0) - CASE_RADIUS_M

    return np.concatenate([grid.reshape(-1, 3), ends]), np.array(faces), np.concatenate([uv, [[0.5, 0], [0.5, 1]]]), distance, 0.028


SHAPES: dict[str, Callable[[], Shape]] = {"can": _can, "box": _box, "mug": _mug, "bottle": _bottle, "case": _case}
OBJECTS = {
    "can": ("can", "label"),
    "box": ("box", "label"),
    "mug": ("mug", "label"),
    "bottle": ("bottle", "label"),
    "case": ("case", "label"),
    "can_plain": ("can", "plain"),
    "box_plain": ("box", "plain"),
    "case_plain": ("case", "plain"),
    "box_repeat": ("box", "repeat"),
    "can_symmetric": ("can", "bands"),
}


def revolve(profile_m: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, outward faces and uv of a profile (P, 2) of (radius, y), from the axis below to the axis above, rotated about y.

    v runs along the profile, u around; corners sharper than SHARP_DEG have one ring per side.
    """
    steps = np.diff(profile_m, axis=0)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(steps, axis=1))])
    direction = np.degrees(np.arctan2(steps[:, 1], steps[:, 0]))
    rows: list[tuple[int, int]] = []  # profile point, smooth piece
    piece = 0
    for i in range(len(profile_m)):
        rows.append((i, piece))
        if 0 < i < len(steps) and abs((direction[i] - direction[i - 1] + 180) % 360 - 180) > SHARP_DEG:
            piece += 1
            rows.append((i, piece))
    angle = np.linspace(0, 2 * np.pi, SIDES + 1)
    points = profile_m[[i for i, _ in rows]]
    rings = np.stack([points[:, :1] * np.cos(angle), np.repeat(points[:, 1:], SIDES + 1, axis=1), points[:, :1] * np.sin(angle)], axis=-1)
    v = (along[[i for i, _ in rows]] / along[-1])[:, None].repeat(SIDES + 1, axis=1)
    uv = np.stack([np.broadcast_to(1 - angle / (2 * np.pi), v.shape), 1 - v], axis=-1)
    faces = [
        face
        for row, ((_, one), (_, other)) in enumerate(pairwise(rows))
        if one == other
        for a in range(row * (SIDES + 1), row * (SIDES + 1) + SIDES)
        for face in ([a, a + SIDES + 1, a + 1], [a + 1, a + SIDES + 1, a + SIDES + 2])
    ]
    corners = rings.reshape(-1, 3)[np.array(faces)]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    return rings.reshape(-1, 3), np.array(faces)[area > 1e-12], uv.reshape(-1, 2)


def revolved_distance(profile_m: np.ndarray) -> Distance:
    """Signed distance to the solid of a profile, by that to its polygon in the half-plane of radius and y."""
    a, b = torch.from_numpy(profile_m[:-1]), torch.from_numpy(profile_m[1:])

    def distance(points: Tensor) -> Tensor:
        radius = (points[..., 0].square() + points[..., 2].square() + 1e-20).sqrt()
        p = torch.stack([radius, points[..., 1]], dim=-1)[..., None, :]
        start, way = a.to(points), (b - a).to(points)
        t = ((p - start) * way).sum(dim=-1) / way.square().sum(dim=-1)
        gap = p - start - t.clamp(0, 1)[..., None] * way
        nearest = (gap.square().sum(dim=-1).amin(dim=-1) + 1e-20).sqrt()
        # even-odd rule: number of crossings of the profile by the outward ray at constant y
        y, x = p[..., 1], p[..., 0]
        spans = (start[:, 1] > y) != (start[:, 1] + way[:, 1] > y)
        crossing = start[:, 0] + (y - start[:, 1]) / torch.where(way[:, 1] == 0, 1.0, way[:, 1]) * way[:, 0]
        inside = (spans & (crossing > x)).sum(dim=-1) % 2 == 1
        return torch.where(inside, -nearest, nearest)

    return distance


def _half_ring(centre: np.ndarray, radius: float, tube: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A tube along the half circle of `radius` towards +x in the plane z = 0, closed at both ends."""
    bend, around = np.linspace(-np.pi / 2, np.pi / 2, 33), np.linspace(0, 2 * np.pi, 17)
    out = np.stack([np.cos(bend), np.sin(bend), np.zeros_like(bend)], axis=1)[:, None]
    rings = centre + out * (radius + tube * np.cos(around)[None, :, None]) + np.array([0, 0, 1]) * tube * np.sin(around)[None, :, None]
    ends = centre + out[[0, -1], 0] * radius
    n = len(around)
    faces = [f for i in range(32) for a in range(i * n, i * n + n - 1) for f in ([a, a + n, a + 1], [a + 1, a + n, a + n + 1])]
    first, last = len(bend) * n, len(bend) * n + 1
    faces += [[first, a, a + 1] for a in range(n - 1)] + [[last, a + 1, a] for a in range(32 * n, 33 * n - 1)]
    vertices = np.concatenate([rings.reshape(-1, 3), ends])
    uv = np.stack(np.meshgrid(np.linspace(0, 0.2, n), np.linspace(0, 1, len(bend))), axis=-1).reshape(-1, 2)
    return vertices, np.array(faces), np.concatenate([uv, [[0.1, 0.0], [0.1, 1.0]]])


def _half_ring_distance(points: Tensor, centre: tuple[float, float, float], radius: float, tube: float) -> Tensor:
    p = points - torch.tensor(centre).to(points)
    planar = (p[..., 0].square() + p[..., 1].square() + 1e-20).sqrt()
    on_arc = ((planar - radius).square() + p[..., 2].square() + 1e-20).sqrt()
    at_end = (p[..., 0].square() + (p[..., 1].abs() - radius).square() + p[..., 2].square() + 1e-20).sqrt()
    return torch.where(p[..., 0] >= 0, on_arc, at_end) - tube
