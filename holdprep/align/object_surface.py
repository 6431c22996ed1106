"""The object's surface in a problem: its cloud, completed by the silhouettes of the frames with masks."""

from hashlib import blake2b

import numpy as np

from holdprep.align.problem import EntityMasks, Problem, outward
from holdprep.align.rim import Rim, rim_points
from holdprep.align.surface import Surface

_last: dict[bytes, Surface] = {}


def object_surface(problem: Problem) -> Surface:
    """The surface; that of the last problem is kept, since mode ho uses that of mode o.

    Raises HoldprepError where the cloud has no volume.
    """
    arrays = (problem.points_obj, problem.T_cam_obj, problem.obj_weight, problem.K, outward(problem))
    points, T_cam_obj, weight, K, away = (array.numpy() for array in arrays)
    masks, digest = problem.masks, blake2b()
    seen = () if masks is None else (masks.frame, masks.obj, masks.hand_pixels)
    for array in (points, T_cam_obj, weight, K, away, *seen):
        digest.update(np.ascontiguousarray(array).data)
    key = digest.digest()
    if key not in _last:
        _last.clear()
        plain = Surface.of(points, away)
        rim = Rim.empty() if masks is None else _rim(masks, K, T_cam_obj, weight > 0, plain)
        _last[key] = plain.completed(points, away, rim)
    return _last[key]


def _rim(masks: EntityMasks, K: np.ndarray, T_cam_obj: np.ndarray, is_posed: np.ndarray, surface: Surface) -> Rim:
    rows = np.flatnonzero(is_posed[masks.frame] & masks.obj.any(axis=(1, 2)))
    centre = 0.5 * (surface.points.min(axis=0) + surface.points.max(axis=0))
    return rim_points((masks.obj[rows], masks.hand_pixels[rows]), K, T_cam_obj[masks.frame[rows]], centre, surface.diameter)
