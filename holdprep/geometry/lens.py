"""A lens with radial distortion, and undistortion to a pinhole camera."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from holdprep.geometry.cameras import corners_px

_ITERATIONS = 100  # of inverting the distortion, at most


@dataclass(frozen=True)
class Lens:
    """COLMAP's SIMPLE_RADIAL camera: `K` (3, 3) with one focal length, distortion `k`, images of `image_size` (width, height).

    The distortion is known up to `radius`, the distance from the principal point in focal lengths of the undistorted image; beyond, pixels
    are displaced as far as at this radius.
    """

    K: np.ndarray
    k: float
    image_size: tuple[int, int]
    radius: float = np.inf

    def corner_shift_px(self) -> float:
        """Largest displacement (px) of an image corner by the distortion."""
        corners = self._normalized(corners_px(*self.image_size))
        return float((np.linalg.norm(self._distorted(corners) - corners, axis=1) * self.K[0, 0]).max())

    def points(self, px: np.ndarray) -> np.ndarray:
        """Undistorted pixels (..., 2), those of a pinhole camera of the same K; NaN stays NaN."""
        seen = self._normalized(np.asarray(px, np.float64))
        distance = np.linalg.norm(seen, axis=-1, keepdims=True)
        straight = self._inverse(distance)
        return self._pixels(seen * np.where(distance == 0, 1.0, straight / np.maximum(distance, 1e-300)))

    def distorted_points(self, px: np.ndarray) -> np.ndarray:
        """Pixels (..., 2) of the distorted image that show what a pinhole camera of the same K sees at `px`: the inverse of `points`."""
        return self._pixels(self._distorted(self._normalized(np.asarray(px, np.float64))))

    def undistorted(self, image: np.ndarray, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
        """The undistorted image (H, W, ...); black outside of the field of view."""
        return np.asarray(cv2.remap(image, *self._maps, interpolation))

    @cached_property
    def _maps(self) -> tuple[np.ndarray, np.ndarray]:
        """The column and the row (H, W) of the image that each undistorted pixel shows."""
        width, height = self.image_size
        grid = np.stack(np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)), axis=-1)
        source = self.distorted_points(grid).astype(np.float32)
        return np.ascontiguousarray(source[..., 0]), np.ascontiguousarray(source[..., 1])

    def _distorted(self, straight: np.ndarray) -> np.ndarray:
        """Distorted positions (..., 2) in focal lengths from the principal point."""
        distance = np.linalg.norm(straight, axis=-1, keepdims=True)
        within = np.minimum(distance, self.radius)
        return straight * (1 + self.k * within**3 / np.maximum(distance, 1e-300))

    def _inverse(self, distance: np.ndarray) -> np.ndarray:
        """Undistorted distances from the principal point of distorted ones (...)."""
        straight = distance
        for _ in range(_ITERATIONS):
            before = straight
            straight = distance - self.k * np.minimum(straight, self.radius) ** 3
            if not (np.abs(straight - before) > 1e-12).any():
                break
        return straight

    def _normalized(self, px: np.ndarray) -> np.ndarray:
        return (px - self.K[:2, 2]) / (self.K[0, 0], self.K[1, 1])

    def _pixels(self, normalized: np.ndarray) -> np.ndarray:
        return normalized * (self.K[0, 0], self.K[1, 1]) + self.K[:2, 2]
