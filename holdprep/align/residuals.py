"""Residuals and their derivatives: pure functions of tensors."""

import torch
from torch import Tensor

from holdprep.geometry.cameras import project_ahead
from holdprep.geometry.rigid import skew


def reprojection(points_cam_m: Tensor, K: Tensor, target_px: Tensor) -> Tensor:
    """Reprojection residuals (..., 2) px of points (..., 3) m; `projection_jacobian` is the derivative."""
    return project_ahead(points_cam_m, K) - target_px


def too_near(z_m: Tensor, near_m: float) -> Tensor:
    """Difference (m) of `near_m` and a smaller depth, 0 for larger ones; the derivative is -1 where it is positive."""
    return (near_m - z_m).clamp_min(0)


def motion(points_m: Tensor) -> Tensor:
    """Displacement (T - 1, ..., 3) from each frame to the next."""
    return points_m[1:] - points_m[:-1]


def drift(point_cam_m: Tensor, R_cam_obj: Tensor, t_cam_obj_m: Tensor, anchor_obj_m: Tensor) -> Tensor:
    """Drift (T, 3) m of a point h of the hand from its anchor g on the object: h - t - R g.

    Its derivative is that of h; -t by log(scale); -R by the anchor.
    """
    return point_cam_m - t_cam_obj_m - (R_cam_obj @ anchor_obj_m[..., None])[..., 0]


def signed_gap_by_log_scale(gap_m: Tensor, slopes_cam: Tensor, hand_points_m: Tensor) -> Tensor:
    """Derivative (...) of a hand point's signed distance to the surface, scale * d(R^T (p / scale - t)), by log(scale).

    `slopes_cam` (..., 3) is the gradient d' of the distance there, in the camera frame: also the derivative by the point (..., 3) itself.
    """
    return gap_m - (slopes_cam * hand_points_m).sum(dim=-1)


def signed_gap_by_pose(slopes_cam: Tensor, hand_points_m: Tensor, t_cam_obj_m: Tensor, unit_m: Tensor) -> Tensor:
    """Derivative (..., 6) of the same distance by the object's rotation (rotation vector, camera axes) and translation.

    One unit of translation along each axis is `unit_m` (3,) metres.
    """
    by_rotation = torch.linalg.cross(slopes_cam, hand_points_m - t_cam_obj_m)
    return torch.cat([by_rotation, -slopes_cam * unit_m], dim=-1)


def drift_by_pose(R_cam_obj: Tensor, anchor_obj_m: Tensor, unit_m: Tensor) -> Tensor:
    """Derivative (T, 3, 6) of `drift` by the object's rotation and translation, with units as in `signed_gap_by_pose`."""
    by_rotation = skew((R_cam_obj @ anchor_obj_m[..., None])[..., 0])
    return torch.cat([by_rotation, -torch.diag(unit_m).expand_as(by_rotation)], dim=-1)
