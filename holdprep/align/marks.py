"""Scale from marks: points of the object that were found in pictures, and measured distances between them.

A point that several frames see from different directions is triangulated from the object's poses; else it lies where its ray meets the
object's surface.
"""

from dataclasses import dataclass

import numpy as np
import torch

from holdprep.align.problem import Marks, Problem
from holdprep.align.surface import Kind, Surface
from holdprep.align.tracks import ScaleEstimate
from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project, projection_jacobian, rays

MIN_PARALLAX_DEG = 5.0  # between the rays of a point that is triangulated; from less, its depth is uncertain
RULER_M = 0.0005  # standard error of a measured distance
SURFACE_STD = 0.01  # standard error of the observed surface along its normal, as a fraction of the object's diameter
MOST_AWAY = 0.5  # largest distance of a point from the observed object, in its diameters
BESIDE = 0.12  # largest distance of a ray from the surface beside which it passes, in diameters; it adds to the error in depth
STEPS, BISECTIONS = 96, 20  # along a ray
ROUNDS = 15  # of Gauss-Newton's method
INDEPENDENT = 8  # frames that a long clip counts as: errors of the object's poses change slowly


def scale_by_marks(marks: Marks, problem: Problem, surface: Surface) -> ScaleEstimate:
    """Metres per unit of SfM, with the errors of pixels, surface and ruler; the spread over pairs of points is part of the error.

    Raises HoldprepError where a frame has no object pose, observations of a point disagree, or a point is not on the surface.
    """
    found = [_located(marks, number, problem, surface) for number in range(len(marks.labels))]
    at, covariance = np.stack([point.at for point in found]), np.stack([point.covariance for point in found])
    apart = at[marks.pairs[:, 0]] - at[marks.pairs[:, 1]]
    length = np.linalg.norm(apart, axis=1)
    if (length < 1e-6 * surface.diameter).any():
        first, second = (marks.labels[k] for k in marks.pairs[length.argmin()])
        raise HoldprepError(f"{marks.source}: points {first} and {second} coincide: click two points whose distance was measured")
    logs = np.log(marks.distance_m / length)
    gradient = apart / length[:, None] ** 2
    each = np.einsum("pa,pab,pb->p", gradient, covariance[marks.pairs].sum(axis=1), gradient)
    weight = 1 / each / (1 / each).sum()
    total = np.zeros_like(at)
    for sign, column in ((1, 0), (-1, 1)):
        np.add.at(total, marks.pairs[:, column], sign * weight[:, None] * gradient)
    pixels = np.einsum("na,nab,nb->", total, covariance, total)
    ruler = RULER_M / marks.distance_m.min()
    figures = {
        "residual_px": float(np.sqrt(np.mean([np.square(point.residual_px).mean() for point in found]))),
        "frames": float(len(np.unique(marks.frame))),
    }
    stderr = float(np.sqrt(pixels + np.var(logs) + ruler**2))
    return ScaleEstimate(marks.name, float(np.exp(weight @ logs)), stderr, figures=figures)


@dataclass(frozen=True)
class Point:
    """A point of the object at `at` (3,) in the cloud's frame and unit, its `covariance` (3, 3), and `residual_px` (M,) of its observations."""

    at: np.ndarray
    covariance: np.ndarray
    residual_px: np.ndarray


def _located(marks: Marks, number: int, problem: Problem, surface: Surface) -> Point:
    rows = np.flatnonzero(marks.point == number)
    where, frames, px = f"{marks.source}: point {marks.labels[number]}", marks.frame[rows], marks.px[rows]
    lost = frames[problem.obj_weight.numpy()[frames] <= 0]
    if len(lost):
        raise HoldprepError(f"{where} is in frame {marks.frame_names[lost[0]]}, which has no measured object pose: use another frame")
    K, T = problem.K.numpy(), problem.T_cam_obj.numpy()[frames]
    if parallax_deg(K, T, px) < MIN_PARALLAX_DEG:
        return _on_surface(surface, K, T, px, marks.stderr_px, where)
    at, residual_px = triangulated(K, T, px)
    worst = int(residual_px.argmax())
    if not residual_px[worst] <= marks.most_px:
        raise HoldprepError(
            f"{where} is {residual_px[worst]:.0f} px (at most {marks.most_px:.0f}) from where the object's poses put it in frame "
            f"{marks.frame_names[frames[worst]]}: take the same point of the object in all {len(rows)} frames, or check object_pose"
        )
    away = float(surface.distance(at)) / surface.diameter
    if away > MOST_AWAY:
        raise HoldprepError(f"{where} is {away:.1f} diameters of the object away from it: take a point that is fixed on the object")
    return Point(at, point_covariance(K, T, at, residual_px, marks.stderr_px), residual_px)


def rays_obj(K: np.ndarray, T_cam_obj: np.ndarray, px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Camera centres (M, 3) and directions (M, 3) of unit length of the rays of pixels (M, 2) in the object's frame, from poses (M, 4, 4)."""
    R, t = T_cam_obj[:, :3, :3], T_cam_obj[:, :3, 3]
    ray = rays(px, K)
    direction = np.einsum("mba,mb->ma", R, ray)
    return -np.einsum("mba,mb->ma", R, t), direction / np.linalg.norm(direction, axis=1, keepdims=True)


def parallax_deg(K: np.ndarray, T_cam_obj: np.ndarray, px: np.ndarray) -> float:
    """Largest angle between the rays of pixels (M, 2) in the object's frame, degrees."""
    _, direction = rays_obj(K, T_cam_obj, px)
    return float(np.degrees(np.arccos(np.clip(direction @ direction.T, -1, 1)).max()))


def triangulated(K: np.ndarray, T_cam_obj: np.ndarray, px: np.ndarray, width_px: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The point (3,) with the least squared reprojection error from poses (M, 4, 4), and the norms (M,) of its residuals, px.

    Gauss-Newton's method from the point nearest to all rays; with `width_px` the squares are Geman-McClure's, so that frames with another
    position have little weight.
    """
    centre, direction = rays_obj(K, T_cam_obj, px)
    across = np.eye(3) - direction[:, :, None] * direction[:, None]
    at = np.linalg.lstsq(across.sum(axis=0), np.einsum("mab,mb->a", across, centre), rcond=None)[0]
    for _ in range(ROUNDS):
        residual, J = _reprojection(K, T_cam_obj, at, px)
        weight = np.ones(len(px)) if width_px is None else (1 + np.square(residual).sum(axis=1) / width_px**2) ** -2
        normal = np.einsum("m,mra,mrb->ab", weight, J, J)
        at = at - np.linalg.lstsq(normal, np.einsum("m,mra,mr->a", weight, J, residual), rcond=None)[0]
    return at, np.linalg.norm(_reprojection(K, T_cam_obj, at, px)[0], axis=1)


def point_covariance(K: np.ndarray, T_cam_obj: np.ndarray, at: np.ndarray, residual_px: np.ndarray, stderr_px: float) -> np.ndarray:
    """(3, 3) of a triangulated point; pixels have the larger of the stated error and that of the residuals (M,), of INDEPENDENT frames at most."""
    count = len(residual_px)
    variance = max(stderr_px**2, float(np.square(residual_px).sum()) / max(2 * count - 3, 1))
    _, J = _reprojection(K, T_cam_obj, at, np.zeros((count, 2)))
    return np.asarray(np.linalg.inv(np.einsum("mra,mrb->ab", J, J)) * variance * max(1.0, count / INDEPENDENT))


def _reprojection(K: np.ndarray, T_cam_obj: np.ndarray, at: np.ndarray, px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Residuals (M, 2) px of a point (3,), and their derivatives (M, 2, 3)."""
    seen = T_cam_obj[:, :3, :3] @ at + T_cam_obj[:, :3, 3]
    projected = project(seen[:, None], K)[:, 0]
    return projected - px, projection_jacobian(torch.as_tensor(seen), torch.as_tensor(K)).numpy() @ T_cam_obj[:, :3, :3]


def _on_surface(surface: Surface, K: np.ndarray, T_cam_obj: np.ndarray, px: np.ndarray, stderr_px: float, where: str) -> Point:
    """Mean of the points where rays of nearly the same direction meet the observed surface."""
    centre, direction = rays_obj(K, T_cam_obj, px)
    at = _met(surface, centre, direction)
    beside = surface.distance(at).clip(0)
    if not (beside < BESIDE * surface.diameter).all():
        raise HoldprepError(f"{where} is beside the object's surface: click on the object, or click the point in a second frame")
    if (surface.kind(at) != Kind.OBSERVED).any():
        raise HoldprepError(
            f"{where} is where the object's surface was not observed: click the point in a second frame, after some rotation"
        )
    normal = surface.gradient(at)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-9)
    facing = np.einsum("ma,ma->m", normal, direction)
    facing = np.minimum(facing, -0.1)  # a grazing ray: its point is uncertain, not infinitely far away
    pixel = stderr_px * np.linalg.norm(at - centre, axis=1) / K[0, 0]
    slide = np.eye(3) - direction[:, :, None] * normal[:, None] / facing[:, None, None]
    along = direction * (SURFACE_STD * surface.diameter / -facing + beside)[:, None]
    covariance = pixel[:, None, None] ** 2 * slide @ np.swapaxes(slide, 1, 2) / len(px) + along[:, :, None] * along[:, None]
    mean = at.mean(axis=0)
    return Point(mean, covariance.mean(axis=0), np.linalg.norm(_reprojection(K, T_cam_obj, mean, px)[0], axis=1))


def _met(surface: Surface, centre: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """(M, 3) where rays enter the surface, or, beside it, where they are nearest to it: a cloud seldom reaches an object's edges."""
    middle = np.einsum("ma,ma->m", surface.points.mean(axis=0) - centre, direction)
    along = middle[:, None] + surface.diameter * np.linspace(-0.75, 0.75, STEPS)
    distance = surface.distance(centre[:, None] + along[..., None] * direction[:, None])
    rows, is_in = np.arange(len(along)), distance < 0
    first = np.where(is_in.any(axis=1), is_in.argmax(axis=1), distance.argmin(axis=1))
    inside, outside = along[rows, first], along[rows, np.maximum(first - 1, 0)]
    for _ in range(BISECTIONS):
        half = (inside + outside) / 2
        deeper = surface.distance(centre + half[:, None] * direction) < 0
        inside, outside = np.where(deeper, half, inside), np.where(deeper, outside, half)
    found = np.where(is_in.any(axis=1), inside, along[rows, first])
    return np.asarray(centre + found[:, None] * direction)
