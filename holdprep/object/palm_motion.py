"""The palm's motion, which is the object's while the grasp is static, and how far the fingers move in the palm, which no static grasp does.

The palm (wrist and knuckles) is rigid. Its poses are those of a tracker's joints, of which one camera gives the depth badly: they are
smoothed over time, and are only the prior of the object's motion.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import between_cameras, linear_translation
from holdprep.geometry.rigid import apply, from_rt, interpolate_linear, interpolate_rotations, invert
from holdprep.hand.conventions import mesh_joints
from holdprep.hand.joints import PALM
from holdprep.hand.model import HandModel, Side
from holdprep.hand.trackers.tracks import VertexTrack

SMOOTH_FRAMES = 2.0  # standard deviation of the smoothing over time, by default
OUTLIER_RAD = np.radians(15)  # a rotation this far from its neighbours has half the weight
MIN_FOUND = 5  # frames with a hand
TIPS = slice(16, 21)
MOVED_PERCENTILE = 90  # over frames, of the fingertips' distance from their median place in the palm
_TEMPLATE_ROUNDS = 4


@dataclass(frozen=True)
class PalmMotion:
    """Poses of the palm, `T_cam_palm` (T, 4, 4) m in every frame, and in which the hand was `found` (T,) bool; interpolated elsewhere.

    `tips_palm_m` (T, 5, 3) are the fingertips in the palm, smoothed over time, NaN where the hand was not found.
    """

    T_cam_palm: np.ndarray
    found: np.ndarray
    tips_palm_m: np.ndarray

    @property
    def finger_motion_mm(self) -> float:
        """How far the fingertips move in the palm, see `moved_mm`."""
        return moved_mm(self.tips_palm_m[self.found])


def palm_motion(joints_m: np.ndarray, j2d_px: np.ndarray, K: np.ndarray, smooth_frames: float = SMOOTH_FRAMES) -> PalmMotion:
    """The palm's motion under the camera `K` (3, 3) from joints (T, 21, 3), whose position is not used, and keypoints (T, 21, 2).

    MANO-21 order, NaN where the hand was not found. Raises HoldprepError with fewer than MIN_FOUND frames.
    """
    found = np.isfinite(joints_m).all(axis=(1, 2)) & np.isfinite(j2d_px).all(axis=(1, 2))
    if found.sum() < MIN_FOUND:
        raise HoldprepError(
            f"the hand is found in {found.sum()} of {len(found)} frames, {MIN_FOUND} are needed to follow it: check its mask and side "
            "(hand.check=true), or use another tracker (hand=import)"
        )
    relative = joints_m[found] - joints_m[found][:, :1]
    weight = torch.ones(relative.shape[:2], dtype=torch.float64)
    wrist = linear_translation(torch.as_tensor(relative), torch.as_tensor(K), torch.as_tensor(j2d_px[found]), weight).numpy()
    T_found = _poses(relative[:, list(PALM)] + wrist[:, None])
    frames = np.flatnonzero(found)
    R_found = _smoothed(Rotation.from_matrix(T_found[:, :3, :3]), frames, smooth_frames)
    joints_palm_m = apply(invert(T_found), relative + wrist[:, None])
    R, t, tips = np.zeros((len(found), 3, 3)), np.zeros((len(found), 3)), np.full((len(found), 5, 3), np.nan)
    R[found], t[found], tips[found] = R_found, T_found[:, :3, 3], _smoothed_points(joints_palm_m[:, TIPS], frames, smooth_frames)
    t = gaussian_filter1d(interpolate_linear(t, found), smooth_frames, axis=0, mode="nearest")
    return PalmMotion(from_rt(interpolate_rotations(R, found), t), found, tips)


def of_track(track: VertexTrack, side: Side, model: HandModel, K: np.ndarray) -> PalmMotion:
    """The palm's motion of a tracker's hand under the camera `K` (3, 3); `model` is of the same side. Raises as `palm_motion`."""
    j2d_px = track.j2d_px[side]
    to_camera = between_cameras((j2d_px.min(axis=1) + j2d_px.max(axis=1)) / 2, track.K, K).swapaxes(1, 2)
    return palm_motion(mesh_joints(model, track.vertices_m[side]) @ to_camera, j2d_px, K)


def moved_mm(tips_palm_m: np.ndarray) -> float:
    """How far fingertips (F, 5, 3) move in the palm: RMS over tips of the distance from their median place, 90th percentile over frames."""
    distance = tips_palm_m - np.median(tips_palm_m, axis=0)
    return 1e3 * float(np.percentile(np.sqrt(np.square(distance).sum(axis=2).mean(axis=1)), MOVED_PERCENTILE))


def _smoothed_points(points: np.ndarray, frames: np.ndarray, smooth_frames: float) -> np.ndarray:
    """Points (F, N, 3) of `frames` (F,), smoothed over time: their noise is independent from frame to frame."""
    share = _shares(frames, smooth_frames)
    return (share @ points.reshape(len(frames), -1) / share.sum(axis=1, keepdims=True)).reshape(points.shape)


def _poses(palm_m: np.ndarray) -> np.ndarray:
    """(F, 4, 4) rigid poses of the palm's joints (F, J, 3), by their mean shape (generalised Procrustes analysis)."""
    centre = palm_m.mean(axis=1)
    centred = palm_m - centre[:, None]
    mean_shape = centred[0]
    for _ in range(_TEMPLATE_ROUNDS):
        R = np.stack([Rotation.align_vectors(joints, mean_shape)[0].as_matrix() for joints in centred])
        mean_shape = np.median(centred @ R, axis=0)
        mean_shape = mean_shape - mean_shape.mean(axis=0)
    return from_rt(R, centre)


def _smoothed(rotations: Rotation, frames: np.ndarray, smooth_frames: float) -> np.ndarray:
    """(F, 3, 3) weighted means of rotations near in time; those far from the mean of the others have less weight."""
    share = _shares(frames, smooth_frames)
    first = [rotations.mean(row) for row in share]
    trust = [1 / (1 + ((mean.inv() * rotations).magnitude() / OUTLIER_RAD) ** 2) for mean in first]
    return np.stack([rotations.mean(row * own).as_matrix() for row, own in zip(share, trust, strict=True)])


def _shares(frames: np.ndarray, smooth_frames: float) -> np.ndarray:
    """(F, F) weights of frames in the mean around each."""
    return np.exp(-0.5 * ((frames[:, None] - frames) / smooth_frames) ** 2)
