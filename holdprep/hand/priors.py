"""What is known of a hand before it is measured: how far its joints turn, and its length."""

import math
from dataclasses import dataclass

import roma
import torch
from torch import Tensor

from holdprep.hand.joints import MIDDLE_FINGER
from holdprep.hand.lbs import NUM_JOINTS, HandPoints, HandState
from holdprep.hand.model import HandModel, Side

LIMIT_SIGMA = math.radians(3)  # how hard a joint's end stop is
LENGTH_SIGMA_M = 1e-3  # of a hand measured with a ruler


@dataclass(frozen=True)
class PoseNoise:
    """Standard deviations in rad of a joint's turn from the mean pose about the axes of MANO's flat rest pose (fingers along x, palm down).

    A joint that may be anywhere in a range has its width / sqrt(12). Fingers bend about z by 108, 108 and 90 degrees (knuckle, middle, end
    joint: Bain et al., J Hand Surg Eur 40, 2015, functional arcs of 52, 64 and 54 that are 48, 59 and 60 % of the active ones), which
    makes 0.54, 0.54 and 0.45; 0.6 for all, because the mean pose is not the ranges' middle. Only the knuckles spread (about y, 20 degrees
    either way: 0.2). The thumb's joints turn by 45-95 degrees (e-hand.com, normal range of motion) about axes that lie across these: 0.35
    for all. No muscle twists a finger or spreads its outer joints: what is left there is room for MANO's axes, which are skewed.
    """

    bend: float = 0.6
    spread_knuckle: float = 0.2
    spread: float = 0.06
    twist_knuckle: float = 0.12
    twist: float = 0.06
    thumb: float = 0.35

    def table(self) -> Tensor:
        """(15, 3) for the joints 1-15."""
        knuckle = torch.tensor([self.twist_knuckle, self.spread_knuckle, self.bend])
        other = torch.tensor([self.twist, self.spread, self.bend])
        finger = torch.stack([knuckle, other, other])
        return torch.cat([finger.repeat(4, 1), torch.full((3, 3), self.thumb)])


# degrees from flat about MANO's x (twist), y (spread), z (bend; positive closes a right hand). Ranges as clinics take them for normal
# (e-hand.com: knuckle -45..90, middle joint 0..100, end joint 0..80; spread 20), and 10-25 beyond for what a grip forces and for MANO's
# skewed axes; the thumb's lie across MANO's, so that only turns that no thumb makes are beyond its limits
_KNUCKLE = ((-25.0, 25.0), (-30.0, 30.0), (-45.0, 100.0))
_MIDDLE = ((-15.0, 15.0), (-15.0, 15.0), (-15.0, 120.0))
_END = ((-15.0, 15.0), (-15.0, 15.0), (-25.0, 100.0))
_THUMB = ((-75.0, 75.0),) * 3
_LIMITS_DEG = (*(_KNUCKLE, _MIDDLE, _END) * 4, *(_THUMB,) * 3)


def joint_limits(side: Side) -> tuple[Tensor, Tensor]:
    """Lowest and highest turn (15, 3) rad of the joints 1-15 from the flat hand, as axis-angle components; a left hand's are mirrored."""
    low, high = torch.tensor(_LIMITS_DEG, dtype=torch.float64).deg2rad().unbind(-1)
    if side == "right":
        return low, high
    sign = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    return torch.minimum(low * sign, high * sign), torch.maximum(low * sign, high * sign)


def beyond_limits(side: Side, rotations: Tensor) -> Tensor:
    """(T, 15, 3) rad by which the joints of `rotations` (T, 16, 3, 3) exceed their limits, signed; 0 within."""
    low, high = (x.to(rotations) for x in joint_limits(side))
    turn = roma.rotmat_to_rotvec(rotations[:, 1:])
    return (turn - high).clamp_min(0) + (turn - low).clamp_max(0)


@dataclass(frozen=True)
class PosePrior:
    """Gaussian on each joint's turn from the mean pose (`sigma` (15, 3) rad), and stiff limits."""

    sigma: Tensor
    mean: Tensor
    side: Side

    @staticmethod
    def of(model: HandModel, noise: PoseNoise) -> "PosePrior":
        """A model's prior."""
        mean = roma.rotvec_to_rotmat(model.hand_mean.reshape(15, 3))
        return PosePrior(noise.table().to(mean), mean, model.side)

    def residuals(self, state: HandState) -> tuple[Tensor, Tensor]:
        """(T, 15, 6) in units of noise, and their derivative (T, 15, 6, 3) by turns in the parents' frames."""
        turn = roma.rotmat_to_rotvec(state.rotations[:, 1:] @ self.mean.mT)
        beyond = beyond_limits(self.side, state.rotations)
        bent = roma.rotmat_to_rotvec(state.rotations[:, 1:])
        inside = (beyond != 0)[..., None]
        by_gaussian = left_jacobian_inverse(turn) / self.sigma[..., None]
        by_limit = left_jacobian_inverse(bent) * inside / LIMIT_SIGMA
        return torch.cat([turn / self.sigma, beyond / LIMIT_SIGMA], dim=-1), torch.cat([by_gaussian, by_limit], dim=-2)


@dataclass(frozen=True)
class Smoothness:
    """Standard deviations of what changes from one frame to the next: each joint's turn (rad) and the translation (m).

    `frames` (T,) are the frames' numbers: across a gap the change may grow with its square root.
    """

    turn: float
    transl_m: float
    frames: Tensor

    def residuals(self, state: HandState, parents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Changes (T - 1, 17, 3) in units of noise, of the 16 turns and the translation; their derivatives (T - 1, 17, 3, 3) by the later
        and by the earlier frame's own.

        The turns that are unknown go about the camera's axes, `parents` (T, 16, 3, 3) are the turns of the bones' parents.
        """
        gap = self.frames.diff().to(state.transl).sqrt()[:, None, None]
        turn = roma.rotmat_to_rotvec(state.rotations[1:] @ state.rotations[:-1].mT)
        inverse = left_jacobian_inverse(turn) / self.turn / gap[..., None]
        by_transl = torch.eye(3).to(turn) / self.transl_m / gap[..., None]
        change = torch.cat([turn / self.turn, state.transl.diff(dim=0)[:, None] / self.transl_m], dim=1) / gap
        later = torch.cat([inverse @ parents[1:].mT, by_transl], dim=1)
        earlier = torch.cat([-inverse.mT @ parents[:-1].mT, -by_transl], dim=1)  # the right Jacobian is the left one's transpose
        return change, later, earlier


def left_jacobian_inverse(w: Tensor) -> Tensor:
    """d log(exp(e) exp(w)) / d e at e = 0, (..., 3, 3); Chirikjian, Stochastic Models 2, eq. 10.86."""
    angle = w.norm(dim=-1)[..., None, None].clamp_min(1e-6)
    cross = torch.linalg.cross(w[..., None, :].expand(*w.shape, 3), torch.eye(3).to(w).expand(*w.shape, 3), dim=-1).mT
    factor = 1 / angle**2 - (1 + angle.cos()) / (2 * angle * angle.sin())
    return torch.eye(3).to(w) - 0.5 * cross + factor * (cross @ cross)


def chain_length_m(points: HandPoints, betas: Tensor) -> Tensor:
    """Wrist to middle fingertip along the bones of a shape `betas` (10,): what a ruler on a flat hand measures."""
    joints = points.rest[:NUM_JOINTS] + points.shapedirs[:NUM_JOINTS] @ betas
    chain = joints[list(MIDDLE_FINGER)]
    return (chain[1:] - chain[:-1]).norm(dim=-1).sum()


def length_residual(points: HandPoints, length_m: float, betas: Tensor) -> tuple[Tensor, Tensor]:
    """(length - measured) in units of its noise, and its derivative (10,)."""
    with torch.enable_grad():
        free = betas.detach().clone().requires_grad_()
        residual = (chain_length_m(points, free) - length_m) / LENGTH_SIGMA_M
        (gradient,) = torch.autograd.grad(residual, free)
    return residual.detach(), gradient
