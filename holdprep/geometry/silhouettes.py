"""Signed distances from the edge of a silhouette: of pixels, and of points in space."""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import map_coordinates

from holdprep.geometry.cameras import project
from holdprep.geometry.rigid import apply

DEEPEST_PX = 255  # of an Inset: larger distances do not count
EDGE_PX = 0.5  # from the centre of an outermost pixel to the silhouette's edge
WRONG_SHARE = 0.05  # of the frames may exclude a point of the object by an error of pose or mask


@dataclass(frozen=True)
class Inset:
    """How far the pixels of a silhouette are inside of it, in a window about it.

    `depth_px` (h, w) uint8 is the chessboard distance to the next pixel outside, DEEPEST_PX at most, 0 outside; the silhouette is taken to
    continue beyond the image. `start` is the window's first pixel (x, y), `size` the image's width and height.
    """

    depth_px: np.ndarray
    start: tuple[int, int]
    size: tuple[int, int]

    @staticmethod
    def of(region: np.ndarray) -> "Inset":
        """That of a silhouette (H, W) bool."""
        height, width = region.shape
        x, y, w, h = cv2.boundingRect(region.astype(np.uint8))
        x, y, right, bottom = max(x - 1, 0), max(y - 1, 0), min(x + w + 1, width), min(y + h + 1, height)
        window = region[y:bottom, x:right].astype(np.uint8)
        depth = cv2.distanceTransform(window, cv2.DIST_C, cv2.DIST_MASK_3) if window.size else window
        return Inset(np.minimum(depth, DEEPEST_PX).astype(np.uint8), (x, y), (width, height))

    def at(self, px: np.ndarray) -> np.ndarray:
        """(M,) depths of whole pixels (M, 2) of the image."""
        x, y = (px - self.start).T
        height, width = self.depth_px.shape
        within = (x >= 0) & (y >= 0) & (x < width) & (y < height)
        found = np.zeros(len(px), np.uint8)
        found[within] = self.depth_px[y[within], x[within]]
        return found


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
