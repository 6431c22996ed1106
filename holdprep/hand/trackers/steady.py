"""Smoothing of keypoints in time, with earlier and later frames, without lag."""

import numpy as np
from scipy.linalg import solveh_banded

from holdprep.geometry.noise import second_difference_variances

ROUNDS = 4  # of reweighting
NU = 4.0  # of Student's t, by which sudden motion is distinguished from noise
MIN_MOTION = 0.1  # lower bound of the accelerations' standard deviation, as a fraction of the noise's
MISSING_WEIGHT = 1e-12  # of a frame without a measurement


def smooth(points: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Points (T, J, C) smoothed in time; NaN stays NaN. `sigma` (T, J) is the relative standard deviation of the noise, in any unit.

    For each joint, the squared residuals by the noise's variance plus the squared second differences by the motion's variance are minimised
    (Whittaker 1923), with Student's t for the few large second differences of sudden motion. Both variances are estimated from the points,
    see `second_difference_variances`. A path without noise is not changed.
    """
    out = points.copy()
    seen = np.isfinite(points).all(axis=2)
    for joint in range(points.shape[1]):
        own = seen[:, joint]
        noise, motion = _variances(points[:, joint])
        if noise > 0:
            relative = np.where(own, sigma[:, joint], 1.0) ** 2 / np.mean(sigma[own, joint] ** 2)
            weight = np.where(own, 1 / (noise * relative), MISSING_WEIGHT)
            out[own, joint] = _smooth_one(np.nan_to_num(points[:, joint]), weight, motion)[own]
    return out


def _variances(path: np.ndarray) -> tuple[float, float]:
    """Variances of the noise and of the motion's second differences, for a path (T, C) with gaps; (0, 0) with too few frames."""
    estimate = second_difference_variances(np.diff(path, 2, axis=0), clip_axes=None)
    if estimate is None:
        return 0.0, 0.0
    noise, total = (float(x) for x in estimate)
    noise = min(noise, total / 6)
    return noise, max(total - 6 * noise, MIN_MOTION**2 * noise)


def _smooth_one(y: np.ndarray, weight: np.ndarray, motion: float) -> np.ndarray:
    """Smoothed path (T, C) of measurements (T, C)."""
    stiffness = np.full(len(y) - 2, 1 / motion)
    x = y
    for _ in range(ROUNDS):
        x = _solve(weight, stiffness, y)
        bend = (np.diff(x, 2, axis=0) ** 2).mean(axis=1)
        stiffness = (NU + 1) / (NU + bend / motion) / motion
    return x


def _solve(weight: np.ndarray, stiffness: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Minimiser of sum weight (x - y)^2 + sum stiffness (x[t-1] - 2 x[t] + x[t+1])^2: a symmetric system of five diagonals."""
    bands = np.zeros((3, len(y)))  # lower form: diagonal, first and second below it
    bands[0] = weight
    for a, ca in enumerate((1.0, -2.0, 1.0)):
        for b, cb in enumerate((1.0, -2.0, 1.0)):
            if a >= b:
                bands[a - b, b : b + len(stiffness)] += ca * cb * stiffness
    return np.asarray(solveh_banded(bands, weight[:, None] * y, lower=True))
