"""Signed distances from the edge of a silhouette: of pixels, and of points in space."""

from collections.abc import Iterable

import cv2
import numpy as np
from scipy.ndimage import map_coordinates

from holdprep.geometry.cameras import project
from holdprep.geometry.rigid import apply

EDGE_PX = 0.5  # from the centre of an outermost pixel to the silhouette's edge
WRONG_SHARE = 0.05  # of the frames may exclude a point of the object by an error of pose or mask


def signed_px(region: np.ndarray) -> np.ndarray:
    """(H, W) float32 distance in px of every pixel to the edge of a region (H, W) bool, negative inside."""
    outside = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    inside = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(np.where(region, EDGE_PX - inside, outside - EDGE_PX))


def signed_possible_px(region: np.ndarray, points: np.ndarray, T_cam_obj: np.ndarray, K: np.ndarray, tolerance_px: float) -> np.ndarray:
    """(H, W) float32 `signed_px` of what may show an object: its silhouette (H, W) bool, and discs about some of its points (N, 3).

    The points that project, at a pose (4, 4), outside of the silhouette by more than `tolerance_px` show that it is wrong there; their discs
    reach to its edge.
    """
    px = np.round(project(apply(T_cam_obj, points), K)).astype(int)
    px = px[(px >= 0).all(axis=1) & (px < region.shape[::-1]).all(axis=1)]
    away_px = signed_px(region)
    outside = px[away_px[px[:, 1], px[:, 0]] > tolerance_px].tolist()
    if not outside:
        return away_px
    pixels = region.astype(np.uint8)
    for x, y in outside:
        cv2.circle(pixels, (x, y), int(np.ceil(away_px[y, x])), 1, cv2.FILLED)
    return signed_px(pixels > 0)


def beyond(points: np.ndarray, away_px: np.ndarray, T_cam_obj: np.ndarray, K: np.ndarray, tolerance_px: float = 0.0) -> np.ndarray:
    """(N,) float32: how far points (N, 3) of an object at a pose (4, 4) are outside of the cone of a silhouette grown by `tolerance_px`.

    `away_px` (H, W) are the distances of `signed_px`. In the points' unit, negative inside; -inf outside of the image.
    """
    cam = apply(T_cam_obj, points)
    px = project(cam, K)
    found_px = map_coordinates(away_px, px.T[::-1], order=1, mode="constant", cval=-np.inf)
    return np.asarray((found_px - tolerance_px) * cam[:, 2] / K[0, 0]).astype(np.float32)


def outside_hull(
    points: np.ndarray, away_px: Iterable[np.ndarray], T_cam_obj: np.ndarray, K: np.ndarray, tolerance_px: float = 0.0
) -> np.ndarray:
    """(N,) float32: how far points (N, 3) are outside of the visual hull of the silhouettes of F frames with poses (F, 4, 4), see `beyond`.

    `away_px` (H, W) are each silhouette's distances of `signed_px`. The result is positive where more than WRONG_SHARE of the frames exclude
    a point, by more than `tolerance_px`.
    """
    outside = np.stack([beyond(points, away, T, K, tolerance_px) for away, T in zip(away_px, T_cam_obj, strict=True)])
    rank = len(outside) - 1 - round(WRONG_SHARE * len(outside))
    return np.asarray(np.partition(outside, rank, axis=0)[rank])
