"""The focal length: refined while the images determine it, else held at its prior.

An object that fills a small part of the picture, or that rotates little, hardly shows perspective: a free focal length then follows
slightly wrong matches, on real clips to a third or to four times its true value.
"""

import numpy as np
import pycolmap

from holdprep.geometry.rigid import from_rt
from holdprep.object.covariance import Observed, estimate
from holdprep.object.single_view import to_matrix

# Relative standard error, of which errors are several: features are not exactly fixed on the surface. On a real bottle, mappings that agreed
# within 7 % had 1.9 to 2.5 %, one with four times the focal length 14 %; on a real mug one with 1.7 times the focal length had 6 %.
MAX_STDERR = 0.025
_CERTAIN = MAX_STDERR / 3  # below, a growing model is not tested again
_MAX_POINTS = 500  # of which the standard error is computed; that of all of them is smaller by the root of their number
_MIN_FRAMES = 5  # fewer do not constrain a focal length


def observed(reconstruction: pycolmap.Reconstruction, every: int = 1) -> Observed:
    """The observations of `every` n-th point of a reconstruction with one SIMPLE_RADIAL camera, frames in the order of their image ids."""
    (camera,) = reconstruction.cameras.values()
    ids = sorted(reconstruction.points3D)[::every]
    index_of = {point: i for i, point in enumerate(ids)}
    poses, frames, points, px = [], [], [], []
    for t, image_id in enumerate(sorted(reconstruction.reg_image_ids())):
        image = reconstruction.image(image_id)
        poses.append(to_matrix(image.cam_from_world()))
        seen = [p for p in image.get_observation_points2D() if p.point3D_id in index_of]
        frames += [t] * len(seen)
        points += [index_of[p.point3D_id] for p in seen]
        px += [p.xy for p in seen]
    f, cx, cy, k = camera.params
    xyz = np.array([reconstruction.point3D(i).xyz for i in ids]).reshape(-1, 3)
    return Observed(np.stack(poses), xyz, np.array(frames, int), np.array(points, int), np.array(px).reshape(-1, 2), f, (cx, cy), k)


def stderr_ratio(reconstruction: pycolmap.Reconstruction) -> float:
    """Standard error of the focal length, relative to it; infinite where the observations are too few."""
    if reconstruction.num_reg_frames() < _MIN_FRAMES or not reconstruction.num_points3D():
        return np.inf
    every = max(reconstruction.num_points3D() // _MAX_POINTS, 1)
    seen = observed(reconstruction, every)
    ratio = estimate(seen, refine_focal=True, refine_k=False).focal_px / seen.focal_px
    return float(ratio / np.sqrt(every)) if np.isfinite(ratio) else np.inf


def set_focal(reconstruction: pycolmap.Reconstruction, focal: float) -> None:
    """Give the camera another focal length, and the object the depth at which its size in the pictures stays."""
    (camera,) = reconstruction.cameras.values()
    ratio = focal / camera.params[0]
    camera.params = [focal, *camera.params[1:]]
    centre = np.median([point.xyz for point in reconstruction.points3D.values()] or [np.zeros(3)], axis=0)
    for image_id in reconstruction.reg_image_ids():
        image = reconstruction.image(image_id)
        T = to_matrix(image.cam_from_world())
        depth = float(T[2, :3] @ centre + T[2, 3])
        shifted = from_rt(T[:3, :3], T[:3, 3] + [0.0, 0.0, (ratio - 1) * depth])
        reconstruction.frame(image.frame_id).set_cam_from_world(image.camera_id, pycolmap.Rigid3d(shifted[:3]))


class FocalHold:
    """Whether the focal length of a growing model is free: `update` after each adjustment."""

    def __init__(self, prior: float, refine: bool) -> None:
        self.is_free = False
        self._prior, self._refine, self._is_certain = prior, refine, False

    def update(self, reconstruction: pycolmap.Reconstruction) -> bool:
        """Free the focal length, or set it back to the prior; True if that has changed and the model is to be adjusted again."""
        if not self._refine or self._is_certain:
            return False
        ratio, was_free = stderr_ratio(reconstruction), self.is_free
        self.is_free, self._is_certain = ratio < MAX_STDERR, ratio < _CERTAIN
        (camera,) = reconstruction.cameras.values()
        if not self.is_free and camera.params[0] != self._prior:
            set_focal(reconstruction, self._prior)
            return True
        return was_free != self.is_free
