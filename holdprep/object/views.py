"""Poses of single views: a planar patch has two poses that look nearly alike, so every start and its mirror image are refined and compared."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pycolmap

from holdprep.geometry.rigid import apply, from_rt, rotation_angle_deg

_SAME_DEG = 2.0  # two refined poses closer than this are one
OUTLIER_COST = 4.5  # that of an error of three standard deviations
FLOOR_PX = 0.2  # no picture is measured better than this
_TURN_DEG = 10.0  # standard deviation of what neighbouring frames may differ from what is expected of them
_TURN_CUT = 20.0  # beyond this the pictures alone decide
_PLANE_ROUNDS = 5  # after which a face's plane no longer moves


@dataclass(frozen=True)
class View:
    """One pose that explains a frame: `cost` is half the sum of squared errors in standard deviations, each cut off at 4.5."""

    T_cam_obj: np.ndarray
    cost: float
    inliers: np.ndarray  # (M,) bool


@dataclass(frozen=True)
class Plane:
    """A face that most of some points lie on."""

    middle: np.ndarray  # (3,)
    normal: np.ndarray  # (3,) unit length, either side
    relief: float  # median distance of the points from it, as a share of their extent


def views(starts: Sequence[np.ndarray], px: np.ndarray, xyz: np.ndarray, camera: pycolmap.Camera) -> list[View]:
    """The distinct poses that refinement reaches from `starts` (4, 4) and from their mirror images, the best first.

    `px` (M, 2) and `xyz` (M, 3) correspond, outliers among them; pixels are `camera`'s.
    """
    found: list[tuple[np.ndarray, np.ndarray]] = []
    face = plane_through(xyz)
    for start in (s for T in starts for s in (T, mirrored(T, face))):
        T = refine(start, px, xyz, camera)
        if all(rotation_angle_deg(T[:3, :3], other[:3, :3]) > _SAME_DEG for other, _ in found):
            found.append((T, errors_px(T, px, xyz, camera)))
    sigma = max(FLOOR_PX, min(spread(errors) for _, errors in found))
    solved = [View(T, cut_cost(errors / sigma), errors < 3 * sigma) for T, errors in found]
    return sorted(solved, key=lambda view: view.cost)


def plane_through(xyz: np.ndarray) -> Plane:
    """The plane that most of the points (N, 3) lie near: weighted principal axes, points beyond the median distance counting ever less."""
    weight = np.ones(len(xyz))
    for _ in range(_PLANE_ROUNDS):
        middle = weight @ xyz / weight.sum()
        normal = np.linalg.svd((xyz - middle) * np.sqrt(weight)[:, None], full_matrices=False)[2][2]
        off = np.abs((xyz - middle) @ normal)
        extent = np.sqrt(((xyz - middle) ** 2).sum(axis=1).mean())
        weight = 1 / (1 + (off / max(1.4826 * float(np.median(off)), 1e-6 * extent, 1e-300)) ** 2) ** 2
    return Plane(middle, normal, float(np.median(off) / max(extent, 1e-300)))


def mirrored(T_cam_obj: np.ndarray, plane: Plane) -> np.ndarray:
    """The pose that shows a plane alike to a distant camera: turned over in depth about the line of sight.

    Reflecting a plane through itself changes nothing, reflecting the scene along the line of sight changes nothing that is seen from afar;
    both together are a rotation (Necker reversal; the second solution of Schweighofer and Pinz, 2006).
    """
    R, centre = T_cam_obj[:3, :3], T_cam_obj[:3, :3] @ plane.middle + T_cam_obj[:3, 3]
    sight = centre / np.linalg.norm(centre)
    turned = (np.eye(3) - 2 * np.outer(sight, sight)) @ R @ (np.eye(3) - 2 * np.outer(plane.normal, plane.normal))
    return from_rt(turned, centre - turned @ plane.middle)


def refine(T_cam_obj: np.ndarray, px: np.ndarray, xyz: np.ndarray, camera: pycolmap.Camera) -> np.ndarray:
    """Robust refinement of a pose, the scale of the loss narrowing as the pose settles."""
    pose = pycolmap.Rigid3d(T_cam_obj[:3])
    for scale_px in (10.0, 1.0):
        options = pycolmap.AbsolutePoseRefinementOptions()
        options.loss_function_scale, options.gradient_tolerance = scale_px, 1e-8
        refined = pycolmap.refine_absolute_pose(pose, px, xyz, np.ones(len(px), bool), camera, options)
        pose = refined["cam_from_world"] if refined is not None else pose
    return to_matrix(pose)


def errors_px(T_cam_obj: np.ndarray, px: np.ndarray, xyz: np.ndarray, camera: pycolmap.Camera) -> np.ndarray:
    """(M,) reprojection errors, infinite for points behind the camera; one pose (4, 4) for all points or (M, 4, 4) one each."""
    cam = apply(T_cam_obj, xyz) if T_cam_obj.ndim == 2 else apply(T_cam_obj, xyz[:, None])[:, 0]
    ahead = cam[:, 2] > 0
    projected = camera.img_from_cam(np.where(ahead[:, None], cam, [0.0, 0.0, 1.0]))
    return np.where(ahead, np.linalg.norm(projected - px, axis=1), np.inf)


def spread(errors: np.ndarray) -> float:
    """Standard deviation of either coordinate, from the median length (M,) of the errors (that of a Rayleigh distribution is 1.1774 of it)."""
    return float(np.median(errors)) / 1.1774


def cut_cost(sigmas: np.ndarray) -> float:
    """Sum of squared errors in standard deviations, halved, each cut off at an outlier's cost."""
    return float(np.minimum(sigmas**2 / 2, OUTLIER_COST).sum())


def turn_cost(angle_deg: np.ndarray | float, gap_frames: float) -> np.ndarray | float:
    """What a turn of `angle_deg` over `gap_frames` frames more than expected costs against what the pictures say."""
    return np.minimum((np.asarray(angle_deg) / _TURN_DEG) ** 2 / 2 / max(gap_frames, 1), _TURN_CUT)


def to_matrix(pose: pycolmap.Rigid3d) -> np.ndarray:
    """(4, 4) of COLMAP's transform."""
    return from_rt(pose.rotation.matrix(), np.asarray(pose.translation))
