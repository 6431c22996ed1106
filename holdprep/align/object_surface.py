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
    digest = blake2b()
    for array in (points, T_cam_obj, weight, K, away, *_silhouettes(problem.masks)):
        digest.update(np.ascontiguousarray(array).data)
    key = digest.digest()
    if key not in _last:
        _last.clear()
        plain = Surface.of(points, away)
        _last[key] = plain.completed(points, away, _rim(problem.masks, K, T_cam_obj, weight > 0, plain))
    return _last[key]


def _rim(masks: EntityMasks | None, K: np.ndarray, T_cam_obj: np.ndarray, is_posed: np.ndarray, surface: Surface) -> Rim:
    if masks is None:
        return Rim.empty()
    rows = np.flatnonzero(is_posed[masks.frame] & masks.obj.any(axis=(1, 2)))
    obj, hands = (pixels[rows] for pixels in _silhouettes(masks))
    centre = 0.5 * (surface.points.min(axis=0) + surface.points.max(axis=0))
    return rim_points((obj, hands), K, T_cam_obj[masks.frame[rows]], centre, surface.diameter)


def _silhouettes(masks: EntityMasks | None) -> tuple[np.ndarray, ...]:
    """Masks (F, H, W) of the object and of all hands; none without masks."""
    if masks is None:
        return ()
    hands = masks.all_hands if masks.all_hands is not None else np.any(list(masks.hands.values()), axis=0)
    return masks.obj, hands
