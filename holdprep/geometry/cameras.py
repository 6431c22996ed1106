"""Pinhole cameras in the OpenCV frame: x right, y down, z forward; pixel centres at integers.

torch is imported where a function uses it, as in rigid.py.
"""

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from scipy.spatial.transform import Rotation

if TYPE_CHECKING:
    from torch import Tensor

NEAREST_M = 1e-3
# focal length / longer side of the picture of a camera that nobody has measured: phones' main cameras in film mode, and webcams, have 0.8 to 1
USUAL_FOCAL = 0.95
Points = TypeVar("Points", np.ndarray, "Tensor")


def pinhole_K(focal_px: float, width: int, height: int) -> np.ndarray:
    """(3, 3) intrinsics with one focal length and the principal point at the image centre ((w-1)/2, (h-1)/2)."""
    return np.array([[focal_px, 0, (width - 1) / 2], [0, focal_px, (height - 1) / 2], [0, 0, 1]], dtype=np.float64)


def usual_camera(image_size: tuple[int, int], focal_px: float | None = None) -> np.ndarray:
    """K (3, 3) for images of `image_size` (width, height), with the focal length if known, else that of a typical phone."""
    return pinhole_K(focal_px or USUAL_FOCAL * max(image_size), *image_size)


def corners_px(width: int, height: int) -> np.ndarray:
    """(4, 2) centres of the corner pixels of an image."""
    return np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], dtype=np.float64)


def rays(px: np.ndarray, K: np.ndarray) -> np.ndarray:
    """(M, 3) points of depth 1 in the camera frame that are seen at pixels (M, 2)."""
    return np.concatenate([px, np.ones((len(px), 1))], axis=1) @ np.linalg.inv(K).T


def project(points_cam: Points, K: Points) -> Points:
    """Pixels (..., N, 2) of points (..., N, 3) in the camera frame; K is (3, 3). For numpy arrays and torch tensors.

    Points are divided by their depth, positive or negative: the caller tests z where points must be in front of the camera.
    """
    uvw = points_cam @ K.T
    return uvw[..., :2] / uvw[..., 2:]


def project_ahead(points_cam_m: "Tensor", K: "Tensor") -> "Tensor":
    """Pixels (..., 2) of points (..., 3) m.

    Depths below 1 mm are set to 1 mm, so that an optimiser can return points to the front of the camera.
    """
    uv = points_cam_m[..., :2] / points_cam_m[..., 2:].clamp_min(NEAREST_M)
    return uv @ K[:2, :2].T + K[:2, 2]


def projection_jacobian(points_cam_m: "Tensor", K: "Tensor") -> "Tensor":
    """Derivative (..., 2, 3) of `project_ahead` by the points."""
    import torch

    z = points_cam_m[..., 2].clamp_min(NEAREST_M)
    in_front = points_cam_m[..., 2] > NEAREST_M
    uv = points_cam_m[..., :2] / z[..., None]
    d_uv = torch.zeros(*points_cam_m.shape[:-1], 2, 3).to(points_cam_m)
    d_uv[..., 0, 0] = d_uv[..., 1, 1] = 1 / z
    d_uv[..., 2] = -uv / z[..., None] * in_front[..., None]
    return K[:2, :2] @ d_uv


def rotation_to_ray(pixel: np.ndarray, K: np.ndarray) -> np.ndarray:
    """(3, 3) shortest rotation from the optical axis to the ray through a pixel (2,)."""
    ray = np.linalg.solve(K, np.array([*pixel, 1.0]))
    return Rotation.align_vectors(ray[None], np.array([[0.0, 0.0, 1.0]]))[0].as_matrix()


def between_cameras(pixels: np.ndarray, K_from: np.ndarray, K_to: np.ndarray) -> np.ndarray:
    """(T, 3, 3) rotations that convert a network's results from crops at pixels (T, 2) under `K_from` to the camera `K_to`.

    A crop shows an object along its ray; the intrinsics determine only the direction of the ray. NaN pixels give the identity.
    """
    known = np.isfinite(pixels).all(axis=1)
    rotations = np.tile(np.eye(3), (len(pixels), 1, 1))
    for t in np.flatnonzero(known):
        rotations[t] = rotation_to_ray(pixels[t], K_to) @ rotation_to_ray(pixels[t], K_from).T
    return rotations


def distort(points_cam: np.ndarray, k: float) -> np.ndarray:
    """Points (..., 3) at depth 1 whose pinhole projection is that of points (..., 3) under COLMAP's SIMPLE_RADIAL distortion k."""
    xy = points_cam[..., :2] / points_cam[..., 2:]
    xy = xy * (1 + k * (xy**2).sum(axis=-1, keepdims=True))
    return np.concatenate([xy, np.ones_like(xy[..., :1])], axis=-1)


def llff_poses(T_cam_world: np.ndarray, K: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """(T, 3, 5) poses in LLFF's layout: camera-to-world with axes (down, right, backwards), and a last column (height, width, focal).

    T_cam_world (T, 4, 4) is world to OpenCV camera (right, down, forward); Mildenhall et al., Local Light Field Fusion, 2019.
    """
    T_world_cam = np.linalg.inv(T_cam_world)
    right, down, forward, centre = (T_world_cam[:, :3, i] for i in range(4))
    hwf = np.broadcast_to(np.array([image_size[1], image_size[0], K[0, 0]]), centre.shape)
    return np.stack([down, right, -forward, centre, hwf], axis=2)


def linear_translation(points_m: "Tensor", K: "Tensor", target_px: "Tensor", weight: "Tensor") -> "Tensor":
    """Translation (T, 3) by least squares of the pinhole equations, x + X = u (z + Z), for points of known size.

    `points_m` (T, J, 3) without translation, `weight` (T, J); frames without weight are NaN.
    """
    import torch

    u = (target_px - K[:2, 2]) @ torch.linalg.inv(K[:2, :2]).T
    rows = torch.zeros(*u.shape, 3, dtype=u.dtype)
    rows[..., 0, 0] = rows[..., 1, 1] = 1.0
    rows[..., 2] = -u
    right = u * points_m[..., 2:] - points_m[..., :2]
    normal = torch.einsum("tj,tjra,tjrb->tab", weight, rows, rows)
    vector = torch.einsum("tj,tjra,tjr->ta", weight, rows, right)
    seen = weight.sum(dim=1) > 0
    result = torch.full_like(vector, float("nan"))
    result[seen] = torch.linalg.solve(normal[seen], vector[seen])
    return result
