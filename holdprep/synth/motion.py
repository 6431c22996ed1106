"""Motion of hand and object in front of a camera: rigid grasp, rotation in the fingers, or change of grip."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import roma
import torch
from scipy.interpolate import PchipInterpolator
from scipy.spatial.transform import Rotation
from torch import Tensor

from holdprep.geometry.rigid import from_rt
from holdprep.hand.model import HandModel, ManoParams, Side
from holdprep.synth.grasp import REACHES_M, Approach, contact, solve_grip
from holdprep.synth.objects import SynthObject

Grasp = Literal["rigid", "in_hand", "regrasp"]
KEY_ROTATION_RAD, KEY_OPEN_M = 0.15, 0.004  # rotation of the object and opening of the hand between key frames
SHARE_IN_HAND = {"rigid": 0.0, "in_hand": 0.6, "regrasp": 0.5}  # of the total rotation; the rest is by the arm
HANDLE_ROOM_DEG = 70.0  # maximal rotation of a mug in the hand, limited by its handle
REGRASPS = 2
OPEN_FRAMES = 10  # time of a change of grip, about 0.3 s
OPEN_M = 0.008  # distance of the tips meanwhile
TILT_DEG = 22.0  # of the camera, downwards
BOTH_REACHES_M = (0.01, 0.02)  # smaller, so that two hands do not collide


@dataclass(frozen=True)
class Showing:
    """How an object is shown: turned by `degrees` in all over `frames`, at `depth_m` from the camera, `shift_m` to the right and down."""

    grasp: Grasp
    frames: int
    degrees: float
    depth_m: float
    shift_m: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Motion:
    """T frames in the OpenCV camera frame.

    `T_cam_obj` (T, 4, 4) m, `params` by side (float64), `contact_gap_mm` and `penetration_mm` (T,) by side (see `grasp.contact`),
    `segments` (T,) numbers of stretches in which object and hand are one rigid body, -1 elsewhere.
    """

    T_cam_obj: np.ndarray
    params: dict[Side, ManoParams]
    contact_gap_mm: dict[Side, np.ndarray]
    penetration_mm: dict[Side, np.ndarray]
    segments: np.ndarray


def make_motion(obj: SynthObject, models: Mapping[Side, HandModel], showing: Showing, *, seed: int, betas: Tensor) -> Motion:
    """The object rotates in front of the camera about an upright axis, with hands of shape `betas` (10,).

    The right or the only hand holds it from below, a second one from above. `in_hand` rotates it in the fingers by 60 % of that,
    `regrasp` by half in REGRASPS steps with the hand open.
    """
    frames = showing.frames
    share = SHARE_IN_HAND[showing.grasp] * showing.degrees
    if obj.has_handle:
        share = min(share, HANDLE_ROOM_DEG)
    rotation, gap, segments = _rotation_in_hand(showing.grasp, frames, np.radians(share))
    # the handle is away from the thumb, which is at +x for a right hand
    rotation = rotation - rotation[-1] / 2 + (np.pi if "right" in models else 0.0)
    T_cam_grip = _showing(frames, np.radians(showing.degrees - share), showing.depth_m, np.random.default_rng(seed))
    T_cam_grip[:, :2, 3] += showing.shift_m
    T_cam_obj = T_cam_grip @ from_rt(Rotation.from_rotvec(rotation[:, None] * [0.0, 1.0, 0.0]).as_matrix(), np.zeros((frames, 3)))
    params: dict[Side, ManoParams] = {}
    gaps: dict[Side, np.ndarray] = {}
    depths: dict[Side, np.ndarray] = {}
    for side, model in models.items():
        second = side == "left" and len(models) == 2
        approach = Approach(second, BOTH_REACHES_M if len(models) == 2 else REACHES_M)
        held = _hold(obj, model, betas, rotation, gap, approach=approach, seed=seed)
        gaps[side], depths[side] = contact(obj, model, held, torch.from_numpy(rotation))
        params[side] = moved(model, held, T_cam_grip)
    return Motion(T_cam_obj, params, gaps, depths, segments)


def _rotation_in_hand(grasp: Grasp, frames: int, angle: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotation in the hand (T,) rad, opening of the hand (T,) m, segment numbers (T,)."""
    t = np.arange(frames)
    if grasp == "rigid":
        return np.zeros(frames), np.zeros(frames), np.zeros(frames, int)
    if grasp == "in_hand":
        return angle * _ease(t / max(frames - 1, 1)), np.zeros(frames), np.full(frames, -1)
    rotation, gap, segments = np.zeros(frames), np.zeros(frames), np.zeros(frames, int)
    half = max(min(OPEN_FRAMES, frames // (2 * REGRASPS + 2)), 1) / 2
    for k in range(1, REGRASPS + 1):
        centre = k * frames / (REGRASPS + 1)
        rotation += angle / REGRASPS * _ease((t - centre + half) / (2 * half))
        gap += OPEN_M * np.cos(np.pi / 2 * np.clip((t - centre) / half, -1, 1)) ** 2
        segments[t >= centre] = k
    return rotation, gap, np.where(gap > 1e-9, -1, segments)


def _ease(x: np.ndarray) -> np.ndarray:
    """Smooth step from 0 to 1 with zero velocity and acceleration at both ends."""
    x = np.clip(x, 0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)


def _showing(frames: int, angle: float, depth_m: float, rng: np.random.Generator) -> np.ndarray:
    """(T, 4, 4) T_cam_grip: rotation about the forearm, which is below the image, with small additional motion."""
    t = np.linspace(0, 1, frames)
    phase = rng.uniform(0, 2 * np.pi, 5)
    yaw = angle * (t - 0.5) + 0.1 * np.sin(4 * t + phase[0])
    nod = np.radians(TILT_DEG) + 0.15 * np.sin(5 * t + phase[1])
    lean = 0.18 * np.sin(4 * t + phase[2])
    upright = Rotation.from_euler("x", np.pi)  # y up to y down
    R = Rotation.from_euler("z", lean[:, None]) * Rotation.from_euler("x", nod[:, None]) * upright * Rotation.from_euler("y", yaw[:, None])
    sway = np.stack([0.05 * np.sin(5 * t + phase[3]), -0.06 + 0.03 * np.cos(4 * t + phase[4]), 1 + 0.06 * np.sin(3 * t)], axis=1)
    return from_rt(R.as_matrix(), depth_m * sway)


def _hold(
    obj: SynthObject,
    model: HandModel,
    betas: Tensor,
    rotation: np.ndarray,
    gap: np.ndarray,
    *,
    approach: Approach,
    seed: int,
) -> ManoParams:
    """The hand in the grip frame, T frames: solved at key frames, with monotone interpolation (PCHIP) between them, which keeps static
    stretches static.
    """
    keys = _key_frames(rotation, gap)
    # equal states are solved once, so that a rigid stretch is rigid
    states, which = np.unique(np.stack([rotation[keys], gap[keys]], axis=1).round(6), axis=0, return_inverse=True)
    first = np.array([np.flatnonzero(which.ravel() == i)[0] for i in range(len(states))])
    order = np.argsort(first)
    rank = np.argsort(order)[which.ravel()]
    found = solve_grip(obj, model, betas, states[order, 0], states[order, 1], approach=approach, seed=seed).params
    values = torch.cat([found.global_orient, found.hand_pose, found.transl], dim=1).double().numpy()[rank]
    if len(keys) > 1:
        values = PchipInterpolator(keys, values)(np.arange(len(rotation)))
    orient, pose, transl = (torch.from_numpy(x) for x in np.split(values, [3, 48], axis=1))
    return ManoParams(orient, pose, betas.double(), transl)


def _key_frames(rotation: np.ndarray, gap: np.ndarray) -> list[int]:
    """Key frames: first and last, starts and ends of static stretches, and wherever the change is large enough."""
    last = len(rotation) - 1
    static = np.concatenate([[True], (np.abs(np.diff(rotation)) < 1e-9) & (np.abs(np.diff(gap)) < 1e-9), [True]])
    keys = [0]
    for t in range(1, last + 1):
        changed = abs(rotation[t] - rotation[keys[-1]]) >= KEY_ROTATION_RAD or abs(gap[t] - gap[keys[-1]]) >= KEY_OPEN_M
        if changed or static[t] != static[t + 1] or t == last:
            keys.append(t)
    return keys


def moved(model: HandModel, held: ManoParams, motion: np.ndarray) -> ManoParams:
    """MANO's parameters after a rigid motion (T, 4, 4) of the whole hand: global_orient rotates about the shaped template's wrist."""
    wrist = (model.J_regressor @ (model.v_template + model.shapedirs @ held.betas))[0]
    T = torch.from_numpy(motion)
    orient = roma.rotmat_to_rotvec(T[:, :3, :3] @ roma.rotvec_to_rotmat(held.global_orient))
    transl = (T[:, :3, :3] @ (held.transl + wrist)[..., None])[..., 0] + T[:, :3, 3] - wrist
    return replace(held, global_orient=orient, transl=transl)
