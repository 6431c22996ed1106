"""Camera pose hypotheses of a single view, including the second pose of a (nearly) planar point set."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pycolmap

from holdprep.geometry.rigid import apply, from_rt, rotation_angle_deg

_DUPLICATE_DEG = 2.0  # refined poses closer than this are the same hypothesis
OUTLIER_COST = 4.5  # half the squared residual at 3 standard deviations: truncation of the cost
MIN_SIGMA_PX = 0.2  # lower bound of the estimated keypoint noise
_ROTATION_SIGMA_DEG = 10.0  # standard deviation of the rotation between neighbouring frames from its prediction
_MAX_ROTATION_COST = 20.0  # truncation of the rotation cost: beyond it only the images decide
_WIDE_LOSS_PX, _NARROW_LOSS_PX = 10.0, 1.0  # scale of the robust losses of a refinement
_MAX_REFINED = 400  # points, evenly spaced, that a pose is refined over: bundle adjustment refines it over all
_PLANE_ITERATIONS = 5  # of the reweighted plane fit, enough to converge


@dataclass(frozen=True)
class PoseHypothesis:
    """One candidate pose of a frame with its truncated cost, see `truncated_cost`."""

    T_cam_obj: np.ndarray
    cost: float
    inliers: np.ndarray  # (M,) bool


@dataclass(frozen=True)
class Plane:
    """The dominant plane of a point set."""

    centroid: np.ndarray  # (3,)
    normal: np.ndarray  # (3,) unit length, arbitrary sign
    relief: float  # median distance of the points from the plane, relative to their extent


def pose_hypotheses(
    initial_poses: Sequence[np.ndarray],
    px: np.ndarray,
    xyz: np.ndarray,
    camera: pycolmap.Camera,
) -> list[PoseHypothesis]:
    """Distinct poses refined from `initial_poses` (4, 4) and from their flipped counterparts, lowest cost first.

    `px` (M, 2) and `xyz` (M, 3) are 2D-3D correspondences with outliers; pixels are `camera`'s.
    """
    roughly: list[np.ndarray] = []
    refined: list[np.ndarray] = []
    plane = fit_plane(xyz)
    for initial in (pose for T in initial_poses for pose in (T, flip_pose(T, plane))):
        rough = _refine(initial, px, xyz, camera, _WIDE_LOSS_PX)
        if _is_new(rough, roughly):
            roughly.append(rough)
            if _is_new(T := _refine(rough, px, xyz, camera, _NARROW_LOSS_PX), refined):
                refined.append(T)
    found = [(T, reprojection_errors_px(T, px, xyz, camera)) for T in refined]
    sigma = max(MIN_SIGMA_PX, min(robust_sigma(errors) for _, errors in found))
    hypotheses = [PoseHypothesis(T, truncated_cost(errors / sigma), errors < 3 * sigma) for T, errors in found]
    return sorted(hypotheses, key=lambda hypothesis: hypothesis.cost)


def fit_plane(xyz: np.ndarray) -> Plane:
    """Dominant plane of points (N, 3) by iteratively reweighted PCA; weights decay beyond the median distance."""
    weight = np.ones(len(xyz))
    for _ in range(_PLANE_ITERATIONS):
        centroid = weight @ xyz / weight.sum()
        normal = np.linalg.svd((xyz - centroid) * np.sqrt(weight)[:, None], full_matrices=False)[2][2]
        distance = np.abs((xyz - centroid) @ normal)
        extent = np.sqrt(((xyz - centroid) ** 2).sum(axis=1).mean())
        weight = 1 / (1 + (distance / max(1.4826 * float(np.median(distance)), 1e-6 * extent, 1e-300)) ** 2) ** 2
    return Plane(centroid, normal, float(np.median(distance) / max(extent, 1e-300)))


def flip_pose(T_cam_obj: np.ndarray, plane: Plane) -> np.ndarray:
    """The second pose (4, 4) of the planar pose ambiguity: under a distant camera it gives the same image of `plane`.

    Composed of a reflection through the plane, which leaves its points in place, and a reflection of the scene along the
    viewing direction, which a distant camera cannot observe (Necker reversal; the second solution of Schweighofer and
    Pinz, 2006).
    """
    R, centroid = T_cam_obj[:3, :3], T_cam_obj[:3, :3] @ plane.centroid + T_cam_obj[:3, 3]
    direction = centroid / np.linalg.norm(centroid)
    R_flipped = (np.eye(3) - 2 * np.outer(direction, direction)) @ R @ (np.eye(3) - 2 * np.outer(plane.normal, plane.normal))
    return from_rt(R_flipped, centroid - R_flipped @ plane.centroid)


def refine_pose(T_cam_obj: np.ndarray, px: np.ndarray, xyz: np.ndarray, camera: pycolmap.Camera) -> np.ndarray:
    """Robust non-linear refinement of a pose (4, 4) over at most 400 of the points, first with a wide loss, then with a narrow one."""
    return _refine(_refine(T_cam_obj, px, xyz, camera, _WIDE_LOSS_PX), px, xyz, camera, _NARROW_LOSS_PX)


def _refine(T_cam_obj: np.ndarray, px: np.ndarray, xyz: np.ndarray, camera: pycolmap.Camera, loss_px: float) -> np.ndarray:
    options = pycolmap.AbsolutePoseRefinementOptions()
    options.loss_function_scale, options.gradient_tolerance = loss_px, 1e-8
    every = max(1, -(-len(px) // _MAX_REFINED))
    px, xyz = px[::every], xyz[::every]
    refined = pycolmap.refine_absolute_pose(pycolmap.Rigid3d(T_cam_obj[:3]), px, xyz, np.ones(len(px), bool), camera, options)
    return T_cam_obj if refined is None else to_matrix(refined["cam_from_world"])


def _is_new(T_cam_obj: np.ndarray, others: Sequence[np.ndarray]) -> bool:
    """Whether a pose's rotation differs from those of all others."""
    return all(rotation_angle_deg(T_cam_obj[:3, :3], other[:3, :3]) > _DUPLICATE_DEG for other in others)


def reprojection_errors_px(T_cam_obj: np.ndarray, px: np.ndarray, xyz: np.ndarray, camera: pycolmap.Camera) -> np.ndarray:
    """(M,) reprojection errors, infinite behind the camera; the pose is (4, 4) for all points or (M, 4, 4) per point."""
    cam = apply(T_cam_obj, xyz) if T_cam_obj.ndim == 2 else apply(T_cam_obj, xyz[:, None])[:, 0]
    in_front = cam[:, 2] > 0
    projected = camera.img_from_cam(np.where(in_front[:, None], cam, [0.0, 0.0, 1.0]))
    return np.where(in_front, np.linalg.norm(projected - px, axis=1), np.inf)


def robust_sigma(errors: np.ndarray) -> float:
    """Standard deviation per coordinate from the median error length (M,); the Rayleigh distribution's is 1.1774 sigma."""
    return float(np.median(errors)) / 1.1774


def truncated_cost(sigmas: np.ndarray) -> float:
    """Sum of half the squared errors, given in standard deviations, each truncated at `OUTLIER_COST`."""
    return float(np.minimum(sigmas**2 / 2, OUTLIER_COST).sum())


def rotation_cost(angle_deg: np.ndarray | float, gap_frames: float) -> np.ndarray | float:
    """Truncated negative log-likelihood of a rotation by `angle_deg` from its prediction over `gap_frames` frames."""
    return np.minimum((np.asarray(angle_deg) / _ROTATION_SIGMA_DEG) ** 2 / 2 / max(gap_frames, 1), _MAX_ROTATION_COST)


def to_matrix(pose: pycolmap.Rigid3d) -> np.ndarray:
    """(4, 4) matrix of a pycolmap transform."""
    return from_rt(pose.rotation.matrix(), np.asarray(pose.translation))
