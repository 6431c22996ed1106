"""What is known of a hand before it is measured: how far its joints turn, and its length."""

import math
from dataclasses import dataclass
from typing import ClassVar

import roma
import torch
from torch import Tensor

from holdprep.hand.joints import MIDDLE_FINGER
from holdprep.hand.lbs import NUM_JOINTS, HandPoints, HandState
from holdprep.hand.model import HandModel, Side

LIMIT_SIGMA = math.radians(3)  # how hard a joint's end stop is
LENGTH_SIGMA_M = 1e-3  # of a hand measured with a ruler
CLIP, NORMAL_MAD = 3.0, 0.6745  # accelerations beyond so many robust standard deviations are clipped when their variance is measured
LEAST_MOTION = 0.1  # of the noise
LEAST_ACCELERATIONS = 12  # that tell noise from motion
LEAST_RAD, LEAST_M = 1e-3, 2e-4  # accelerations of a hand that is held still


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
    """Prior on accelerations: how much a rotation per frame and a translation per frame change from one frame to the next.

    Standard deviations `rotation` (16,) rad per frame squared of each joint and `transl_m` m per frame squared; `frames` (T,) are the
    frames' numbers: across gaps, velocities are means, and their change may grow with the root of the time between. A constant velocity
    costs nothing, so nothing lags behind. Student's t with NU degrees of freedom leaves sudden motion.
    """

    rotation: Tensor
    transl_m: float
    frames: Tensor

    NU: ClassVar[float] = 4.0

    def equations(self, residual: Tensor, by: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Gauss-Newton blocks of the robust accelerations: the matrix on the diagonal (T, 17, 3, 3) and the two under it, (T - 1, ...) and
        (T - 2, ...); the gradient (T, 17, 3). Of what `residuals` returned."""
        square = residual.square().sum(dim=-1)
        weight = ((self.NU + 3) / (self.NU + square))[..., None, None]
        T = len(residual) + 2
        blocks = [residual.new_zeros(T - apart, 17, 3, 3) for apart in range(3)]
        gradient = residual.new_zeros(T, 17, 3)
        for a in range(3):
            gradient[a : T - 2 + a] += (by[a].mT @ (weight * residual[..., None]))[..., 0]
            for b in range(a + 1):  # rows are frame a's unknowns, columns the earlier frame b's
                blocks[a - b][b : T - 2 + b] += weight * by[a].mT @ by[b]
        return blocks, gradient

    def loss(self, residual: Tensor) -> float:
        """Minus the logarithm of Student's t."""
        return 0.5 * (self.NU + 3) * float(torch.log1p(residual.square().sum(dim=-1) / self.NU).sum())

    def residuals(self, state: HandState, parents: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(T - 2, 17, 3) in units of noise, and their derivatives (T - 2, 17, 3, 3) by the first, second and third frame: by rotations about
        the camera's axes and the translation. `parents` (T, 16, 3, 3) are the rotations of the bones' parents in the camera frame."""
        gap = self.frames.diff().to(state.transl)[:, None, None]
        change = roma.rotmat_to_rotvec(state.rotations[1:] @ state.rotations[:-1].mT)
        inverse = left_jacobian_inverse(change) / gap[..., None]
        velocity = torch.cat([change, state.transl.diff(dim=0)[:, None]], dim=1) / gap
        eye = (torch.eye(3).to(change) / gap[..., None]).expand(-1, 1, 3, 3)
        later = torch.cat([inverse @ parents[1:].mT, eye], dim=1)  # of a velocity by the later of its frames
        earlier = torch.cat([-inverse.mT @ parents[:-1].mT, -eye], dim=1)  # the right Jacobian is the left one's transpose
        sigma = torch.cat([self.rotation.to(change), torch.full((1,), self.transl_m).to(change)])
        unit = (sigma[:, None] * ((gap[1:] + gap[:-1]) / 2).sqrt())[..., None]
        by = [-earlier[:-1] / unit, (earlier[1:] - later[:-1]) / unit, later[1:] / unit]
        return velocity.diff(dim=0) / unit[..., 0], by

    @staticmethod
    def measured(state: HandState, frames: Tensor) -> "Smoothness | None":
        """With the standard deviations that a registration without smoothing shows, less its noise.

        Independent noise makes accelerations that alternate: its variance v adds 6 v to their variance and -4 v to the covariance of
        neighbours (as `holdprep.hand.trackers.steady`). At least a tenth of the noise's size is motion.
        None where too few neighbouring frames tell.
        """
        change = roma.rotmat_to_rotvec(state.rotations[1:] @ state.rotations[:-1].mT)
        velocity = torch.cat([change, state.transl.diff(dim=0)[:, None]], dim=1)
        next_to = (frames.diff() == 1).to(velocity.device)
        bends = velocity.diff(dim=0)[next_to[1:] & next_to[:-1]]
        if len(bends) < LEAST_ACCELERATIONS:
            return None
        limit = CLIP * bends.abs().median(dim=0).values / NORMAL_MAD
        bends = bends.clamp(-limit, limit)
        total = bends.square().mean(dim=(0, 2))
        noise = (-(bends[1:] * bends[:-1]).mean(dim=(0, 2)) / 4).clamp_min(0)
        noise = torch.minimum(noise, total / 6)
        sigma = torch.maximum(total - 6 * noise, LEAST_MOTION**2 * noise).sqrt()
        sigma = torch.cat([sigma[:16].clamp_min(LEAST_RAD), sigma[16:].clamp_min(LEAST_M)])
        return Smoothness(sigma[:16], float(sigma[16]), frames)


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
