"""Poses of frames that structure from motion lost, from the motion of the hand that holds the object, fitted to the poses around the gap.

While the grasp is static the object moves with the palm: R_cam_obj = R_cam_palm R_g, and its centre p (SfM units) has s p = R_cam_palm g + t_cam_palm
(m). Grasp R_g, g and scale s (m per SfM unit) are those of the frames around a gap that have both; s is the scale of a rigid grasp, linear in
(s, g). What the palm's motion misses at the ends of the gap is interpolated across it.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from holdprep.geometry.rigid import from_rt, rotation_angle_deg
from holdprep.object import cloud
from holdprep.object.palm_motion import PalmMotion, moved_mm
from holdprep.object.reconstruction import ObjectReconstruction
from holdprep.object.trajectory import dominant_rotation, fill_gaps

WINDOW = 30  # frames before and after a gap, in which the grasp is estimated
MIN_SIDE = 5  # of them with hand and pose, on each side that has any pose
MIN_FRAMES = 8  # on both sides together
MAX_AWAY = 5  # frames between the gap and the nearest one with hand and pose
STATIC_DEG = 15.0  # 90th percentile of the angle between the object's rotation and the static grasp's
MIN_TURN = 2.0  # of the palm in the gap, relative to the median of this angle: a held pose is better where the palm hardly turns
STATIC_MM = 15.0  # as `moved_mm`, of the fingertips, around the gap and in it
MAX_OFF_M = 0.03  # median distance of the object's centre from the static grasp's
MAX_SCALE_STDERR = 0.15  # relative
# Errors of the palm's position: across, and along the line of sight relative to the distance.
_ACROSS_M, _ALONG = 0.004, 0.03
_REACH_M = 0.08  # standard deviation, per axis, of the object's centre in the palm: a hand holds it
_ALIKE_FRAMES = 5.0  # that share their error: the palm's motion is smoothed over time
_INLIER_DEG = 15.0


@dataclass(frozen=True)
class Grasp:
    """A static grasp: R_palm_obj (3, 3), the object's centre in the palm (3,) m, and metres per SfM unit with its relative standard error.

    `departure_deg` is the median angle between the object's rotation and that of this grasp.
    """

    R_palm_obj: np.ndarray
    centre_palm_m: np.ndarray
    scale: float
    scale_stderr: float
    departure_deg: float

    def poses(self, T_cam_palm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rotations (N, 3, 3) of the object and positions (N, 3) of its centre in SfM units, in the palms (N, 4, 4)."""
        R = T_cam_palm[:, :3, :3]
        return R @ self.R_palm_obj, (R @ self.centre_palm_m + T_cam_palm[:, :3, 3]) / self.scale


def carried_by_hand(found: ObjectReconstruction, palm: PalmMotion, holds: np.ndarray, max_gap: int) -> ObjectReconstruction:
    """The reconstruction with poses of lost frames from the hand where `carry` gives them; they remain frames that are not registered."""
    centre_obj = cloud.centre(found.trimmed_points_obj)
    T, carried = carry(found.T_cam_obj, found.registered, centre_obj, palm, holds, max_gap)
    T_cam_obj, filled = fill_gaps(T, found.registered | carried, centre_obj, max_gap)
    origin = ["hand" if by_hand else how or before for by_hand, how, before in zip(carried.tolist(), filled, found.origin, strict=True)]
    return replace(found, T_cam_obj=T_cam_obj, origin=origin)


def carry(
    T_cam_obj: np.ndarray, registered: np.ndarray, centre_obj: np.ndarray, palm: PalmMotion, holds: np.ndarray, max_gap: int
) -> tuple[np.ndarray, np.ndarray]:
    """Poses (T, 4, 4) with those that the hand gives to lost frames, and which these are, (T,) bool; SfM units, the palm's in metres.

    `registered` (T,) are the frames with a measured pose, `holds` (T,) those in which the hand is found and touches the object; `centre_obj`
    (3,) is the object's centre. Gaps of at most `max_gap` frames between measured ones are left: they are interpolated. So are gaps
    around which the grasp is not static or does not determine the scale, and those in which the palm hardly turns.
    """
    T, carried = T_cam_obj.copy(), np.zeros(len(registered), bool)
    for start, stop in _gaps(registered, max_gap):
        sides = _sides(start, stop, registered & holds)
        at = np.concatenate(sides)
        lost = start + np.flatnonzero(holds[start:stop])
        if not len(lost) or len(at) < MIN_FRAMES or not _are_sufficient(sides, registered, start, stop):
            continue
        grasp = fit_grasp(T_cam_obj[at], centre_obj, palm.T_cam_palm[at])
        ends = np.array([side[i] for side, i in zip(sides, (-1, 0), strict=True) if len(side)])
        if grasp is None or moved_mm(palm.tips_palm_m[np.concatenate([at, lost])]) > STATIC_MM:
            continue
        if _turn_deg(palm.T_cam_palm[:, :3, :3], lost, ends) < MIN_TURN * grasp.departure_deg:
            continue
        T[lost] = _between(lost, ends, T_cam_obj, centre_obj, grasp, palm)
        carried[lost] = True
    return T, carried


def fit_grasp(T_cam_obj: np.ndarray, centre_obj: np.ndarray, T_cam_palm: np.ndarray) -> Grasp | None:
    """The static grasp of frames with poses of object (N, 4, 4; SfM units) and palm (N, 4, 4; m), None where it is not static or undetermined."""
    R_obj, R_palm, palm_m = T_cam_obj[:, :3, :3], T_cam_palm[:, :3, :3], T_cam_palm[:, :3, 3]
    R_palm_obj = dominant_rotation(R_obj, R_palm, _INLIER_DEG)
    departure_deg = rotation_angle_deg(R_obj, R_palm @ R_palm_obj)
    if np.percentile(departure_deg, 90) > STATIC_DEG:
        return None
    centre = R_obj @ centre_obj + T_cam_obj[:, :3, 3]
    rows = np.concatenate([centre[..., None], -R_palm], axis=2)
    # whitened by the errors of the palm's position, which are largest along the line of sight
    sight = palm_m / np.linalg.norm(palm_m, axis=1, keepdims=True)
    along = 1 / (_ALONG * np.linalg.norm(palm_m, axis=1)) - 1 / _ACROSS_M
    whiten = np.eye(3) / _ACROSS_M + along[:, None, None] * sight[:, :, None] * sight[:, None]
    prior = np.concatenate([np.zeros((3, 1)), np.eye(3)], axis=1) / _REACH_M * np.sqrt(_ALIKE_FRAMES)
    A = np.concatenate([(whiten @ rows).reshape(-1, 4), prior])
    b = np.concatenate([(whiten @ palm_m[..., None]).ravel(), np.zeros(3)])
    scale, *g = np.linalg.lstsq(A, b, rcond=None)[0]
    off_m = np.linalg.norm(scale * centre - R_palm @ np.array(g) - palm_m, axis=1)
    noise = max(1.0, float(np.square(A @ [scale, *g] - b).mean()))
    stderr = float(np.sqrt(noise * _ALIKE_FRAMES * np.linalg.inv(A.T @ A)[0, 0]))
    if not scale > 0 or stderr > MAX_SCALE_STDERR * scale or np.median(off_m) > MAX_OFF_M:
        return None
    return Grasp(R_palm_obj, np.array(g), float(scale), stderr / float(scale), float(np.median(departure_deg)))


def _gaps(registered: np.ndarray, max_gap: int) -> list[tuple[int, int]]:
    """First frame and the one after the last of every gap that is not interpolated."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], registered, [True]]).astype(int)))
    runs = [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
    return [(a, b) for a, b in runs if a == 0 or b == len(registered) or b - a > max_gap]


def _sides(start: int, stop: int, both: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames before and after a gap that have hand and pose, `both` (T,)."""
    before, after = max(start - WINDOW, 0), min(stop + WINDOW, len(both))
    return before + np.flatnonzero(both[before:start]), stop + np.flatnonzero(both[stop:after])


def _are_sufficient(sides: tuple[np.ndarray, np.ndarray], registered: np.ndarray, start: int, stop: int) -> bool:
    """Whether each side of a gap that has any pose has enough frames with a hand, the nearest of them near the gap."""
    before, after = sides
    return all(
        not has_poses or (len(side) >= MIN_SIDE and away <= MAX_AWAY)
        for side, has_poses, away in (
            (before, registered[:start].any(), start - before[-1] if len(before) else 0),
            (after, registered[stop:].any(), after[0] - stop + 1 if len(after) else 0),
        )
    )


def _turn_deg(R_cam_palm: np.ndarray, lost: np.ndarray, ends: np.ndarray) -> float:
    """The largest rotation of the palm between a lost frame and the end of the gap that is nearer to it."""
    nearest = ends[np.abs(lost[:, None] - ends).argmin(axis=1)]
    return float(rotation_angle_deg(R_cam_palm[lost], R_cam_palm[nearest]).max())


def _between(
    lost: np.ndarray, ends: np.ndarray, T_cam_obj: np.ndarray, centre_obj: np.ndarray, grasp: Grasp, palm: PalmMotion
) -> np.ndarray:
    """Poses (N, 4, 4) of the frames `lost` (N,) in the palm; what it misses at the one or two `ends` with a measured pose is interpolated."""
    R_ends, centre_ends = grasp.poses(palm.T_cam_palm[ends])
    missed_R = Rotation.from_matrix(T_cam_obj[ends, :3, :3] @ np.swapaxes(R_ends, 1, 2))
    missed = T_cam_obj[ends, :3, :3] @ centre_obj + T_cam_obj[ends, :3, 3] - centre_ends
    share = (lost - ends[0]) / max(ends[-1] - ends[0], 1) if len(ends) == 2 else np.zeros(len(lost))
    turn = (missed_R[-1] * missed_R[0].inv()).as_rotvec()
    R_lost, centre_lost = grasp.poses(palm.T_cam_palm[lost])
    R = (Rotation.from_rotvec(share[:, None] * turn) * missed_R[0]).as_matrix() @ R_lost
    centre = centre_lost + missed[0] + share[:, None] * (missed[-1] - missed[0])
    return from_rt(R, centre - R @ centre_obj)
