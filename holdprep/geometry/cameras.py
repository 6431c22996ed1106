"""Pinhole cameras in the OpenCV frame: x right, y down, z forward; pixel centres at whole numbers."""

import numpy as np


def pinhole_K(focal_px: float, width: int, height: int) -> np.ndarray:
    """(3, 3) intrinsics with one focal length and the principal point at the image centre ((w-1)/2, (h-1)/2)."""
    return np.array([[focal_px, 0, (width - 1) / 2], [0, focal_px, (height - 1) / 2], [0, 0, 1]], dtype=np.float64)


def project(points_cam, K):
    """Pixels (..., N, 2) of points (..., N, 3) in the camera frame; K is (3, 3). Works on numpy arrays and torch tensors alike.

    Points are divided by their own depth, whatever its sign: who needs them in front of the camera tests z.
    """
    uvw = points_cam @ K.T
    return uvw[..., :2] / uvw[..., 2:]
