"""The first shape and poses from silhouettes: the object's place in the hand, several initial shapes, and the noise of the lines.

A wrong shape explains silhouettes badly. As long as it does, the lines count as noisy, and the poses stay near the hand's motion.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from holdprep.geometry.cameras import rays
from holdprep.geometry.rigid import from_rt, interpolate_linear, interpolate_rotations, invert
from holdprep.object.silhouette_fit import Noise, SilhouetteProblem, minimise
from holdprep.object.support_lines import DIRECTIONS, SupportLines
from holdprep.object.support_shape import SupportShape

MIN_LINES = 9  # exact support lines of a frame whose pose silhouettes correct: six unknowns, and some to spare
FRAMES = 24  # of the clip, from which the first shape is found
START_ITERATIONS = 10
START_NOISE = Noise(line_px=4.0, outlier_px=30.0, rotation_rad=float(np.radians(5)), step_rotation_rad=float(np.radians(0.5)))
AXES = np.array([(0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1)], float)  # of the shape's third axis
EXPONENTS = ((-1.5, -1.5), (-1.5, 1.5))  # box-like, and round about the third axis
CONTINUED, ALIKE = 3, 0.02  # starts that are continued; relative difference of costs below which two are the same shape with permuted axes
ROUNDS = 4  # of estimating the noise of the lines from their residuals
NOISE_FACTOR = 2.0  # lines of one frame share their error: neighbours touch the object at the same place
MAX_NOISE_PX = 8.0
PALM_PULL = 0.01  # of a ray's weight, towards the palm, in the estimate of the object's place in the hand


@dataclass(frozen=True)
class FirstFit:
    """A shape, poses of every frame (T, 4, 4), and the standard deviation of support lines that the shape leaves."""

    shape: SupportShape
    T_cam_obj: np.ndarray
    line_px: float


def place_in_hand(lines: SupportLines, T_cam_palm: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, float]:
    """The predicted poses (T, 4, 4) of an object held at one place in the palm, and its radius (m).

    The place is the point nearest to the rays through the masks' centres, the radius that of the masks' mean width.
    """
    known = np.isfinite(lines.object_px).all(axis=1)
    px, T = lines.object_px[known], T_cam_palm[known]
    centre_px = 2 * px @ DIRECTIONS / len(DIRECTIONS)
    ray = rays(centre_px, K)
    ray /= np.linalg.norm(ray, axis=1, keepdims=True)
    across = np.eye(3) - ray[:, :, None] * ray[:, None]
    R, t = T[:, :3, :3], T[:, :3, 3]
    matrix = np.swapaxes(R, 1, 2) @ across
    centre = np.linalg.solve((matrix @ R).mean(axis=0) + PALM_PULL * np.eye(3), -(matrix @ t[..., None])[..., 0].mean(axis=0))
    T_predicted = T_cam_palm @ from_rt(np.eye(3), centre)
    return T_predicted, float(np.median(px.mean(axis=1) * T_predicted[known, 2, 3]) / K[0, 0])


def first_fit(
    lines: SupportLines, T_predicted: np.ndarray, is_measured: np.ndarray, radius_m: float, K: np.ndarray, noise: Noise
) -> FirstFit:
    """The shape that explains the lines of some frames best: several initial axes and kinds, at nearly the predicted poses, of which the
    best are continued with free poses."""
    usable = np.flatnonzero(lines.is_exact.sum(axis=1) >= MIN_LINES)
    at = usable[np.unique(np.linspace(0, len(usable) - 1, FRAMES).round().astype(int))]
    stride = (at[-1] - at[0]) / (len(at) - 1)
    some, T_some, measured = lines.frames(at), T_predicted[at], is_measured[at]
    tried = []
    for axis in AXES:
        R = Rotation.align_vectors(axis[None], [[0, 0, 1]])[0].as_matrix()
        for exponents in EXPONENTS:
            shape = SupportShape.ball(radius_m, R, exponents).deviating()
            tried.append(minimise(SilhouetteProblem(some, K, T_some, measured, shape, START_NOISE.every(stride)), START_ITERATIONS))
    freed = [_annealed(start, noise.every(stride)) for start in _distinct(tried)]
    best = min(freed, key=lambda problem: (problem.noise.line_px, problem.now.total))
    return FirstFit(best.at.shape, T_predicted @ _filled(invert(T_some) @ best.T_cam_obj, at, len(T_predicted)), best.noise.line_px)


def _distinct(tried: list[SilhouetteProblem]) -> list[SilhouetteProblem]:
    """The problems of lowest cost, one of each shape."""
    found: list[SilhouetteProblem] = []
    for problem in sorted(tried, key=lambda problem: problem.now.total):
        if len(found) < CONTINUED and (not found or problem.now.total > (1 + ALIKE) * found[-1].now.total):
            found.append(problem)
    return found


def _annealed(problem: SilhouetteProblem, noise: Noise) -> SilhouetteProblem:
    """The problem with free poses; the noise of the lines follows from what the shape leaves of them."""
    for _ in range(ROUNDS):
        rms_px = float(np.sqrt(np.nanmean(np.square(problem.residuals_px()))))
        line_px = min(max(noise.line_px, NOISE_FACTOR * rms_px), MAX_NOISE_PX)
        problem = minimise(problem.continued(noise.with_lines(line_px)))
    return problem


def _filled(T: np.ndarray, at: np.ndarray, frames: int) -> np.ndarray:
    """(frames, 4, 4) transforms of every frame, interpolated between those (N, 4, 4) of the frames `at`."""
    known, full = np.zeros(frames, bool), np.tile(np.eye(4), (frames, 1, 1))
    known[at], full[at] = True, T
    return from_rt(interpolate_rotations(full[:, :3, :3], known), interpolate_linear(full[:, :3, 3], known))
