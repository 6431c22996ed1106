"""The convex hull of an object by its support function: how far it reaches in each direction.

h(n) = max over the object's points p of n . p, for unit vectors n. It is that of a superellipsoid, the dual norm of which is closed (boxes,
cylinders, ellipsoids, and what lies between; Barr 1981, Schneider 2014, section 1.7), plus a smooth deviation. Its gradient is the point
where the plane with normal n touches the object.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import roma
import torch
from torch import Tensor
from torch.func import grad, jacfwd
from torch.nn.functional import softplus

NUM_BASE = 11  # log sizes 3, exponents 2, rotation 3, centre 3
NUM_CENTRES = 128  # of the deviation's kernels, evenly spread over the sphere
KERNEL_RAD = 0.35  # correlation length of the deviation
EXPONENT_MEAN, EXPONENT_SD = -1.0, 1.5  # of the exponents' unknowns: between a box and a cylinder
CENTRE_SD_M = 0.03  # of the centre about its predicted place in the hand: little rotation does not separate size and distance
OBLONG_SD = 0.7  # of the logarithms of the half axes about their mean: little rotation does not show the extent along the line of sight
_ROUND = 1e-3  # of a unit normal: edges and corners are rounded off by this, so that derivatives exist
_JITTER = 1e-6


@dataclass(frozen=True)
class Support:
    """At P directions: `value` (P,) m, touching `point` (P, 3) m, and `jacobian` (P, NUM_BASE + K) of the value by the shape's unknowns."""

    value: Tensor
    point: Tensor
    jacobian: Tensor


@dataclass(frozen=True)
class SupportShape:
    """A support function in the object's frame, float64.

    `log_size` (3,): logarithms of the half axes (m); `exponents` (2,): the dual norm's exponents are 1 + softplus of these, that of the
    first two axes last (1: edges, 2: round); `R_obj_shape` (3, 3); `centre` (3,) m; `deviation` (K,) m: coefficients of kernels
    exp((cos angle - 1) / KERNEL_RAD^2), K = 0 without.
    """

    log_size: Tensor
    exponents: Tensor
    R_obj_shape: Tensor
    centre: Tensor
    deviation: Tensor

    @staticmethod
    def ball(radius_m: float, R_obj_shape: np.ndarray, exponents: tuple[float, float]) -> "SupportShape":
        """A shape with three equal half axes and no deviation."""
        size = torch.full((3,), float(np.log(radius_m)), dtype=torch.float64)
        zero = torch.zeros(3, dtype=torch.float64)
        return SupportShape(size, torch.tensor(exponents).double(), torch.as_tensor(R_obj_shape), zero, zero[:0])

    def deviating(self) -> "SupportShape":
        """The same shape with a deviation of zero to be estimated."""
        return replace(self, deviation=torch.zeros(NUM_CENTRES, dtype=torch.float64))

    @property
    def size(self) -> int:
        """The number of unknowns."""
        return NUM_BASE + len(self.deviation)

    @property
    def mean_size_m(self) -> float:
        """Mean of the half axes."""
        return float(self.log_size.exp().mean())

    def at(self, normals: Tensor) -> Support:
        """The support function in directions (P, 3) of unit length."""
        local = normals @ self.R_obj_shape
        value = _superellipsoid(local, self.log_size, self.exponents)
        slope = grad(lambda n: _superellipsoid(n, self.log_size, self.exponents).sum())(local) @ self.R_obj_shape.T
        by_size, by_exponent = jacfwd(_superellipsoid, argnums=(1, 2))(local, self.log_size, self.exponents)
        rows = [by_size, by_exponent, torch.linalg.cross(slope, normals), normals]
        value, slope = value + normals @ self.centre, slope + self.centre
        if len(self.deviation):
            kernels = _kernels(normals)
            added = kernels @ self.deviation
            along = (kernels * self.deviation) @ _centres() / KERNEL_RAD**2
            along = along - (along * normals).sum(dim=-1, keepdim=True) * normals
            value, slope = value + added, slope + added[:, None] * normals + along
            rows.append(kernels)
        return Support(value, slope, torch.cat(rows, dim=-1))

    def value(self, normals: Tensor) -> Tensor:
        """(P,) the support function alone, in directions (P, 3)."""
        found = _superellipsoid(normals @ self.R_obj_shape, self.log_size, self.exponents) + normals @ self.centre
        return found + _kernels(normals) @ self.deviation if len(self.deviation) else found

    def moved(self, step: Tensor) -> "SupportShape":
        """The shape after a step (NUM_BASE + K,) of its unknowns; the rotation's is about the axes of the object's frame."""
        return SupportShape(
            self.log_size + step[:3],
            self.exponents + step[3:5],
            roma.rotvec_to_rotmat(step[5:8]) @ self.R_obj_shape,
            self.centre + step[8:11],
            self.deviation + step[NUM_BASE:],
        )

    def prior(self, deviation_share: float) -> tuple[float, Tensor, Tensor]:
        """Half the squared departure from the prior in standard deviations, its matrix and gradient.

        The half axes are alike, and the centre is near the frame's origin. The deviation is a Gaussian process with a standard deviation of
        `deviation_share` of the mean half axis.
        """
        matrix = torch.zeros(self.size, self.size, dtype=torch.float64)
        matrix[:3, :3] = (torch.eye(3) - 1 / 3) / OBLONG_SD**2
        matrix[3:5, 3:5] = torch.eye(2) / EXPONENT_SD**2
        matrix[8:11, 8:11] = torch.eye(3) / CENTRE_SD_M**2
        if len(self.deviation):
            covariance = _kernels(_centres()) + _JITTER * torch.eye(NUM_CENTRES)
            matrix[NUM_BASE:, NUM_BASE:] = covariance / (deviation_share * self.mean_size_m) ** 2
        departure = torch.cat([self.log_size, self.exponents - EXPONENT_MEAN, torch.zeros(3), self.centre, self.deviation])
        gradient = matrix @ departure
        return 0.5 * float(departure @ gradient), matrix, gradient

    def distance(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """(N,) largest signed distance (m) of points (N, 3) to the tangent planes with `normals` (P, 3); negative inside."""
        offsets = self.value(torch.as_tensor(normals)).numpy().astype(np.float32)
        directions = normals.T.astype(np.float32)
        parts = [
            (part.astype(np.float32) @ directions - offsets).max(axis=1) for part in np.array_split(points, max(1, len(points) // 4096))
        ]
        return np.concatenate(parts)


def sphere_points(number: int) -> np.ndarray:
    """(number, 3) unit vectors, evenly spread over the sphere by the golden angle (Fibonacci lattice)."""
    i = np.arange(number) + 0.5
    z = 1 - 2 * i / number
    angle = np.pi * (1 + np.sqrt(5)) * i
    return np.stack([np.sqrt(1 - z * z) * np.cos(angle), np.sqrt(1 - z * z) * np.sin(angle), z], axis=1)


def _superellipsoid(n: Tensor, log_size: Tensor, exponents: Tensor) -> Tensor:
    """(P,) support function of a superellipsoid about its axes, for directions (P, 3)."""
    x, y, z = ((n.square() + _ROUND**2).sqrt() * log_size.exp()).unbind(-1)
    outer, inner = 1 + softplus(exponents)
    across = (x**inner + y**inner) ** (1 / inner)
    return (across**outer + z**outer) ** (1 / outer)


@lru_cache(maxsize=1)
def _centres() -> Tensor:
    return torch.as_tensor(sphere_points(NUM_CENTRES))


def _kernels(normals: Tensor) -> Tensor:
    """(P, K) values of the deviation's kernels."""
    return torch.exp((normals @ _centres().T - 1) / KERNEL_RAD**2)
