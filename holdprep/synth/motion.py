"""How hand and object move before a camera: held rigidly, turned in the fingers, or gripped anew, as a person shows a thing from all sides."""

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
KEY_TURN_RAD, KEY_OPEN_M = 0.15, 0.004  # a moment is solved anew when the object has turned, or the hand opened, by so much
SHARE_IN_HAND = {"rigid": 0.0, "in_hand": 0.6, "regrasp": 0.5}  # of all turning; the arm does the rest
HANDLE_ROOM_DEG = 70.0  # a mug turns no further in the hand: its handle would meet the fingers
REGRASPS = 2
OPEN_FRAMES = 10  # a hand lets go, moves and closes again in a third of a second
OPEN_M = 0.008  # and lifts its tips by this
TILT_DEG = 22.0  # the camera looks down a little
BOTH_REACHES_M = (0.01, 0.02)  # two hands leave each other room


@dataclass(frozen=True)
class Showing:
    """How an object is shown: turned by `degrees` in all over `frames`, at `depth_m` from the camera."""

    grasp: Grasp
    frames: int
    degrees: float
    depth_m: float


@dataclass(frozen=True)
class Motion:
    """T frames in the OpenCV camera frame: `T_cam_obj` (T, 4, 4) m, `params` by side (float64), `contact_gap_mm` and `penetration_mm` (T,) by side
    (see `grasp.contact`), `segments` (T,) numbers the stretches in which object and hand are one rigid body, -1 elsewhere."""

    T_cam_obj: np.ndarray
    params: dict[Side, ManoParams]
    contact_gap_mm: dict[Side, np.ndarray]
    penetration_mm: dict[Side, np.ndarray]
    segments: np.ndarray


def make_motion(obj: SynthObject, models: Mapping[Side, HandModel], showing: Showing, *, seed: int, betas: Tensor) -> Motion:
    """The object turns before the camera about an upright axis; hands of shape `betas` (10,) follow.

    The right or the only hand holds it from below, a second one from above. `in_hand` turns it in the fingers by 60 % of that, `regrasp` by
    half in REGRASPS steps with the hand open.
    """
    frames = showing.frames
    share = SHARE_IN_HAND[showing.grasp] * showing.degrees
    if obj.has_handle:
        share = min(share, HANDLE_ROOM_DEG)
    turn, gap, segments = _turning(showing.grasp, frames, np.radians(share))
    # the handle starts, and stays, away from the thumb, which is at +x for a right hand
    turn = turn - turn[-1] / 2 + (np.pi if "right" in models else 0.0)
    T_cam_grip = _showing(frames, np.radians(showing.degrees - share), showing.depth_m, np.random.default_rng(seed))
    T_cam_obj = T_cam_grip @ from_rt(Rotation.from_rotvec(turn[:, None] * [0.0, 1.0, 0.0]).as_matrix(), np.zeros((frames, 3)))
    params: dict[Side, ManoParams] = {}
    gaps: dict[Side, np.ndarray] = {}
    depths: dict[Side, np.ndarray] = {}
    for side, model in models.items():
        second = side == "left" and len(models) == 2
        approach = Approach(second, BOTH_REACHES_M if len(models) == 2 else REACHES_M)
        held = _hold(obj, model, betas, turn, gap, approach=approach, seed=seed)
        gaps[side], depths[side] = contact(obj, model, held, torch.from_numpy(turn))
        params[side] = moved(model, held, T_cam_grip)
    return Motion(T_cam_obj, params, gaps, depths, segments)


def _turning(grasp: Grasp, frames: int, angle: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn in the hand (T,) rad, opening of the hand (T,) m, segment numbers (T,)."""
    t = np.arange(frames)
    if grasp == "rigid":
        return np.zeros(frames), np.zeros(frames), np.zeros(frames, int)
    if grasp == "in_hand":
        return angle * _ease(t / max(frames - 1, 1)), np.zeros(frames), np.full(frames, -1)
    turn, gap, segments = np.zeros(frames), np.zeros(frames), np.zeros(frames, int)
    half = max(min(OPEN_FRAMES, frames // (2 * REGRASPS + 2)), 1) / 2
    for k in range(1, REGRASPS + 1):
        middle = k * frames / (REGRASPS + 1)
        turn += angle / REGRASPS * _ease((t - middle + half) / (2 * half))
        gap += OPEN_M * np.cos(np.pi / 2 * np.clip((t - middle) / half, -1, 1)) ** 2
        segments[t >= middle] = k
    return turn, gap, np.where(gap > 1e-9, -1, segments)


def _ease(x: np.ndarray) -> np.ndarray:
    """From 0 to 1 without a jerk at either end."""
    x = np.clip(x, 0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)


def _showing(frames: int, angle: float, depth_m: float, rng: np.random.Generator) -> np.ndarray:
    """(T, 4, 4) T_cam_grip: the forearm turns about its own length, below the picture; the whole sways and nods a little."""
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
    turn: np.ndarray,
    gap: np.ndarray,
    *,
    approach: Approach,
    seed: int,
) -> ManoParams:
    """The hand in the grip frame, T frames: solved at key moments, and smooth between (PCHIP keeps still what is still)."""
    keys = _key_frames(turn, gap)
    # moments that are alike are one: a rigid stretch must be rigid
    states, which = np.unique(np.stack([turn[keys], gap[keys]], axis=1).round(6), axis=0, return_inverse=True)
    first = np.array([np.flatnonzero(which.ravel() == i)[0] for i in range(len(states))])
    order = np.argsort(first)
    rank = np.argsort(order)[which.ravel()]
    found = solve_grip(obj, model, betas, states[order, 0], states[order, 1], approach=approach, seed=seed).params
    values = torch.cat([found.global_orient, found.hand_pose, found.transl], dim=1).double().numpy()[rank]
    if len(keys) > 1:
        values = PchipInterpolator(keys, values)(np.arange(len(turn)))
    orient, pose, transl = (torch.from_numpy(x) for x in np.split(values, [3, 48], axis=1))
    return ManoParams(orient, pose, betas.double(), transl)


def _key_frames(turn: np.ndarray, gap: np.ndarray) -> list[int]:
    """Both ends, where a stretch of rest begins or ends, and in between whenever enough has changed."""
    last = len(turn) - 1
    still = np.concatenate([[True], (np.abs(np.diff(turn)) < 1e-9) & (np.abs(np.diff(gap)) < 1e-9), [True]])
    keys = [0]
    for t in range(1, last + 1):
        changed = abs(turn[t] - turn[keys[-1]]) >= KEY_TURN_RAD or abs(gap[t] - gap[keys[-1]]) >= KEY_OPEN_M
        if changed or still[t] != still[t + 1] or t == last:
            keys.append(t)
    return keys


def moved(model: HandModel, held: ManoParams, motion: np.ndarray) -> ManoParams:
    """MANO's parameters after a rigid motion (T, 4, 4) of the whole hand: global_orient turns about the shaped template's wrist."""
    wrist = (model.J_regressor @ (model.v_template + model.shapedirs @ held.betas))[0]
    T = torch.from_numpy(motion)
    orient = roma.rotmat_to_rotvec(T[:, :3, :3] @ roma.rotvec_to_rotmat(held.global_orient))
    place = (T[:, :3, :3] @ (held.transl + wrist)[..., None])[..., 0] + T[:, :3, 3] - wrist
    return replace(held, global_orient=orient, transl=place)
