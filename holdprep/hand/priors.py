"""Priors of the registration: joint rotations and their limits, accelerations, the hand's measured length."""

import math
from dataclasses import dataclass
from typing import ClassVar

import roma
import torch
from torch import Tensor

from holdprep.geometry.noise import second_difference_variances
from holdprep.hand.joints import MIDDLE_FINGER
from holdprep.hand.lbs import NUM_JOINTS, HandPoints, HandState
from holdprep.hand.model import HandModel, Side

LIMIT_SIGMA = math.radians(3)  # standard deviation of a rotation beyond a joint's limit
LENGTH_SIGMA_M = 1e-3  # standard deviation of a length measured with a ruler
MIN_MOTION = 0.1  # lower bound of the accelerations' standard deviation, as a fraction of the noise's
MIN_ACCELERATIONS = 12  # to distinguish noise from motion
MIN_RAD, MIN_M = 1e-3, 2e-4  # standard deviations of the accelerations of a static hand


@dataclass(frozen=True)
class PoseNoise:
    """Standard deviations (rad) of a joint's rotation from the mean pose, about MANO's axes of the flat hand (fingers along x).

    A uniform distribution over a range has the standard deviation width / sqrt(12). Fingers bend about z by 108, 108 and 90 degrees
    (knuckle, middle, end joint: Bain et al., J Hand Surg Eur 40, 2015, functional arcs of 52, 64 and 54 that are 48, 59 and 60 % of
    the active ones), which gives 0.54, 0.54 and 0.45; 0.6 for all, because the mean pose is not at the centre of the ranges. Only
    the knuckles spread (about y, 20 degrees to each side: 0.2). The thumb's joints rotate by 45-95 degrees (e-hand.com, normal
    range of motion) about axes oblique to these: 0.35 for all. Fingers do not twist, and their outer joints do not spread: the
    small values there allow for MANO's axes, which are not exactly anatomical.
    """

    bend: float = 0.6
    spread_knuckle: float = 0.2
    spread: float = 0.06
    twist_knuckle: float = 0.12
    twist: float = 0.06
    thumb: float = 0.35

    def table(self) -> Tensor:
        """(15, 3) rad, standard deviations of the joints 1-15."""
        knuckle = torch.tensor([self.twist_knuckle, self.spread_knuckle, self.bend])
        other = torch.tensor([self.twist, self.spread, self.bend])
        finger = torch.stack([knuckle, other, other])
        return torch.cat([finger.repeat(4, 1), torch.full((3, 3), self.thumb)])


# degrees from flat about MANO's x (twist), y (spread), z (bend; positive closes a right hand): clinically normal ranges (e-hand.com:
# knuckle -45..90, middle joint 0..100, end joint 0..80; spread 20), widened by 10-25 for passive motion in a grip and for MANO's axes,
# which are not exactly anatomical; the thumb's axes are oblique to MANO's, so its limits are wide
_KNUCKLE = ((-25.0, 25.0), (-30.0, 30.0), (-45.0, 100.0))
_MIDDLE = ((-15.0, 15.0), (-15.0, 15.0), (-15.0, 120.0))
_END = ((-15.0, 15.0), (-15.0, 15.0), (-25.0, 100.0))
_THUMB = ((-75.0, 75.0),) * 3
_LIMITS_DEG = (*(_KNUCKLE, _MIDDLE, _END) * 4, *(_THUMB,) * 3)


def joint_limits(side: Side) -> tuple[Tensor, Tensor]:
    """Lower and upper limits (15, 3) rad of the joints 1-15 from the flat hand, as rotation vector components; mirrored for a left hand."""
    low, high = torch.tensor(_LIMITS_DEG, dtype=torch.float64).deg2rad().unbind(-1)
    if side == "right":
        return low, high
    sign = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    return torch.minimum(low * sign, high * sign), torch.maximum(low * sign, high * sign)


def beyond_limits(side: Side, rotations: Tensor) -> Tensor:
    """(T, 15, 3) rad, signed excess of the joints of `rotations` (T, 16, 3, 3) over their limits; 0 within."""
    low, high = (x.to(rotations) for x in joint_limits(side))
    rotvec = roma.rotmat_to_rotvec(rotations[:, 1:])
    return (rotvec - high).clamp_min(0) + (rotvec - low).clamp_max(0)


@dataclass(frozen=True)
class PosePrior:
    """Gaussian prior on each joint's rotation from the mean pose (`sigma` (15, 3) rad), and a stiff one beyond its limits."""

    sigma: Tensor
    mean: Tensor
    side: Side

    @staticmethod
    def of(model: HandModel, noise: PoseNoise) -> "PosePrior":
        """The prior of a hand model."""
        mean = roma.rotvec_to_rotmat(model.hand_mean.reshape(15, 3))
        return PosePrior(noise.table().to(mean), mean, model.side)

    def residuals(self, state: HandState) -> tuple[Tensor, Tensor]:
        """Residuals (T, 15, 6) in standard deviations, and their derivative (T, 15, 6, 3) by rotations in the parents' frames."""
        rotvec = roma.rotmat_to_rotvec(state.rotations[:, 1:] @ self.mean.mT)
        beyond = beyond_limits(self.side, state.rotations)
        bent = roma.rotmat_to_rotvec(state.rotations[:, 1:])
        inside = (beyond != 0)[..., None]
        by_gaussian = left_jacobian_inverse(rotvec) / self.sigma[..., None]
        by_limit = left_jacobian_inverse(bent) * inside / LIMIT_SIGMA
        return torch.cat([rotvec / self.sigma, beyond / LIMIT_SIGMA], dim=-1), torch.cat([by_gaussian, by_limit], dim=-2)


class MotionPrior:
    """Base of the priors that couple neighbouring frames: Student's t on residuals (N, J, 3) of windows of W = T - N + 1 frames.

    With NU degrees of freedom; the smaller, the more sudden motion is permitted.
    """

    NU: ClassVar[float]

    def residuals(self, state: HandState, parents: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Residuals (N, 17, 3) in standard deviations, and their derivatives (N, 17, 3, 3) by each of the W frames of a window.

        Derivatives are by rotations about the camera's axes and by the translation. `parents` (T, 16, 3, 3) are the rotations of the
        bones' parents in the camera frame.
        """
        raise NotImplementedError

    def equations(self, residual: Tensor, by: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Gauss-Newton blocks of the robust residuals, from the result of `residuals`.

        Returned are the matrices (T, 17, 3, 3) on the diagonal, (T - 1, ...) next to it, and so on, W in total, and the gradient (T, 17, 3).
        """
        square = residual.square().sum(dim=-1)
        weight = ((self.NU + 3) / (self.NU + square))[..., None, None]
        N, window = len(residual), len(by)
        T = N + window - 1
        blocks = [residual.new_zeros(T - apart, 17, 3, 3) for apart in range(window)]
        gradient = residual.new_zeros(T, 17, 3)
        for a in range(window):
            gradient[a : N + a] += (by[a].mT @ (weight * residual[..., None]))[..., 0]
            for b in range(a + 1):  # rows are frame a's unknowns, columns the earlier frame b's
                blocks[a - b][b : N + b] += weight * by[a].mT @ by[b]
        return blocks, gradient

    def loss(self, residual: Tensor) -> float:
        """The negative logarithm of Student's t."""
        return 0.5 * (self.NU + 3) * float(torch.log1p(residual.square().sum(dim=-1) / self.NU).sum())


@dataclass(frozen=True)
class Steadiness(MotionPrior):
    """Prior on the velocities of the fingers' rotations: a hand that holds an object mostly keeps its grasp.

    Standard deviation `rotation` rad per frame; across gaps of `frames` (T,), numbers of the frames, it grows with the square root of time.
    Student's t with few degrees of freedom permits the sudden changes of a new grasp.
    """

    rotation: float
    frames: Tensor

    NU: ClassVar[float] = 1.0

    def residuals(self, state: HandState, parents: Tensor) -> tuple[Tensor, list[Tensor]]:
        change = roma.rotmat_to_rotvec(state.rotations[1:, 1:] @ state.rotations[:-1, 1:].mT)
        inverse = left_jacobian_inverse(change)
        unit = (self.rotation * self.frames.diff().to(change).sqrt())[:, None, None]
        later, earlier = inverse @ parents[1:, 1:].mT, -inverse.mT @ parents[:-1, 1:].mT
        padded = [torch.nn.functional.pad(x / unit[..., None], (0, 0, 0, 0, 1, 1)) for x in (earlier, later)]
        return torch.nn.functional.pad(change / unit, (0, 0, 1, 1)), padded


@dataclass(frozen=True)
class Smoothness(MotionPrior):
    """Prior on accelerations: changes of the velocities of rotations and translation from one frame to the next.

    Standard deviations are `rotation` (16,) rad per frame squared of each joint and `transl_m` m per frame squared; `frames` (T,) are the
    frames' numbers. Across gaps, velocities are means, and the standard deviation of their change grows with the square root of time.
    A constant velocity has no cost, so there is no lag. Student's t with NU degrees of freedom permits sudden motion.
    """

    rotation: Tensor
    transl_m: float
    frames: Tensor

    NU: ClassVar[float] = 4.0

    def residuals(self, state: HandState, parents: Tensor) -> tuple[Tensor, list[Tensor]]:
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
        """The prior with the standard deviations of a registration without smoothing, minus its noise.

        See `second_difference_variances`. The standard deviation of the motion is at least MIN_MOTION times that of the noise.
        None with too few neighbouring frames.
        """
        change = roma.rotmat_to_rotvec(state.rotations[1:] @ state.rotations[:-1].mT)
        velocity = torch.cat([change, state.transl.diff(dim=0)[:, None]], dim=1)
        next_to = (frames.diff() == 1).to(velocity.device)
        second = velocity.diff(dim=0)[next_to[1:] & next_to[:-1]].cpu().numpy()
        estimate = second_difference_variances(second, (0, 2), min_pairs=MIN_ACCELERATIONS - 1, median="lower")
        if estimate is None:
            return None
        noise, total = (torch.from_numpy(x).to(velocity) for x in estimate)
        noise = torch.minimum(noise, total / 6)
        sigma = torch.maximum(total - 6 * noise, MIN_MOTION**2 * noise).sqrt()
        sigma = torch.cat([sigma[:16].clamp_min(MIN_RAD), sigma[16:].clamp_min(MIN_M)])
        return Smoothness(sigma[:16], float(sigma[16]), frames)


def left_jacobian_inverse(w: Tensor) -> Tensor:
    """d log(exp(e) exp(w)) / d e at e = 0, (..., 3, 3); Chirikjian, Stochastic Models 2, eq. 10.86."""
    angle = w.norm(dim=-1)[..., None, None].clamp_min(1e-6)
    cross = torch.linalg.cross(w[..., None, :].expand(*w.shape, 3), torch.eye(3).to(w).expand(*w.shape, 3), dim=-1).mT
    factor = 1 / angle**2 - (1 + angle.cos()) / (2 * angle * angle.sin())
    return torch.eye(3).to(w) - 0.5 * cross + factor * (cross @ cross)


def chain_length_m(points: HandPoints, betas: Tensor) -> Tensor:
    """Length (m) from wrist to middle fingertip along the bones of a shape `betas` (10,), as a ruler measures it on a flat hand."""
    joints = points.rest[:NUM_JOINTS] + points.shapedirs[:NUM_JOINTS] @ betas
    chain = joints[list(MIDDLE_FINGER)]
    return (chain[1:] - chain[:-1]).norm(dim=-1).sum()


def length_residual(points: HandPoints, length_m: float, betas: Tensor) -> tuple[Tensor, Tensor]:
    """(length - measured) in standard deviations, and its derivative (10,) by betas."""
    with torch.enable_grad():
        free = betas.detach().clone().requires_grad_()
        residual = (chain_length_m(points, free) - length_m) / LENGTH_SIGMA_M
        (gradient,) = torch.autograd.grad(residual, free)
    return residual.detach(), gradient
