"""Temporal consistency of rotations: jumps, consistent frames, alignment of two models, filling of gaps."""

from collections.abc import Mapping

import numpy as np
from scipy.spatial.transform import Rotation

from holdprep.geometry.rigid import from_rt, interpolate_linear, interpolate_rotations, rotation_angle_deg

_MIN_JUMP_DEG = 18.0  # smaller changes of rotation are never jumps
_JUMP_FACTOR = 6.0  # nor are those below this multiple of the sequence's median change
_MAX_TESTED_GAP = 10  # frames; across longer gaps any rotation is plausible


def rotation_jumps(R: np.ndarray, registered: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of neighbouring registered frames with an implausible rotation between them.

    R is (T, 3, 3), registered (T,) bool. A step's rotation vector is compared with those of the steps before and after it:
    a jump differs from both by more than `jump_limit_deg`; a fast but constant rotation is none.
    """
    at, change = _rotation_change_deg(R, registered)
    limit = jump_limit_deg(R, registered)
    return [(int(at[i]), int(at[i + 1])) for i in np.flatnonzero(change > limit)]


def jump_limit_deg(R: np.ndarray, registered: np.ndarray) -> float:
    """Change of rotation between consecutive steps, in degrees, above which it is implausible for this sequence."""
    _, change = _rotation_change_deg(R, registered)
    return max(_MIN_JUMP_DEG, _JUMP_FACTOR * float(np.median(change))) if len(change) else _MIN_JUMP_DEG


def _rotation_change_deg(R: np.ndarray, registered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Registered frames (M,), and the difference of each step (M - 1,) from its more similar neighbour in degrees."""
    at = np.flatnonzero(registered)
    if len(at) < 3:
        return at, np.zeros(max(len(at) - 1, 0))
    gap = np.diff(at)[:, None]
    rate = np.degrees(Rotation.from_matrix(R[at[1:]] @ np.swapaxes(R[at[:-1]], 1, 2)).as_rotvec()) / gap
    rate_change = np.linalg.norm(np.diff(rate, axis=0), axis=1)
    before, after = np.append(np.inf, rate_change), np.append(rate_change, np.inf)
    change = np.minimum(before, after) * gap[:, 0]
    return at, np.where(gap[:, 0] <= _MAX_TESTED_GAP, change, 0.0)


def trusted_frames(R: np.ndarray, registered: np.ndarray) -> np.ndarray:
    """(T,) bool: the largest set of registered frames free of jumps.

    The sequence is split into segments at its jumps. Kept is the chain of segments with most frames whose consecutive ends
    are consistent: a segment that was flipped and flipped back is dropped, the segments on both sides of it remain.
    """
    trusted = np.zeros(len(R), bool)
    at = np.flatnonzero(registered)
    if len(at) == 0:
        return trusted
    limit = jump_limit_deg(R, registered)
    starts = {b for _, b in rotation_jumps(R, registered)}
    segments = np.split(at, [i for i, frame in enumerate(at) if frame in starts])
    best: list[tuple[int, list[int]]] = []
    for j, segment in enumerate(segments):
        num_frames = 0
        chain: list[int] = []
        for i in range(j - 1):  # a jump separates the previous segment
            a, b = segments[i][-1], segment[0]
            is_consistent = b - a <= _MAX_TESTED_GAP and rotation_angle_deg(R[a], R[b]) <= limit * np.sqrt(b - a)
            if is_consistent and best[i][0] > num_frames:
                num_frames, chain = best[i]
        best.append((num_frames + len(segment), [*chain, j]))
    for j in max(best, key=lambda found: found[0])[1]:
        trusted[segments[j]] = True
    return trusted


def disagreement_deg(
    a: Mapping[str, np.ndarray],
    b: Mapping[str, np.ndarray],
    inlier_deg: float = 5.0,
) -> dict[str, float]:
    """Angle between the rotations of two models per common frame, after aligning their object frames.

    Poses are (4, 4) T_cam_obj by frame name.
    """
    common = sorted(a.keys() & b.keys())
    if not common:
        return {}
    R_a, R_b = (np.stack([poses[name][:3, :3] for name in common]) for poses in (a, b))
    angles = rotation_angle_deg(R_a, R_b @ dominant_rotation(R_a, R_b, inlier_deg))
    return dict(zip(common, angles.tolist(), strict=True))


def dominant_rotation(R_a: np.ndarray, R_b: np.ndarray, inlier_deg: float = 5.0) -> np.ndarray:
    """R_objb_obja (3, 3) with most inliers among the frames of two stacks of rotations (T, 3, 3): their mean."""
    relative = np.swapaxes(R_b, 1, 2) @ R_a  # estimate of each frame
    count = len(relative)
    inlier = rotation_angle_deg(relative[:, None].repeat(count, 1), relative[None].repeat(count, 0)) < inlier_deg
    return np.asarray(Rotation.from_matrix(relative[inlier[inlier.sum(1).argmax()]]).mean().as_matrix())


def fill_gaps(
    T_cam_obj: np.ndarray,
    known: np.ndarray,
    centre_obj: np.ndarray,
    max_gap: int,
) -> tuple[np.ndarray, list[str]]:
    """Poses (T, 4, 4) for every frame, and per frame '' (known), 'interpolated' or 'held'.

    Across gaps of at most `max_gap` frames the rotation is interpolated by SLERP and the object's centre (3,) linearly in
    the camera frame. In longer gaps, before the first known frame and after the last one, the nearest known pose is held.
    Raises ValueError when no frame is known.
    """
    R = interpolate_rotations(T_cam_obj[:, :3, :3], known)
    centre_cam = interpolate_linear(T_cam_obj[:, :3, :3] @ centre_obj + T_cam_obj[:, :3, 3], known)
    interpolated = from_rt(R, centre_cam - R @ centre_obj)
    at, frames = np.flatnonzero(known), np.arange(len(known))
    right = np.searchsorted(at, frames)
    after, before = at[np.minimum(right, len(at) - 1)], at[np.maximum(right - 1, 0)]
    nearest = np.where(np.abs(frames - before) <= np.abs(after - frames), before, after)
    is_short = (before < frames) & (frames < after) & (after - before - 1 <= max_gap)
    full = np.where(known[:, None, None], T_cam_obj, np.where(is_short[:, None, None], interpolated, T_cam_obj[nearest]))
    return full, ["" if k else "interpolated" if short else "held" for k, short in zip(known, is_short, strict=True)]
