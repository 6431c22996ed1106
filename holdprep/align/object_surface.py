"""The object's surface in a problem: its cloud, completed and carved by the silhouettes of the frames with masks."""

from hashlib import blake2b

import numpy as np

from holdprep.align.problem import EntityMasks, Problem, outward
from holdprep.align.rim import Silhouettes, rim_points
from holdprep.align.surface import Surface

KEPT = 64  # surfaces: as many as problems of a search over weights
_kept: dict[bytes, Surface] = {}


def object_surface(problem: Problem) -> Surface:
    """The surface; the last ones are kept, since mode ho uses that of mode o, and the trials of a search those of all its sequences.

    Raises HoldprepError where the cloud has no volume.
    """
    arrays = (problem.points_obj, problem.T_cam_obj, problem.obj_weight, problem.K, outward(problem))
    points, T_cam_obj, weight, K, away = (array.numpy() for array in arrays)
    masks, digest = problem.masks, blake2b()
    for array in (points, T_cam_obj, weight, K, away):
        digest.update(np.ascontiguousarray(array).data)
    if masks is not None:
        digest.update(masks.digest)
    key = digest.digest()
    if key not in _kept:
        if len(_kept) == KEPT:
            del _kept[next(iter(_kept))]
        plain = Surface.of(points, away)
        _kept[key] = plain if masks is None else _by_silhouettes(plain, points, away, _silhouettes(masks, K, T_cam_obj, weight > 0, plain))
    return _kept[key]


def _silhouettes(masks: EntityMasks, K: np.ndarray, T_cam_obj: np.ndarray, is_posed: np.ndarray, surface: Surface) -> Silhouettes:
    rows = np.flatnonzero(is_posed[masks.frame] & masks.obj.any(axis=(1, 2)))
    return Silhouettes(masks.obj[rows], masks.hand_pixels[rows], T_cam_obj[masks.frame[rows]], K, surface.points)


def _by_silhouettes(plain: Surface, points: np.ndarray, away: np.ndarray, seen: Silhouettes) -> Surface:
    if not len(seen.obj):
        return plain
    return plain.completed(points, away, rim_points(seen, plain.diameter)).carved(seen.outside)
