"""Covariance of a bundle adjustment's poses, focal length and distortion, with the errors of a point correlated between frames.

The points are eliminated (Schur complement). The estimate is a sandwich over points: each point's gradient is one independent draw, so
that a feature which is not fixed on the surface, or a wrong match that repeats, counts once and not once a frame (White 1980; Liang and
Zeger 1986). What the images cannot determine, the object's frame and unit, has no variance: the covariance is the smallest one (inner
constraints).
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from holdprep.geometry.rigid import apply

_MAX_FRAMES = 400  # longer videos are estimated in several parts, each of evenly spaced frames, which bounds the memory
_POINTS_AT_ONCE = 1000  # whose influence on all parameters is held: for 300 frames and 8000 points it would be 120 MB
_DAMPING = 1e-9  # relative, of a point's information: points at infinity


@dataclass(frozen=True)
class Observed:
    """M observations `px` (M, 2) of points `point` (M,) out of (N, 3) in frames `frame` (M,) out of T, by one camera."""

    T_cam_obj: np.ndarray
    points_obj: np.ndarray
    frame: np.ndarray
    point: np.ndarray
    px: np.ndarray
    focal_px: float
    principal_px: tuple[float, float]
    k: float


@dataclass(frozen=True)
class Uncertainty:
    """Standard errors of the camera, and covariances (T, 6, 6) of the poses; NaN in frames without observations.

    A pose's six parameters are a small rotation (rad, axes of the camera) and a translation (unit of the points) that follow the pose.
    """

    poses: np.ndarray
    focal_px: float
    k: float


def estimate(seen: Observed, *, refine_focal: bool, refine_k: bool) -> Uncertainty:
    """The uncertainty of an adjustment of all poses and points, and of the focal length and distortion if refined (else NaN)."""
    frames = len(seen.T_cam_obj)
    parts = -(-frames // _MAX_FRAMES)
    found = [_estimate(_of_frames(seen, np.arange(i, frames, parts)), refine_focal, refine_k) for i in range(parts)]
    poses = np.empty((frames, 6, 6))
    for i, part in enumerate(found):
        poses[i::parts] = part.poses
    return replace(found[0], poses=poses)


def _of_frames(seen: Observed, frames: np.ndarray) -> Observed:
    """The observations in some frames, of the points that two of them show."""
    kept = np.isin(seen.frame, frames)
    count = np.bincount(seen.point[kept], minlength=len(seen.points_obj))
    kept &= count[seen.point] >= 2
    points, point = np.unique(seen.point[kept], return_inverse=True)
    frame = np.searchsorted(frames, seen.frame[kept])
    return replace(seen, T_cam_obj=seen.T_cam_obj[frames], points_obj=seen.points_obj[points], frame=frame, point=point, px=seen.px[kept])


def _estimate(seen: Observed, refine_focal: bool, refine_k: bool) -> Uncertainty:
    frames, points = len(seen.T_cam_obj), len(seen.points_obj)
    camera = [i for i, is_free in enumerate((refine_focal, refine_k)) if is_free]
    is_seen = np.bincount(seen.frame, minlength=frames) > 0
    if not len(seen.px):
        return Uncertainty(np.full((frames, 6, 6), np.nan), np.nan, np.nan)
    centre = np.median(seen.points_obj, axis=0)
    radius = max(float(np.median(np.linalg.norm(seen.points_obj - centre, axis=1))), 1e-12)
    residual, J_pose, J_point, J_camera = _linearize(seen, centre, radius)
    weight = np.sqrt(_weights(residual))[:, None]
    residual = (weight * residual).ravel()
    rows, of_point = np.arange(len(residual)), np.repeat(seen.point, 2)
    of_camera = sparse.csr_matrix((weight[..., None] * J_camera)[..., camera].reshape(len(rows), -1))
    A = sparse.hstack([_blocks(weight[..., None] * J_pose, seen.frame, frames), of_camera]).tocsr()
    B = _blocks(weight[..., None] * J_point, seen.point, points).tocsc()
    inverse_of_points = _inverse_blocks(weight[..., None] * J_point, seen.point, points)
    parts = [slice(i, min(i + _POINTS_AT_ONCE, points)) for i in range(0, points, _POINTS_AT_ONCE)]
    S = (A.T @ A).toarray()
    for part in parts:
        W, Y = _elimination(A, B, inverse_of_points, part)
        S -= Y @ W.T
    used = np.concatenate([np.repeat(is_seen, 6), np.ones(len(camera), bool)])
    inverse = np.zeros((len(used), np.count_nonzero(used)))
    inverse[used] = _inverse_without_gauge(S[np.ix_(used, used)], _gauge(seen, centre, radius, len(camera))[used])
    of_points = sparse.csc_matrix((residual, (rows, of_point)), shape=(len(rows), points))
    pose, variance = np.zeros((frames, 6, 6)), np.zeros(len(camera))
    for part in parts:
        gradient = (B[:, 3 * part.start : 3 * part.stop].T @ of_points[:, part]).toarray()
        influence = inverse @ ((A.T @ of_points[:, part]).toarray() - _elimination(A, B, inverse_of_points, part)[1] @ gradient)[used]
        of_pose = influence[: 6 * frames].reshape(frames, 6, -1)
        pose += of_pose @ of_pose.swapaxes(1, 2)
        variance += (influence[6 * frames :] ** 2).sum(axis=1)
    free = len(rows) - np.count_nonzero(used) - 3 * points + 7
    factor = len(rows) / free if free > 0 else np.nan
    at = apply(seen.T_cam_obj, np.broadcast_to(centre, (frames, 1, 3)))[:, 0] - seen.T_cam_obj[:, :3, 3]
    errors = np.full(2, np.nan)
    errors[camera] = np.sqrt(factor * variance)
    poses = np.where(is_seen[:, None, None], _about_origin(factor * pose, at, radius), np.nan)
    return Uncertainty(poses, float(errors[0]), float(errors[1]))


def _linearize(seen: Observed, centre: np.ndarray, radius: float) -> tuple[np.ndarray, ...]:
    """Residuals (M, 2), predicted minus observed, and their derivatives by pose (M, 2, 6), point (M, 2, 3), and focal length and k (M, 2, 2).

    Shifts of poses and points are in units of `radius`.
    """
    T, f, k = seen.T_cam_obj[seen.frame], seen.focal_px, seen.k
    cam = apply(T, seen.points_obj[seen.point][:, None])[:, 0]
    about = cam - apply(T, np.broadcast_to(centre, (len(T), 1, 3)))[:, 0]
    x = cam[:, :2] / cam[:, 2:]
    square = (x**2).sum(axis=1)[:, None]
    residual = f * (1 + k * square) * x + seen.principal_px - seen.px
    by_x = f * ((1 + k * square)[..., None] * np.eye(2) + 2 * k * x[:, :, None] * x[:, None])
    by_cam = by_x @ np.concatenate([np.broadcast_to(np.eye(2), (len(x), 2, 2)), -x[..., None]], axis=2) / cam[:, 2:, None]
    turned = np.cross(np.eye(3)[None], about[:, None]).swapaxes(1, 2)
    J_pose = np.concatenate([by_cam @ turned, radius * by_cam], axis=2)
    J_camera = np.stack([(1 + k * square) * x, f * square * x], axis=2)
    return residual, J_pose, radius * by_cam @ T[:, :3, :3], J_camera


def _weights(residual: np.ndarray) -> np.ndarray:
    """(M,) Cauchy weights, whose width is the standard deviation per axis from the median length."""
    length = np.linalg.norm(residual, axis=1)
    width = max(float(np.median(length)) / 1.1774, 1e-12)
    return 1 / (1 + (length / (2.385 * width)) ** 2)


def _blocks(J: np.ndarray, index: np.ndarray, count: int) -> sparse.csr_matrix:
    """(2M, D count) sparse matrix with the blocks (M, 2, D) at the columns of `index` (M,)."""
    rows, width = len(J), J.shape[2]
    columns = np.repeat(width * index[:, None] + np.arange(width), 2, axis=0)
    return sparse.csr_matrix((J.ravel(), columns.ravel(), np.arange(0, 2 * width * rows + 1, width)), shape=(2 * rows, width * count))


def _elimination(A: sparse.csr_matrix, B: sparse.csc_matrix, inverse: np.ndarray, part: slice) -> tuple[np.ndarray, np.ndarray]:
    """Of some points: W = A^T B (D, 3 n), dense since each is seen in many frames, and W times their inverse information."""
    W = (A.T @ B[:, 3 * part.start : 3 * part.stop]).toarray()
    blocks = W.reshape(len(W), -1, 3).swapaxes(0, 1)
    return W, (blocks @ inverse[part]).swapaxes(0, 1).reshape(W.shape)


def _inverse_blocks(J: np.ndarray, index: np.ndarray, count: int) -> np.ndarray:
    """(count, 3, 3) inverse of the information of `count` points from derivatives (M, 2, 3)."""
    information = np.zeros((count, 3, 3))
    np.add.at(information, index, np.einsum("mij,mik->mjk", J, J))
    trace = np.trace(information, axis1=1, axis2=2)[:, None, None]
    return np.asarray(np.linalg.inv(information + (_DAMPING * trace + 1e-30) * np.eye(3)))


def _gauge(seen: Observed, centre: np.ndarray, radius: float, num_camera: int) -> np.ndarray:
    """(6 T + num_camera, 7) orthonormal changes of the poses that the object's frame and unit compensate."""
    R, t = seen.T_cam_obj[:, :3, :3], apply(seen.T_cam_obj, np.broadcast_to(centre, (len(seen.T_cam_obj), 1, 3)))[:, 0]
    changes = np.zeros((len(R), 6, 7))
    changes[:, :3, :3], changes[:, 3:, 3:6], changes[:, 3:, 6] = R, R, t / radius
    return np.linalg.qr(np.concatenate([changes.reshape(-1, 7), np.zeros((num_camera, 7))]))[0]


def _inverse_without_gauge(S: np.ndarray, gauge: np.ndarray) -> np.ndarray:
    """Pseudoinverse of S (D, D), whose null space is spanned by `gauge` (D, 7)."""
    scale = np.sqrt(np.maximum(np.diag(S), 1e-300))
    gauge = np.linalg.qr(scale[:, None] * gauge)[0]
    inverse = np.linalg.inv(S / scale / scale[:, None] + gauge @ gauge.T) / scale / scale[:, None]
    return inverse


def _about_origin(covariance: np.ndarray, at: np.ndarray, unit: float) -> np.ndarray:
    """Covariances (T, 6, 6) of rotations about the object's origin, from those about a pivot `at` (T, 3) from it, with shifts in `unit`."""
    to_origin = np.tile(np.eye(6), (len(at), 1, 1)) * np.repeat([1.0, unit], 3)
    to_origin[:, 3:, :3] = -np.cross(np.eye(3)[None], at[:, None]).swapaxes(1, 2)
    return np.asarray(to_origin @ covariance @ to_origin.swapaxes(1, 2))
