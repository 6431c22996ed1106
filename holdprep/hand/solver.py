"""Levenberg-Marquardt for a hand in T frames: a block of unknowns a frame, and one shape that all frames share.

Every term is weighed by its noise, so that the sum is a negative log-likelihood and priors need no weights of their own; noise that is
not known is estimated on the way. The shared shape makes the equations an arrow: frames are eliminated one by one, the shape is solved
last (Schur complement). The cost is linear in frames.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdprep.geometry.blocks import BlockFactor
from holdprep.hand.lbs import HandPoints, HandState
from holdprep.hand.priors import PosePrior, Smoothness, length_residual
from holdprep.hand.terms import TRANSL, TURNS, UNKNOWNS, Term, linearise, losses

FIRST_DAMPING, MIN_DAMPING, MAX_DAMPING = 1e-5, 1e-9, 1e8
STEP_TOLERANCE = 1e-5  # rad, m and a tenth of a unit of shape: what is left after such a step is its square
LOSS_TOLERANCE = 1e-2  # of log-likelihood a frame that may be left: a seventh of one parameter's uncertainty
NOISE_TOLERANCE = 1e-2
BATCH = 1024  # frames whose blocks are factored at once

Callback = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class HandProblem:
    """The terms and priors of one hand. `chunk` frames have their derivatives in memory at once.

    `frames_repeated` is how many frames have the error of one: what all frames share they measure together only once for each so many
    (see `holdprep.hand.correlation`). Dividing the data's information on the shape by it is multiplying the prior of the shape.
    """

    points: HandPoints
    terms: Sequence[Term]
    pose: PosePrior | None = None
    length_m: float | None = None
    smoothness: Smoothness | None = None
    shared_shape: bool = True
    chunk: int = 16
    frames_repeated: float = 1.0


@dataclass(frozen=True)
class _Prior:
    """Matrix (T, 17, 3, 3) or None, gradient (T, 17, 3) and loss (T,) of what holds each of a frame's turns and its translation, by itself;
    `below`, (T - 1, 17, 3, 3) and (T - 2, 17, 3, 3), couples the frames.

    Of the shape: matrix (10, 10) and gradient (10,), or (T, ...) for a shape a frame, and the loss of all.
    """

    hessian: Tensor | None
    gradient: Tensor | None
    loss: Tensor
    below: Sequence[Tensor]
    motion_loss: float
    shape_hessian: Tensor
    shape_gradient: Tensor
    shape_loss: float


@dataclass(frozen=True)
class _At:
    """A state, the losses there, and the turns of the bones' parents."""

    state: HandState
    measured: dict[str, Tensor]
    frames: Tensor
    prior: _Prior

    def frame_losses(self, noise: Mapping[str, float]) -> Tensor:
        """(T,)"""
        return sum((self.measured[k] / s**2 for k, s in noise.items()), self.prior.loss)

    def losses(self, noise: Mapping[str, float]) -> dict[str, float]:
        """Every term, its noise, and the total."""
        terms = {name: float(self.measured[name].sum()) / s**2 for name, s in noise.items()}
        terms |= {"pose_prior": float(self.prior.loss.sum()), "motion_prior": self.prior.motion_loss, "shape_prior": self.prior.shape_loss}
        return terms | {"total": sum(terms.values())} | {f"noise.{name}": s for name, s in noise.items()}


@dataclass(frozen=True)
class _Equations:
    """What was measured and what is known beforehand, around a state."""

    measured: dict[str, tuple[Tensor, Tensor]]
    prior: _Prior

    def blocks(self, noise: Mapping[str, float], rows: slice) -> tuple[Tensor, Tensor]:
        """Matrix (T, 61, 61) and gradient (T, 61) of frames `rows`, the shape's prior left out."""
        H = torch.stack([self.measured[k][0][rows].double() / s**2 for k, s in noise.items()]).sum(dim=0)
        g = torch.stack([self.measured[k][1][rows] / s**2 for k, s in noise.items()]).sum(dim=0)
        if self.prior.hessian is not None and self.prior.gradient is not None:
            _own_blocks(H).add_(self.prior.hessian[rows])
            g[:, :TRANSL] += self.prior.gradient[rows].flatten(1)
        return H, g


def minimise(
    problem: HandProblem, state: HandState, max_iterations: int, tolerance: float = LOSS_TOLERANCE, callback: Callback | None = None
) -> tuple[HandState, list[dict[str, float]]]:
    """The state of least loss near `state`, and the losses of every iteration (with the noise of every term).

    A step is taken only if the loss falls; frames whose own part rose are damped harder, so that one bad frame does not slow the rest.
    """
    noise = {t.name: t.noise.sigma for t in problem.terms}
    damping = torch.full((len(state.transl),), FIRST_DAMPING).to(state.transl)
    history: list[dict[str, float]] = []
    gained = 0.0
    now = _at(problem, state)
    noise = _measure(problem, now, noise, {name: float(TRANSL * len(damping)) for name in noise})
    for iteration in range(max_iterations):
        found = _descend(problem, now, noise, damping)
        if found is None:
            break
        before, now, damping, noise = noise, found.there, found.damping, _measure(problem, found.there, noise, found.determined)
        history.append(now.losses(noise))
        if callback is not None:
            callback(iteration, history[-1])
        settled = all(abs(noise[k] / before[k] - 1) < NOISE_TOLERANCE for k in noise)
        # undamped steps shrink by a rate or faster: the next one gains at most this
        free = float(damping.max()) <= FIRST_DAMPING
        expected = found.gained * min(found.gained / max(gained, 1e-300), 1.0) if free else found.gained
        gained = found.gained
        if settled and (found.moved < STEP_TOLERANCE or expected < tolerance * len(damping)):
            break
    return now.state, history


@dataclass(frozen=True)
class _Descent:
    """Where a step led, how much loss that `gained`, how far it went (`moved`, as STEP_TOLERANCE counts), the damping for the next one."""

    there: _At
    gained: float
    moved: float
    damping: Tensor
    determined: dict[str, float]


def _descend(problem: HandProblem, now: _At, noise: Mapping[str, float], damping: Tensor) -> _Descent | None:
    """A step that lowers the loss, damped until it does; None where none does. Its equations, the most of what is in memory, end here."""
    equations = _Equations(linearise(problem.points, now.state, problem.terms, problem.chunk), now.prior)
    own, total = now.frame_losses(noise), now.losses(noise)["total"]
    while True:
        step, determined = _step(problem, equations, noise, damping)
        there = _at(problem, _moved(now, step))
        own_there, total_there = there.frame_losses(noise), there.losses(noise)["total"]
        if total_there <= total or float(damping.max()) > MAX_DAMPING:
            break
        damping = torch.where(_risen(problem, own, own_there, accepted=False), 10 * damping, damping)
    if not total_there <= total:
        return None
    damping = torch.where(_risen(problem, own, own_there, accepted=True), 10 * damping, damping / 10).clamp_min(MIN_DAMPING)
    moved = max(float(step[:, :TRANSL].abs().max()), 0.1 * float(step[:, TRANSL:].abs().max()))
    return _Descent(there, total - total_there, moved, damping, determined)


def _risen(problem: HandProblem, own: Tensor, own_there: Tensor, accepted: bool) -> Tensor:
    """(T,) frames whose part of the loss rose; all or none where smoothness trades one frame's loss for another's, or none can be blamed."""
    risen = own_there > own
    if problem.smoothness is not None or not (accepted or bool(risen.any())):
        return torch.full_like(risen, not accepted)
    return risen


def _at(problem: HandProblem, state: HandState) -> _At:
    measured, frames = losses(problem.points, state, problem.terms, problem.chunk)
    return _At(state, measured, frames, _priors(problem, state, frames))


def _moved(at: _At, step: Tensor) -> HandState:
    """The state after a step (T, 61) whose turns are about the camera's axes."""
    turns = (at.frames.mT @ step[:, :TURNS].unflatten(1, (16, 3, 1)))[..., 0]
    betas = step[:, TRANSL:] if at.state.betas.ndim == 2 else step[0, TRANSL:]
    return at.state.step(step[:, TURNS:TRANSL], turns, betas)


def _measure(problem: HandProblem, at: _At, noise: Mapping[str, float], determined: Mapping[str, float]) -> dict[str, float]:
    """The noise of terms that do not know it: residual squares over the measurements that are more than the unknowns they determine."""
    found = dict(noise)
    for term in problem.terms:
        if term.noise.measured:
            count = float((term.weight > 0).sum()) * term.dimensions
            spare = max(count - determined[term.name], 0.05 * count)
            found[term.name] = max((2 * float(at.measured[term.name].sum()) / spare) ** 0.5, term.noise.floor)
    return found


def _priors(problem: HandProblem, state: HandState, frames: Tensor) -> _Prior:
    T = len(state.transl)
    hessian = gradient = None
    below: Sequence[Tensor] = ()
    loss, motion_loss = state.transl.new_zeros(T), 0.0
    if problem.pose is not None or problem.smoothness is not None:
        hessian, gradient = state.transl.new_zeros(T, 17, 3, 3), state.transl.new_zeros(T, 17, 3)
    if problem.pose is not None and hessian is not None and gradient is not None:
        residual, by_turn = problem.pose.residuals(state)
        J = by_turn @ frames[:, 1:].mT  # about the camera's axes
        hessian[:, 1:16] += J.mT @ J
        gradient[:, 1:16] += (J.mT @ residual[..., None])[..., 0]
        loss = 0.5 * residual.square().sum(dim=(1, 2))
    if problem.smoothness is not None and hessian is not None and gradient is not None:
        (own, *below), pull, motion_loss = problem.smoothness.equations(state, frames)
        hessian += own
        gradient += pull
    return _Prior(hessian, gradient, loss, below, motion_loss, *_shape_prior(problem, state.betas))


def _own_blocks(matrix: Tensor) -> Tensor:
    """(T, 17, 3, 3) view of matrices (T, 51 or more, 51 or more): each turn's block with itself, and the translation's."""
    blocks = matrix[:, :TRANSL, :TRANSL].unflatten(2, (17, 3)).unflatten(1, (17, 3))
    return blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)


def _shape_prior(problem: HandProblem, betas: Tensor) -> tuple[Tensor, Tensor, float]:
    """A unit Gaussian and the measured length, which count as often as frames repeat each other."""
    hessian, gradient = torch.eye(10).to(betas).repeat(*betas.shape[:-1], 1, 1), betas.clone()
    loss, often = 0.5 * float(betas.square().sum()), problem.frames_repeated
    if problem.length_m is not None:
        for at in [(n,) for n in range(len(betas))] if betas.ndim == 2 else [()]:
            r, g = length_residual(problem.points, problem.length_m, betas[at])
            hessian[at] += g[:, None] * g
            gradient[at] += r * g
            loss += 0.5 * float(r) ** 2
    return often * hessian, often * gradient, often * loss


def _step(problem: HandProblem, at: _Equations, noise: Mapping[str, float], damping: Tensor) -> tuple[Tensor, dict[str, float]]:
    """The damped step (T, 61), rotations about the camera's axes; and how many unknowns each term determines (MacKay 1992, eq. 2.16)."""
    T, n = len(damping), TRANSL if problem.shared_shape else UNKNOWNS
    determined = dict.fromkeys(noise, 0.0)
    side, free = (damping.new_empty(T, n, 1 + 10) for _ in range(2))
    blocks = damping.new_empty(T, n, n) if at.prior.below else None
    C, c = torch.zeros(10, 10).to(damping), torch.zeros(10).to(damping)
    for start in range(0, T, BATCH):
        rows = slice(start, start + BATCH)
        H, g = at.blocks(noise, rows)
        if not problem.shared_shape:
            H[:, TRANSL:, TRANSL:] += at.prior.shape_hessian[rows]
            g[:, TRANSL:] += at.prior.shape_gradient[rows]
        C, c = C + H[:, TRANSL:, TRANSL:].sum(dim=0), c + g[:, TRANSL:].sum(dim=0)
        A = H[:, :n, :n] + torch.diag_embed(damping[rows, None] * H.diagonal(dim1=1, dim2=2)[:, :n] + 1e-9)
        side[rows] = torch.cat([g[:, :n, None], H[:, :n, TRANSL:]], dim=2)
        factor = torch.linalg.cholesky_ex(A).L
        inverse = torch.cholesky_inverse(factor)[:, :TRANSL, :TRANSL]
        for name, sigma in noise.items():
            determined[name] += float((inverse * at.measured[name][0][rows, :TRANSL, :TRANSL]).sum()) / sigma**2
        if blocks is None:
            free[rows] = torch.cholesky_solve(side[rows], factor)
        else:
            blocks[rows] = A
    if blocks is not None:
        below = [damping.new_zeros(len(coupled), n, n) for coupled in at.prior.below]
        for whole, coupled in zip(below, at.prior.below, strict=True):
            _own_blocks(whole).add_(coupled)
        chain = BlockFactor(blocks.cpu().numpy(), [whole.cpu().numpy() for whole in below])
        free = torch.from_numpy(chain.solve(side.cpu().numpy())).to(side)
    if not problem.shared_shape:
        return -free[..., 0], determined
    C, c = C + at.prior.shape_hessian, c + at.prior.shape_gradient
    known = side.flatten(0, 1).mT @ free.flatten(0, 1)  # what the frames' own unknowns explain of the shape's equations
    reduced = C + torch.diag_embed(damping.median() * C.diagonal()) - known[1:, 1:]
    shape = -torch.linalg.solve(reduced, c - known[1:, 0])
    own = -(free @ torch.cat([shape.new_ones(1), shape]))
    return torch.cat([own, shape.expand(T, 10)], dim=1), determined
