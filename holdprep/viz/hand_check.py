"""Image for checking one hand: the whole frame, the enlarged hand, and the mesh from the side."""

import cv2
import numpy as np

from holdprep.geometry.cameras import project
from holdprep.hand.model import Side
from holdprep.viz.overlay import COLORS, draw_mesh, draw_skeleton, side_view

HEIGHT = 480


def hand_panels(
    image: np.ndarray, vertices_m: np.ndarray, joints_m: np.ndarray, j2d_px: np.ndarray, faces: np.ndarray, K: np.ndarray, side: Side
) -> np.ndarray:
    """Panels (480, W, 3) of one hand.

    The mesh (778, 3) under K on the whole image; enlarged, the mesh, and the tracker's keypoints (21, 2) as lines with the mesh's joints
    (21, 3) as rings; the mesh from the side (depth to the right).
    """
    mesh = draw_mesh(image, vertices_m, faces, K, COLORS[side])
    joints_px = project(joints_m, K)
    points = np.concatenate([joints_px, j2d_px[np.isfinite(j2d_px).all(axis=1)]])
    near, near_mesh = (_near(picture, points) for picture in (image, mesh))
    scale = HEIGHT / _square(points)[1]
    near = draw_skeleton(near, (j2d_px - _square(points)[0]) * scale)
    for x, y in np.clip((joints_px - _square(points)[0]) * scale, -1e5, 1e5):
        cv2.circle(near, (round(x), round(y)), 5, (255, 255, 255), 2, cv2.LINE_AA)
    whole = cv2.resize(mesh, (round(image.shape[1] * HEIGHT / image.shape[0]), HEIGHT), interpolation=cv2.INTER_AREA)
    aside = side_view({side: vertices_m}, HEIGHT)
    return np.hstack([whole, near_mesh, near, aside])


def _square(points_px: np.ndarray) -> tuple[np.ndarray, float]:
    """Top left corner (2,) and side of a square around points (N, 2), with a margin."""
    low, high = points_px.min(axis=0), points_px.max(axis=0)
    side = max(1.5 * float((high - low).max()), 16.0)
    return (low + high) / 2 - side / 2, side


def _near(image: np.ndarray, points_px: np.ndarray) -> np.ndarray:
    corner, side = _square(points_px)
    scale = HEIGHT / side
    M = np.array([[scale, 0, -scale * corner[0]], [0, scale, -scale * corner[1]]])
    return cv2.warpAffine(image, M, (HEIGHT, HEIGHT), flags=cv2.INTER_LINEAR)
