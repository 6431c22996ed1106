"""The similarity transform that structure from motion leaves free: frame and unit of the object's poses."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from holdprep.geometry.rigid import invert

_SOFT_RAD = np.radians(0.1)  # smaller errors are squared, larger ones linear: L1 without its singularity
_SOFT_SHARE = 1e-3  # of the cameras' distance from the object
_MEDIAN_LENGTH = 1.538  # of a vector of three standard normal variables
_ITERATIONS = 50


@dataclass(frozen=True)
class Gauge:
    """Similarity transform: a point x (m) of the true object frame is the point scale R x + origin of the estimated one.

    `R` (3, 3); `origin` (3,) and `scale` in the estimate's unit (per metre); `scale_sd` is the standard error of `scale` relative to it,
    infinite where the camera positions do not determine it.
    """

    R: np.ndarray
    origin: np.ndarray
    scale: float
    scale_sd: float


def rotation_gauge(R_estimate: np.ndarray, R_true: np.ndarray) -> np.ndarray:
    """The rotation R (3, 3) that minimises the sum of angles between R_estimate[t] R and R_true[t], both (T, 3, 3).

    L1 rotation averaging by Weiszfeld's steps in the tangent space (Hartley et al., CVPR 2011), starting from the frame that most others
    agree with: up to half of the frames may be arbitrarily wrong.
    """
    each = np.swapaxes(R_estimate, 1, 2) @ R_true
    some = each[np.linspace(0, len(each) - 1, min(len(each), 500)).astype(int)]
    traces = some.reshape(-1, 9) @ some.reshape(-1, 9).T
    R = some[np.median(np.arccos(np.clip((traces - 1) / 2, -1, 1)), axis=1).argmin()]
    for _ in range(_ITERATIONS):
        steps = Rotation.from_matrix(R.T @ each).as_rotvec()
        weight = 1 / np.maximum(np.linalg.norm(steps, axis=1), _SOFT_RAD)
        R = R @ Rotation.from_rotvec(weight @ steps / weight.sum()).as_matrix()
    return R


def fit_gauge(T_estimate: np.ndarray, T_true: np.ndarray, fixed_scale: float | None = None) -> Gauge:
    """The similarity between two trajectories T_cam_obj (T, 4, 4) of one object, all frames known.

    After the rotation, scale and origin are those that take the true camera centres in the object's frame to the estimated ones:
    Umeyama (PAMI 1991) with known rotation, as trajectories are compared in SLAM (Sturm et al., IROS 2012), here with L1 weights.
    For a rotating object the centres lie on a part of a sphere around it; the larger this part, the better the scale is determined:
    `scale_sd` is the noise of a coordinate, by the median residual, over the root of the sum of squared distances from the mean.
    With `fixed_scale` only the origin is fitted.
    """
    R = rotation_gauge(T_estimate[:, :3, :3], T_true[:, :3, :3])
    estimate, true = invert(T_estimate)[:, :3, 3], invert(T_true)[:, :3, 3] @ R.T
    weight = np.ones(len(true))
    scale, sd = fixed_scale or 1.0, np.inf
    for _ in range(_ITERATIONS):
        share = weight[:, None] / weight.sum()
        a, b = (share * true).sum(axis=0), (share * estimate).sum(axis=0)
        variation = (weight * ((true - a) ** 2).sum(axis=1)).sum()
        if fixed_scale is None and variation > 0:
            scale = float((weight * ((true - a) * (estimate - b)).sum(axis=1)).sum() / variation)
        origin = b - scale * a
        residual = np.linalg.norm(estimate - scale * true - origin, axis=1)
        weight = 1 / np.maximum(residual, _SOFT_SHARE * np.linalg.norm(estimate - origin, axis=1).mean())
    total = ((true - true.mean(axis=0)) ** 2).sum()
    if fixed_scale is None and len(true) > 2 and total > 0 and scale > 0:
        sd = float(np.median(residual)) / _MEDIAN_LENGTH / float(np.sqrt(total)) / scale
    return Gauge(R, origin, scale, sd)


def camera_motion(T_true: np.ndarray) -> float:
    """RMS motion of the camera relative to the object, by its distance, over frames T_cam_obj (T, 4, 4)."""
    centres = invert(T_true)[:, :3, 3]
    return float(np.sqrt(((centres - centres.mean(axis=0)) ** 2).sum(axis=1).mean()) / np.linalg.norm(centres, axis=1).mean())
