"""Trimming of the sparse point cloud, and the canonical frame computed from it."""

import numpy as np


def trim(points: np.ndarray) -> np.ndarray:
    """(N,) bool: points (N, 3) within 1.5 times the 80th percentile of the distances to their median (HOLD's rule)."""
    distance = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    return distance <= 1.5 * np.percentile(distance, 80)


def centre(points: np.ndarray) -> np.ndarray:
    """(3,) centre of the bounding box of points (N, 3)."""
    return np.asarray((points.min(axis=0) + points.max(axis=0)) / 2)


def normalization_matrix(points: np.ndarray) -> np.ndarray:
    """(4, 4) to the canonical frame: the bounding box of points (N, 3) centred, the farthest point at unit distance."""
    middle = centre(points)
    scale = 1.0 / np.linalg.norm(points - middle, axis=1).max()
    matrix = np.diag([scale, scale, scale, 1.0])
    matrix[:3, 3] = -scale * middle
    return matrix
