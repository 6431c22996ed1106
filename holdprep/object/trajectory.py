"""What a video knows and COLMAP does not use: neighbouring frames show neighbouring rotations."""

from collections.abc import Mapping

import numpy as np
from scipy.spatial.transform import Rotation

from holdprep.geometry.rigid import from_rt, interpolate_linear, interpolate_rotations, rotation_angle_deg

_JUMP_FLOOR_DEG = 18.0  # no step smaller than this is called a jump
_JUMP_FACTOR = 6.0  # nor one within this many times the sequence's own median change of step
_BRIDGE_FRAMES = 10  # across longer gaps a rotation can be anything: they neither confirm nor deny


def rotation_jumps(R: np.ndarray, registered: np.ndarray) -> list[tuple[int, int]]:
    """Neighbouring registered frames whose rotation breaks with the motion on both sides of it.

    R is (T, 3, 3), registered (T,) bool. A step's rotation vector is compared with the steps before and after it: fast but steady
    turning is no jump, a step unlike both its neighbours by more than `jump_limit_deg` is.
    """
    at, excess = _excess_deg(R, registered)
    limit = jump_limit_deg(R, registered)
    return [(int(at[i]), int(at[i + 1])) for i in np.flatnonzero(excess > limit)]


def jump_limit_deg(R: np.ndarray, registered: np.ndarray) -> float:
    """The change of rotation from one step to the next, in degrees, from which this sequence's motion is implausible."""
    _, excess = _excess_deg(R, registered)
    return max(_JUMP_FLOOR_DEG, _JUMP_FACTOR * float(np.median(excess))) if len(excess) else _JUMP_FLOOR_DEG


def _excess_deg(R: np.ndarray, registered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Registered frames (M,) and how much each step between them (M - 1,) differs from the more similar of its neighbours, in degrees."""
    at = np.flatnonzero(registered)
    if len(at) < 3:
        return at, np.zeros(max(len(at) - 1, 0))
    gap = np.diff(at)[:, None]
    rate = np.degrees(Rotation.from_matrix(R[at[1:]] @ np.swapaxes(R[at[:-1]], 1, 2)).as_rotvec()) / gap
    change = np.linalg.norm(np.diff(rate, axis=0), axis=1)
    before, after = np.append(np.inf, change), np.append(change, np.inf)
    excess = np.minimum(before, after) * gap[:, 0]
    return at, np.where(gap[:, 0] <= _BRIDGE_FRAMES, excess, 0.0)


def trusted_frames(R: np.ndarray, registered: np.ndarray) -> np.ndarray:
    """(T,) bool: the largest set of registered frames free of jumps.

    The sequence is cut at its jumps; the heaviest chain of pieces is kept whose successive ends fit one another (a stretch that
    was flipped and flipped back is left out, what lies on both sides of it stays).
    """
    trusted = np.zeros(len(R), bool)
    at = np.flatnonzero(registered)
    if len(at) == 0:
        return trusted
    limit = jump_limit_deg(R, registered)
    starts = {b for _, b in rotation_jumps(R, registered)}
    pieces = np.split(at, [i for i, frame in enumerate(at) if frame in starts])
    best: list[tuple[int, list[int]]] = []
    for j, piece in enumerate(pieces):
        weight = 0
        chain: list[int] = []
        for i in range(j - 1):  # the piece right before is behind a jump
            a, b = pieces[i][-1], piece[0]
            fits = b - a <= _BRIDGE_FRAMES and rotation_angle_deg(R[a], R[b]) <= limit * np.sqrt(b - a)
            if fits and best[i][0] > weight:
                weight, chain = best[i]
        best.append((weight + len(piece), [*chain, j]))
    for j in max(best, key=lambda found: found[0])[1]:
        trusted[pieces[j]] = True
    return trusted


def disagreement_deg(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], inlier_deg: float = 5.0) -> dict[str, float]:
    """Angle between the rotations of two models of one object, per common frame, after the rotation that most frames agree on.

    Poses are (4, 4) T_cam_obj by frame name.
    """
    common = sorted(a.keys() & b.keys())
    if not common:
        return {}
    R_a, R_b = (np.stack([poses[name][:3, :3] for name in common]) for poses in (a, b))
    return dict(zip(common, rotation_angle_deg(R_a, R_b @ common_rotation(R_a, R_b, inlier_deg)).tolist(), strict=True))


def common_rotation(R_a: np.ndarray, R_b: np.ndarray, inlier_deg: float = 5.0) -> np.ndarray:
    """R_objb_obja (3, 3) that most frames of two stacks of rotations (T, 3, 3) of one object agree on."""
    between = np.swapaxes(R_b, 1, 2) @ R_a  # as each frame sees it
    near = rotation_angle_deg(between[:, None].repeat(len(between), 1), between[None].repeat(len(between), 0)) < inlier_deg
    return np.asarray(Rotation.from_matrix(between[near[near.sum(1).argmax()]]).mean().as_matrix())


def complete(T_cam_obj: np.ndarray, known: np.ndarray, centre_obj: np.ndarray, max_gap: int) -> tuple[np.ndarray, list[str]]:
    """Poses (T, 4, 4) for every frame, and per frame '' (known), 'interpolated' or 'held'.

    Across gaps of at most `max_gap` frames rotation follows SLERP, the object's centre (3,) a straight line before the camera. In longer
    ones, before the first known frame and after the last the nearest known pose is held. Raises ValueError when nothing is known.
    """
    R = interpolate_rotations(T_cam_obj[:, :3, :3], known)
    centre_cam = interpolate_linear(T_cam_obj[:, :3, :3] @ centre_obj + T_cam_obj[:, :3, 3], known)
    between = from_rt(R, centre_cam - R @ centre_obj)
    at, frames = np.flatnonzero(known), np.arange(len(known))
    right = np.searchsorted(at, frames)
    after, before = at[np.minimum(right, len(at) - 1)], at[np.maximum(right - 1, 0)]
    nearest = np.where(np.abs(frames - before) <= np.abs(after - frames), before, after)
    short = (before < frames) & (frames < after) & (after - before - 1 <= max_gap)
    full = np.where(known[:, None, None], T_cam_obj, np.where(short[:, None, None], between, T_cam_obj[nearest]))
    return full, ["" if k else "interpolated" if i else "held" for k, i in zip(known, short, strict=True)]
