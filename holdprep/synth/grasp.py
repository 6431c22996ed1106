"""Hands that hold an object: finger poses with tips on its surface and without penetration, for several times at once.

The grip frame is the object's frame before it rotates in the hand: y up along its axis, fingers on the side of -z, the thumb opposite. The
hand is below, so that most of the object is visible, and there is space for a forearm.
"""

from dataclasses import dataclass

import numpy as np
import roma
import torch
from torch import Tensor

from holdprep.hand import lbs
from holdprep.hand.model import HandModel, ManoParams
from holdprep.hand.priors import PoseNoise
from holdprep.synth.objects import SynthObject

ITERATIONS = 350
REACHES_M = (0.045, 0.06, 0.075)
FINGER_HALF_M = 0.009  # skin to bone
SIGMA_TOUCH_M, SIGMA_INSIDE_M = 5e-4, 1.5e-4
SIGMA_ROTATION, SIGMA_TRANSL_M = 0.25, 0.02  # standard deviation of the wrist's change from its start, rad and m
SIGMA_SIDE_M = 0.003
SIGMA_STEP, SIGMA_STEP_M = 0.2, 0.01  # change between consecutive times
TIP_WEIGHT = (1.0, 1.0, 1.0, 0.7, 0.3)  # thumb, index, middle, ring, little: the little finger may be next to the object
MIRROR = np.diag([-1.0, 1.0, 1.0])
# nearly straight fingers of an opened hand, added to the mean pose
OPEN_BEND = (-0.15, -0.25, -0.1)


@dataclass(frozen=True)
class Grip:
    """Hands at K times in the grip frame: `params` of K frames, `gap_mm` and `inside_mm` (K,) as returned by `contact`."""

    params: ManoParams
    gap_mm: np.ndarray
    inside_mm: np.ndarray


@dataclass(frozen=True)
class Approach:
    """Where a hand takes hold. `reaches_m`: how far its tips may reach up from the object's bottom (down from its top if `from_above`)."""

    from_above: bool = False
    reaches_m: tuple[float, ...] = REACHES_M


FROM_BELOW = Approach()


def solve_grip(
    obj: SynthObject,
    model: HandModel,
    betas: Tensor,
    rotation_rad: np.ndarray,
    gap_m: np.ndarray,
    *,
    approach: Approach = FROM_BELOW,
    seed: int = 0,
) -> Grip:
    """A hand at K times, with the object rotated by `rotation_rad` (K,) about y and the tips at a distance `gap_m` (K,).

    Each reach of the approach is tried for the first time, and the best one is used for all. Deterministic by `seed`.
    """
    model, betas = model.to(torch.float32), betas.float()
    angles, gaps = torch.as_tensor(rotation_rad).float(), torch.as_tensor(gap_m).float()
    starts = [_start(obj, model, betas, approach.from_above, reach, seed) for reach in approach.reaches_m]
    tried = _solve(obj, model, _stack(starts), angles[:1].repeat(len(starts)), gaps[:1].repeat(len(starts)), coupled=False)
    gap, inside = contact(obj, model, tried, angles[:1].repeat(len(starts)))
    best = int(np.argmin(np.abs(gap - 1000 * float(gaps[0])) + inside))
    found = _stack([_row(tried, best)] * len(angles))
    if len(angles) > 1:
        found = _solve(obj, model, found, angles, gaps, coupled=True)
    return Grip(found, *contact(obj, model, found, angles))


def _stack(params: list[ManoParams]) -> ManoParams:
    orient, pose, transl = (torch.cat([getattr(p, name) for p in params]) for name in ("global_orient", "hand_pose", "transl"))
    return ManoParams(orient, pose, params[0].betas, transl)


def _row(params: ManoParams, k: int) -> ManoParams:
    return ManoParams(params.global_orient[k : k + 1], params.hand_pose[k : k + 1], params.betas, params.transl[k : k + 1])


def _solve(obj: SynthObject, model: HandModel, start: ManoParams, angles: Tensor, gaps: Tensor, coupled: bool) -> ManoParams:
    """Adam on finger angles (Gaussian about the start) and wrist; with `coupled`, changes between consecutive times are penalised."""
    sigma = PoseNoise().table().float().reshape(45)
    free = [torch.zeros(len(angles), n, requires_grad=True) for n in (3, 45, 3)]
    rate = 0.004 if coupled else 0.02  # rad per step; coupled times start from a valid grip
    adam = torch.optim.Adam([{"params": free[:2], "lr": rate}, {"params": free[2:], "lr": rate / 10}])
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, ITERATIONS)
    patches = lbs.tip_patches(model)
    weight = torch.tensor(TIP_WEIGHT)
    with torch.enable_grad():
        for _ in range(ITERATIONS):
            adam.zero_grad()
            vertices = lbs.forward(model, _moved(start, *free)).vertices
            distance = _distances(obj, vertices, angles)
            touch = (weight * (_soft_min(distance[:, patches]) - gaps[:, None]).abs() / SIGMA_TOUCH_M).sum()
            inside = ((-distance).clamp_min(0) / SIGMA_INSIDE_M).square().sum()
            loss = touch + inside + _prior(free, sigma, coupled) + _opposition(obj, vertices[:, patches].mean(dim=2))
            loss.backward()
            adam.step()
            decay.step()
    return _moved(start, *(x.detach() for x in free))


def contact(obj: SynthObject, model: HandModel, params: ManoParams, angles: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(K,) mean distance (mm) of the thumb's tip and the two nearest others, 0 inside, and (K,) depth (mm) of the deepest vertex."""
    distance = _distances(obj, lbs.forward(model, params).vertices, angles)
    tips = distance[:, lbs.tip_patches(model)].amin(dim=2).clamp_min(0)
    gap = (tips[:, 0] + tips[:, 1:].sort(dim=1).values[:, :2].sum(dim=1)) / 3
    return 1000 * gap.double().numpy(), 1000 * (-distance).amax(dim=1).clamp_min(0).double().numpy()


def _opposition(obj: SynthObject, tips: Tensor) -> Tensor:
    """Cost of tips (K, 5, 3) with the thumb not on the side of +z, or index to ring not on that of -z."""
    z, side = tips[..., 2], 0.35 * obj.grip_m
    lacking = torch.cat([(side - z[:, :1]).clamp_min(0), (z[:, 1:4] + side).clamp_min(0)], dim=1)
    return (lacking / SIGMA_SIDE_M).square().sum()


def _distances(obj: SynthObject, vertices: Tensor, angles: Tensor) -> Tensor:
    """(K, 778) m, signed distance of every vertex."""
    R = roma.rotvec_to_rotmat(angles[:, None].to(vertices) * torch.tensor([0.0, 1.0, 0.0]).to(vertices))
    return obj.signed_distance(vertices @ R)  # rows: the inverse rotation


def _soft_min(distance: Tensor) -> Tensor:
    """(K, 5) smooth minimum of each tip patch's distance, of width 0.5 mm."""
    share = torch.softmax(-distance / 5e-4, dim=2)
    return (share * distance).sum(dim=2)


def _prior(free: list[Tensor], sigma: Tensor, coupled: bool) -> Tensor:
    orient, pose, shift = free
    near = (orient / SIGMA_ROTATION).square().sum() + (pose / sigma).square().sum() + (shift / SIGMA_TRANSL_M).square().sum()
    if not coupled:
        return near
    steps = [(x[1:] - x[:-1]) / s for x, s in ((orient, SIGMA_STEP), (pose, SIGMA_STEP), (shift, SIGMA_STEP_M))]
    return near + torch.stack([s.square().sum() for s in steps]).sum()


def _moved(start: ManoParams, orient: Tensor, pose: Tensor, shift: Tensor) -> ManoParams:
    orient = roma.rotmat_to_rotvec(roma.rotvec_to_rotmat(orient) @ roma.rotvec_to_rotmat(start.global_orient))
    return ManoParams(orient, start.hand_pose + pose, start.betas, start.transl + shift)


def _start(obj: SynthObject, model: HandModel, betas: Tensor, from_above: bool, reach_m: float, seed: int) -> ManoParams:
    """One open hand with the palm behind the object's lower part, fingers up."""
    flip = 1.0 if model.side == "right" else -1.0  # mirrored in x, bending about z changes its sign
    pose = np.zeros((15, 3))
    pose[:12, 2] = flip * np.tile(OPEN_BEND, 4)
    pose[:12] += np.random.default_rng(seed).normal(0, 0.04, (12, 3)) * [0, 0, 1]
    R = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0.0]])  # the right hand's -x (fingers) up, its -y (palm) to the thumb's side
    open_hand = ManoParams(torch.zeros(1, 3), torch.from_numpy(pose.reshape(1, 45)).float(), betas, torch.zeros(1, 3))
    joints = lbs.forward(model, open_hand).joints[0].double().numpy()
    joints = joints if model.side == "right" else joints @ MIRROR
    tips, knuckles = joints[[17, 18, 19]].mean(axis=0), joints[[1, 4, 10]].mean(axis=0)
    shift = np.array([0.0, -obj.height_m / 2 + reach_m, -obj.grip_m / 2 - FINGER_HALF_M]) - R @ tips
    shift[2] = min(shift[2], -obj.grip_m / 2 - FINGER_HALF_M - (R @ knuckles)[2])
    if model.side == "left":
        R, shift = MIRROR @ R @ MIRROR, MIRROR @ shift
    if from_above:
        R, shift = np.diag([-1.0, -1.0, 1.0]) @ R, np.diag([-1.0, -1.0, 1.0]) @ shift
    wrist = (model.J_regressor @ (model.v_template + model.shapedirs @ betas))[0].double().numpy()
    transl = R @ wrist + shift - wrist  # MANO angles about the wrist, R and shift about the model's origin
    orient = roma.rotmat_to_rotvec(torch.from_numpy(R[None])).float()
    return ManoParams(orient, open_hand.hand_pose, betas, torch.from_numpy(transl[None]).float())
