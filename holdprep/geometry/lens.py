"""A lens with radial distortion, and undistortion to a pinhole camera."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from holdprep.geometry.cameras import distort, project


@dataclass(frozen=True)
class Lens:
    """COLMAP's SIMPLE_RADIAL camera: `K` (3, 3) with one focal length, distortion `k`, images of `image_size` (width, height)."""

    K: np.ndarray
    k: float
    image_size: tuple[int, int]

    def corner_shift_px(self) -> float:
        """Largest displacement (px) of an image corner by the distortion."""
        width, height = self.image_size
        corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], float)
        rays = np.concatenate([corners, np.ones((4, 1))], axis=1) @ np.linalg.inv(self.K).T
        return float(np.linalg.norm(project(distort(rays, self.k), self.K) - corners, axis=1).max())

    def points(self, px: np.ndarray) -> np.ndarray:
        """Undistorted pixels (..., 2), those of a pinhole camera of the same K; NaN stays NaN."""
        flat = np.asarray(px, np.float64).reshape(-1, 1, 2)
        if not len(flat):
            return flat.reshape(np.shape(px))
        stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-10)
        straight = cv2.undistortPoints(flat, self.K, self._coefficients(), P=self.K, criteria=stop)
        return np.where(np.isfinite(px), straight.reshape(np.shape(px)), np.nan)

    def undistorted(self, image: np.ndarray, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
        """The undistorted image (H, W, ...); black outside of the field of view."""
        return np.asarray(cv2.remap(image, *self._maps, interpolation))

    @cached_property
    def _maps(self) -> tuple[np.ndarray, np.ndarray]:
        """For every pixel of the undistorted image its place in the distorted one."""
        x, y = cv2.initUndistortRectifyMap(self.K, self._coefficients(), np.eye(3), self.K, self.image_size, cv2.CV_32FC1)
        return np.asarray(x), np.asarray(y)

    def _coefficients(self) -> np.ndarray:
        return np.array([self.k, 0.0, 0.0, 0.0])
