"""A lens with radial distortion, and the pinhole camera that stands in for it."""

from dataclasses import dataclass

import cv2
import numpy as np

from holdprep.geometry.cameras import distort, project


@dataclass(frozen=True)
class Lens:
    """COLMAP's SIMPLE_RADIAL camera: `K` (3, 3) with one focal length, distortion `k`, pictures of `image_size` (width, height)."""

    K: np.ndarray
    k: float
    image_size: tuple[int, int]

    def corner_shift_px(self) -> float:
        """How far the lens moves the corner of the image that it moves most."""
        width, height = self.image_size
        corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], float)
        rays = np.concatenate([corners, np.ones((4, 1))], axis=1) @ np.linalg.inv(self.K).T
        return float(np.linalg.norm(project(distort(rays, self.k), self.K) - corners, axis=1).max())

    def points(self, px: np.ndarray) -> np.ndarray:
        """Where a pinhole camera of the same K sees what the lens shows at pixels (..., 2); NaN stays NaN."""
        flat = np.asarray(px, np.float64).reshape(-1, 1, 2)
        if not len(flat):
            return flat.reshape(np.shape(px))
        stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-10)
        straight = cv2.undistortPoints(flat, self.K, self._coefficients(), P=self.K, criteria=stop)
        return np.where(np.isfinite(px), straight.reshape(np.shape(px)), np.nan)

    def picture(self, picture: np.ndarray, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
        """The picture (H, W, ...) that the pinhole camera would have taken; black where the lens saw nothing."""
        maps = cv2.initUndistortRectifyMap(self.K, self._coefficients(), np.eye(3), self.K, self.image_size, cv2.CV_32FC1)
        return np.asarray(cv2.remap(picture, maps[0], maps[1], interpolation))

    def _coefficients(self) -> np.ndarray:
        return np.array([self.k, 0.0, 0.0, 0.0])
