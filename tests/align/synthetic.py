"""Synthetic truth: a hand in MANO's layout made of boxes along bones, a box-shaped cloud, and sequences of both."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import roma
import torch
from scipy.optimize import least_squares

from holdprep.align import run
from holdprep.align.problem import Alignment, HandObservation, Mode, Problem, Tracks
from holdprep.geometry.cameras import pinhole_K, project
from holdprep.hand.lbs import HandPoints, HandState, tip_patches, to_params
from holdprep.hand.model import HandModel, ManoParams, Side
from holdprep.optimisation import Training

PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
TIPS = {15: 744, 3: 320, 6: 443, 12: 554, 9: 671}
EMPTY = torch.zeros(0, dtype=torch.long)


def hand_model(side: Side = "right") -> HandModel:
    """778 vertices around the bones of a hand of human size (wrist at MANO's position, fingers along -x)."""
    rng = np.random.default_rng(7)
    joints = np.zeros((16, 3))
    joints[0] = (0.096, 0.006, 0.006)
    for base, z, reach in ((1, -0.028, 0.088), (4, 0.0, 0.09), (7, 0.04, 0.076), (10, 0.021, 0.084)):
        for n, along in enumerate((0.0, 0.033, 0.056)):
            joints[base + n] = (0.096 - reach - along, 0.006, z)
    for n, at in enumerate(((0.07, -0.01, -0.03), (0.045, -0.015, -0.05), (0.02, -0.018, -0.065))):
        joints[13 + n] = at
    ends = {k: joints[k] + (joints[k] - joints[PARENTS[k]]) * (0.022 / np.linalg.norm(joints[k] - joints[PARENTS[k]])) for k in TIPS}
    bone = np.arange(778) % 16
    vertices = np.zeros((778, 3))
    for k in range(16):
        mine = bone == k
        child = [c for c in range(16) if PARENTS[c] == k]
        along = rng.uniform(0, 1, (mine.sum(), 1))
        goal = joints[rng.choice(child, mine.sum())] if child else np.tile(ends[k], (mine.sum(), 1))
        vertices[mine] = joints[k] + along * (goal - joints[k]) + rng.normal(scale=0.004, size=(mine.sum(), 3))
    for k, vertex in TIPS.items():
        vertices[vertex], bone[vertex] = ends[k], k
    weights = np.full((778, 16), 0.005)
    weights[np.arange(778), bone] = 1.0
    weights /= weights.sum(1, keepdims=True)
    lift = np.concatenate([vertices, np.ones((778, 1))], axis=1)
    near = np.exp(-np.square(np.linalg.norm(vertices[None] - joints[:, None], axis=-1) / 0.02))
    correct = lift @ np.linalg.pinv(lift.T @ lift)
    regressor = np.stack([n + correct @ (np.append(j, 1) - lift.T @ n) for n, j in zip(near, joints, strict=True)])
    sizes = np.zeros((778, 3, 10))
    sizes[..., 0] = 0.06 * (vertices - joints[0])
    sizes[..., 1:] = 0.02 * np.einsum("vc,cdb->vdb", vertices - joints[0], rng.normal(size=(3, 3, 9)))
    mirror = np.array([1.0, 1, 1]) if side == "right" else np.array([-1.0, 1, 1])
    tensor = torch.from_numpy
    return HandModel(
        side,
        "standin",
        tensor(vertices * mirror),
        tensor(sizes * mirror[:, None]),
        tensor(rng.normal(scale=2e-4, size=(778, 3, 135))),
        tensor(regressor),
        tensor(weights),
        tensor(rng.normal(scale=0.1, size=45)),
        torch.zeros(1538, 3, dtype=torch.long),
        PARENTS,
    )


def random_state(frames: int, seed: int = 0) -> HandState:
    """T random poses in front of the camera."""
    g = torch.Generator().manual_seed(seed)
    pose = 0.3 * torch.randn(16, 3, generator=g, dtype=torch.float64) + 0.05 * torch.randn(frames, 16, 3, generator=g, dtype=torch.float64)
    at = torch.tensor([0.02, -0.03, 0.6], dtype=torch.float64) + 0.02 * torch.randn(frames, 3, generator=g, dtype=torch.float64)
    return HandState(roma.rotvec_to_rotmat(pose), 0.5 * torch.randn(10, generator=g, dtype=torch.float64), at)


def bar_cloud(count: int = 1500, seed: int = 0) -> torch.Tensor:
    """Points (count, 3) on the surface of a cylinder about z, with its end caps."""
    rng = np.random.default_rng(seed)
    around, along = rng.uniform(0, 2 * np.pi, count), rng.uniform(-0.5, 0.5, count)
    end = rng.uniform(size=count) < BAR_RADIUS_M / (BAR_RADIUS_M + BAR_LENGTH_M)
    radius = np.where(end, BAR_RADIUS_M * np.sqrt(rng.uniform(size=count)), BAR_RADIUS_M)
    z = BAR_LENGTH_M * np.where(end, np.sign(along) / 2, along)
    return torch.from_numpy(np.stack([radius * np.cos(around), radius * np.sin(around), z], axis=1))


def rotations_about_y(frames: int, degrees: float, tilt: float = 0.35) -> torch.Tensor:
    """Rotations (T, 3, 3) by `degrees` in total, about an axis that changes slowly."""
    time = torch.linspace(0, 1, frames, dtype=torch.float64)
    vectors = torch.stack([tilt * torch.sin(5 * time), np.deg2rad(degrees) * time, tilt * torch.cos(4 * time)], dim=1)
    return roma.rotvec_to_rotmat(vectors)


def grasp(
    sides: tuple[Side, ...] = ("right",),
    frames: int = 60,
    in_hand: bool = False,
    noise_px: float = 0.0,
    unit_m: float = 0.037,
    seed: int = 0,
) -> tuple[Problem, dict[Side, ManoParams]]:
    """A cylinder held by one or two hands and rotated with them (`in_hand`: about its axis, in static hands); problem and true hands.

    All five fingertips touch the bar. SfM's unit is `unit_m` metres: the true scale.
    """
    g = torch.Generator().manual_seed(seed)
    R_cam_hand = torch.eye(3, dtype=torch.float64).repeat(frames, 1, 1) if in_hand else rotations_about_y(frames, 140.0)
    about_z = torch.linspace(0, np.deg2rad(140.0), frames, dtype=torch.float64)[:, None] * torch.tensor([0.0, 0, 1], dtype=torch.float64)
    R = roma.rotvec_to_rotmat(about_z) if in_hand else R_cam_hand
    time = torch.linspace(0, 1, frames, dtype=torch.float64)
    t = torch.stack([0.05 * torch.sin(4 * time), 0.03 * torch.cos(5 * time), 0.6 + 0.06 * torch.sin(3 * time)], dim=1)
    K = torch.from_numpy(pinhole_K(700.0, 640, 480))
    hands, truth = {}, {}
    for side in sides:
        model = hand_model(side)
        state = _holding(model, R_cam_hand, t)
        joints = HandPoints.of(model, EMPTY).pose(state).points[:, :21]
        j2d = project(joints, K) + noise_px * torch.randn(frames, 21, 2, generator=g, dtype=torch.float64)
        truth[side] = to_params(model, state)
        foreign = ManoParams(truth[side].global_orient, truth[side].hand_pose, truth[side].betas, truth[side].transl + 5.0)
        hands[side] = HandObservation(model, foreign, j2d, torch.ones(frames, dtype=torch.float64))
    cloud = bar_cloud()
    T_cam_obj = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    T_cam_obj[:, :3, :3], T_cam_obj[:, :3, 3] = R, t / unit_m
    return Problem(K, (640, 480), hands, cloud / unit_m, T_cam_obj, torch.ones(frames, dtype=torch.float64)), truth


def tracked(problem: Problem, per_frame: int, noise_px: float) -> Problem:
    """With observations of 50 of the object's points, `per_frame` in each frame."""
    g = torch.Generator().manual_seed(0)
    frame = torch.arange(problem.num_frames).repeat_interleave(per_frame)
    point = torch.randint(0, 50, (len(frame),), generator=g)
    T = problem.T_cam_obj[frame]
    points = (T[:, :3, :3] @ problem.points_obj[point][..., None])[..., 0] + T[:, :3, 3]
    px = project(points, problem.K) + noise_px * torch.randn(len(frame), 2, generator=g, dtype=torch.float64)
    return replace(problem, tracks=Tracks(frame, point, px))


BAR_RADIUS_M, BAR_LENGTH_M = 0.03, 0.16


def _holding(model: HandModel, R_cam_hand: torch.Tensor, t_m: torch.Tensor) -> HandState:
    """The hand that touches the bar at `t_m` (T, 3), rotated by `R_cam_hand` (T, 3, 3)."""
    pose, transl_m = _closed(model.side)
    local = roma.rotvec_to_rotmat(torch.from_numpy(pose))
    wrist = HandPoints.of(model, EMPTY).joint_rest[0]
    rotations = local.repeat(len(t_m), 1, 1, 1)
    rotations[:, 0] = R_cam_hand @ local[0]
    return HandState(rotations, torch.zeros(10, dtype=torch.float64), t_m + R_cam_hand @ (torch.from_numpy(transl_m) + wrist) - wrist)


@lru_cache
def _closed(side: Side) -> tuple[np.ndarray, np.ndarray]:
    """Joint angles (16, 3) and translation (3,) m with which all fingertips touch a bar at the origin, by least squares."""
    model = hand_model(side)
    patches = tip_patches(model)
    points = HandPoints.of(model, patches.flatten())
    sign = 1.0 if side == "right" else -1.0

    def unpack(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pose = np.zeros((16, 3))
        for finger, first in enumerate((1, 4, 7, 10)):
            pose[first : first + 3, 2] = sign * x[finger]
        pose[13] = x[4:7]
        return pose, x[7:10]

    def miss(x: np.ndarray) -> np.ndarray:
        pose, transl_m = unpack(x)
        state = HandState(roma.rotvec_to_rotmat(torch.from_numpy(pose))[None], torch.zeros(10).double(), torch.from_numpy(transl_m)[None])
        tips = points.pose(state).points[0, 21:].unflatten(0, patches.shape).numpy()
        gap = np.linalg.norm(tips[..., :2], axis=-1).min(axis=1) - BAR_RADIUS_M
        return np.append(100 * gap, 1e-4 * (x - start))

    start = np.array([0.7, 0.7, 0.7, 0.7, 0.9, 0, 0, -0.01 * sign, 0.035, 0])
    return unpack(least_squares(miss, start, x_scale=[0.3] * 7 + [0.01] * 3).x)


def align(mode: Mode, problem: Problem, *, initial: Alignment | None = None, training: Training | None = None, **options: Any) -> Alignment:
    """`run.align`, its options as keywords."""
    return run.align(mode, problem, run.Options(**options), initial, training)
