"""Rigid transforms as (..., 4, 4) matrices; `T_a_b` takes points of frame b to frame a.

torch is imported where a function uses it: it takes 250 MB and two seconds, and the child processes of COLMAP need numpy alone.
"""

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

if TYPE_CHECKING:
    from torch import Tensor


def from_rt(R: np.ndarray, t: np.ndarray) -> np.ndarray:
    """(..., 4, 4) from rotations (..., 3, 3) and translations (..., 3)."""
    T = np.zeros((*np.broadcast_shapes(R.shape[:-2], t.shape[:-1]), 4, 4))
    T[..., :3, :3], T[..., :3, 3], T[..., 3, 3] = R, t, 1.0
    return T


def invert(T: np.ndarray) -> np.ndarray:
    """The inverse of rigid transforms (..., 4, 4)."""
    Rt = np.swapaxes(T[..., :3, :3], -1, -2)
    return from_rt(Rt, -(Rt @ T[..., :3, 3:])[..., 0])


def apply(T: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., N, 3) transformed by T (..., 4, 4)."""
    return points @ np.swapaxes(T[..., :3, :3], -1, -2) + T[..., None, :3, 3]


def rotation_angle_deg(R_a: np.ndarray, R_b: np.ndarray) -> np.ndarray:
    """Geodesic angle in degrees between rotations (..., 3, 3)."""
    R = np.swapaxes(R_a, -1, -2) @ R_b
    return np.degrees(Rotation.from_matrix(R.reshape(-1, 3, 3)).magnitude()).reshape(R.shape[:-2])


def skew(v: "Tensor") -> "Tensor":
    """(..., 3, 3) cross product matrices of v (..., 3)."""
    import torch

    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def interpolate_rotations(R: np.ndarray, known: np.ndarray) -> np.ndarray:
    """SLERP over the frames where `known` (T,) is false; constant at the ends. R is (T, 3, 3); raises ValueError if none is known."""
    at = np.flatnonzero(known)
    if len(at) == 0:
        raise ValueError("no known rotation to interpolate from")
    if len(at) == 1:
        return np.repeat(R[at], len(R), axis=0)
    frames = np.clip(np.arange(len(R)), at[0], at[-1])
    return Slerp(at, Rotation.from_matrix(R[at]))(frames).as_matrix()


def interpolate_linear(x: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Linear interpolation over time of (T, D) where `known` is false; constant at the ends. Raises ValueError if none is known."""
    at = np.flatnonzero(known)
    if len(at) == 0:
        raise ValueError("no known value to interpolate from")
    return np.stack([np.interp(np.arange(len(x)), at, x[at, d]) for d in range(x.shape[1])], axis=1)


def departure(rotations: "Tensor", reference: "Tensor") -> "Tensor":
    """Rotation vectors (..., 3) rad from `reference` (..., 3, 3) to `rotations`, about the axes of the frame into which these rotate."""
    import roma

    return roma.rotmat_to_rotvec(rotations @ reference.transpose(-1, -2))
