"""The registration of one hand as a least-squares problem: a block of unknowns per frame, and one shape that all frames share.

Every term is weighted by its noise, so that the sum is a negative log-likelihood and priors need no further weights; unknown noise is
estimated in the iterations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from holdprep.geometry.least_squares import Equations, Evaluation, Key, Shared, Step
from holdprep.hand.lbs import HandPoints, HandState
from holdprep.hand.priors import MotionPrior, PosePrior, length_residual
from holdprep.hand.terms.base import ROTATIONS, TRANSL, UNKNOWNS, Term, linearise, losses

HAND: Key = ("hand",)
BATCH = 1024  # frames whose blocks are inverted at once
MIN_REDUNDANCY = 0.05  # of the measurements, lower bound of measurements minus unknowns
NOISE_TOLERANCE = 1e-2


@dataclass(frozen=True)
class HandProblem:
    """The terms and priors of one hand. `chunk` frames have their derivatives in memory at once, `batch` their inverted blocks.

    `frames_repeated` is the number of frames that share one error, by which the data's information on the shape has to be divided (see
    `holdprep.hand.correlation`); equivalently, the prior of the shape is multiplied by it.
    """

    points: HandPoints
    terms: Sequence[Term]
    pose: PosePrior | None = None
    length_m: float | None = None
    motion: Sequence[MotionPrior] = ()
    shared_shape: bool = True
    chunk: int = 16
    batch: int = BATCH
    frames_repeated: float = 1.0

    def shape_prior(self, betas: Tensor) -> tuple[Tensor, Tensor, float]:
        """Matrix (10, 10), gradient (10,) and loss of a unit Gaussian and the measured length, times `frames_repeated`.

        With a shape per frame `betas` (T, 10), they are (T, 10, 10), (T, 10) and a sum.
        """
        matrix, gradient = torch.eye(10).to(betas).repeat(*betas.shape[:-1], 1, 1), betas.clone()
        loss, factor = 0.5 * float(betas.square().sum()), self.frames_repeated
        if self.length_m is not None:
            for at in [(n,) for n in range(len(betas))] if betas.ndim == 2 else [()]:
                r, g = length_residual(self.points, self.length_m, betas[at])
                matrix[at] += g[:, None] * g
                gradient[at] += r * g
                loss += 0.5 * float(r) ** 2
        return factor * matrix, factor * gradient, factor * loss


@dataclass(frozen=True)
class HandEvaluation:
    """The objective at `state` under the terms' `noise`.

    `measured` (T,) are each term's losses in its own unit; `pose` and `motion` residuals and derivatives of the priors, with their losses;
    `parents` (T, 16, 3, 3) the rotations of the bones' parents in the camera frame.
    """

    state: HandState
    noise: Mapping[str, float]
    measured: Mapping[str, Tensor]
    parents: Tensor
    pose: tuple[Tensor, Tensor] | None
    motion: Sequence[tuple[Tensor, list[Tensor]]]
    pose_loss: Tensor
    motion_loss: float
    shape_loss: float

    @staticmethod
    def of(problem: HandProblem, state: HandState, noise: Mapping[str, float]) -> "HandEvaluation":
        """The evaluation at a state."""
        measured, parents = losses(problem.points, state, problem.terms, problem.chunk)
        pose = None if problem.pose is None else problem.pose.residuals(state)
        motion = [prior.residuals(state, parents) for prior in problem.motion]
        pose_loss = state.transl.new_zeros(len(state.transl)) if pose is None else 0.5 * pose[0].square().sum(dim=(1, 2))
        motion_loss = sum(prior.loss(residual) for prior, (residual, _) in zip(problem.motion, motion, strict=True))
        shape_loss = problem.shape_prior(state.betas)[2]
        return HandEvaluation(state, noise, measured, parents, pose, motion, pose_loss, motion_loss, shape_loss)

    @property
    def own(self) -> Tensor | None:
        """(T,) losses of the frames; None where a prior couples frames."""
        return None if self.motion else self._frames()

    @property
    def total(self) -> float:
        """The negative log-likelihood."""
        return self.terms()["loss"]

    def _frames(self) -> Tensor:
        return sum((self.measured[k] / s**2 for k, s in self.noise.items()), self.pose_loss)

    def terms(self) -> dict[str, float]:
        """All terms, their sum as `loss`, and the noise of each."""
        terms = {name: float(self.measured[name].sum()) / s**2 for name, s in self.noise.items()}
        terms |= {"pose_prior": float(self.pose_loss.sum()), "motion_prior": self.motion_loss, "shape_prior": self.shape_loss}
        return terms | {"loss": sum(terms.values())} | {f"noise.{name}": s for name, s in self.noise.items()}


class HandFit:
    """The problem at a state, an implementation of `geometry.least_squares.LeastSquares`."""

    def __init__(self, problem: HandProblem, state: HandState) -> None:
        self.problem = problem
        first = HandEvaluation.of(problem, state, {t.name: t.noise.sigma for t in problem.terms})
        self.now: Evaluation = self._with_noise(first, {t.name: float(TRANSL * len(state.transl)) for t in problem.terms})
        self._matrices: dict[str, tuple[Tensor, Tensor]] = {}
        self.noise_changed = float("inf")

    @property
    def at(self) -> HandEvaluation:
        """The evaluation at the current state."""
        assert isinstance(self.now, HandEvaluation)
        return self.now

    def equations(self) -> tuple[Mapping[Key, Equations], Shared]:
        """Equations by rotations about the camera's axes (48), translation (3) and, with a shape per frame, shape (10)."""
        at, problem = self.at, self.problem
        self._matrices = linearise(problem.points, at.state, problem.terms, problem.chunk)
        frames, device = len(at.state.transl), at.state.transl.device
        size = TRANSL if problem.shared_shape else UNKNOWNS
        system = Equations(frames, size, 10 if problem.shared_shape else 0, device)
        for name, sigma in at.noise.items():
            H, g = self._matrices[name]
            system.diagonal.add_(H[:, :size, :size], alpha=sigma**-2)
            system.gradient.add_(g[:, :size], alpha=sigma**-2)
            if problem.shared_shape:
                system.coupling.add_(H[:, :size, size:], alpha=sigma**-2)
                system.corner.add_(H[:, size:, size:].double().sum(dim=0), alpha=sigma**-2)
                system.shared_gradient.add_(g[:, size:].sum(dim=0), alpha=sigma**-2)
        self._add_priors(system)
        shape_matrix, shape_gradient, _ = problem.shape_prior(at.state.betas)
        if problem.shared_shape:
            return {HAND: system}, Shared(shape_matrix, shape_gradient)
        system.diagonal[:, TRANSL:, TRANSL:] += shape_matrix
        system.gradient[:, TRANSL:] += shape_gradient
        return {HAND: system}, Shared(shape_matrix.new_zeros(0, 0), shape_gradient.new_zeros(0))

    def _add_priors(self, system: Equations) -> None:
        at, problem = self.at, self.problem
        gradient = at.state.transl.new_zeros(len(at.state.transl), 17, 3)
        if at.pose is not None:
            residual, by_rotation = at.pose
            J = by_rotation @ at.parents[:, 1:].mT  # about the camera's axes
            _own_blocks(system.diagonal)[:, 1:16] += J.mT @ J
            gradient[:, 1:16] += (J.mT @ residual[..., None])[..., 0]
        for prior, motion in zip(problem.motion, at.motion, strict=True):
            (own, *below), prior_gradient = prior.equations(*motion)
            _own_blocks(system.diagonal).add_(own)
            for apart, blocks in enumerate(below, start=1):
                if len(blocks):
                    _own_blocks(system.coupled(apart)).add_(blocks)
            gradient += prior_gradient
        system.gradient[:, :TRANSL] += gradient.flatten(1)

    def evaluate_step(self, step: Step) -> HandEvaluation:
        """The evaluation after a step, under the current noise."""
        own, state = step.own[HAND], self.at.state
        rotvecs = (self.at.parents.mT @ own[:, :ROTATIONS].unflatten(1, (16, 3, 1)))[..., 0]
        betas = step.shared if self.problem.shared_shape else own[:, TRANSL:]
        return HandEvaluation.of(self.problem, state.step(own[:, ROTATIONS:TRANSL], rotvecs, betas), self.at.noise)

    def accept(self, there: Evaluation, systems: Mapping[Key, Equations], damping: Tensor) -> None:
        """Accept the step, and estimate unknown noise from the residuals."""
        assert isinstance(there, HandEvaluation)
        before = self.at.noise
        self.now = self._with_noise(there, self._determined(systems[HAND], damping))
        self.noise_changed = max((abs(self.at.noise[k] / before[k] - 1) for k in before), default=0.0)

    def _with_noise(self, at: HandEvaluation, determined: Mapping[str, float]) -> HandEvaluation:
        """The evaluation with updated noise: squared residuals over the number of measurements minus that of unknowns they determine."""
        result = dict(at.noise)
        for term in self.problem.terms:
            if term.noise.measured:
                count = float((term.weight > 0).sum()) * term.dimensions
                redundancy = max(count - determined[term.name], MIN_REDUNDANCY * count)
                result[term.name] = max((2 * float(at.measured[term.name].sum()) / redundancy) ** 0.5, term.noise.floor)
        return replace(at, noise=result)

    def _determined(self, system: Equations, damping: Tensor) -> dict[str, float]:
        """Number of unknowns that each term determines (MacKay 1992, eq. 2.16)."""
        result = dict.fromkeys(self.at.noise, 0.0)
        batch = self.problem.batch
        for rows in (slice(i, i + batch) for i in range(0, system.frames, batch)):
            A = system.diagonal[rows]
            A = A + torch.diag_embed(damping[rows, None] * A.diagonal(dim1=1, dim2=2) + 1e-9)
            inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(A).L)[:, :TRANSL, :TRANSL]
            for name, sigma in self.at.noise.items():
                result[name] += float((inverse * self._matrices[name][0][rows, :TRANSL, :TRANSL]).sum()) / sigma**2
        return result


def _own_blocks(matrix: Tensor) -> Tensor:
    """(T, 17, 3, 3) view of matrices (T, n, n), n >= 51: the diagonal blocks of the rotations and the translation."""
    blocks = matrix[:, :TRANSL, :TRANSL].unflatten(2, (17, 3)).unflatten(1, (17, 3))
    return blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
