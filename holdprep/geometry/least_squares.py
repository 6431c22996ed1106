"""Levenberg-Marquardt for one block of unknowns per frame, and a few unknowns that all frames share.

The Gauss-Newton matrix is an arrow matrix: diagonal blocks, possibly coupled with neighbouring frames, and a border of shared unknowns.
Frames are eliminated by (banded) Cholesky, then the shared unknowns are solved by their Schur complement (Triggs et al., Bundle
Adjustment: A Modern Synthesis, 2000, section 6). The cost is linear in the number of frames.

Objectives are half the sum of squares: gradient J^T W r, matrix J^T W J.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from scipy.linalg import LinAlgError
from torch import Tensor

from holdprep.geometry.blocks import BlockFactor

Key = tuple[Any, ...]  # name of a group of unknowns with one block per frame
Columns = slice | Tensor  # of a block, in order
ALL = slice(None)
FLOOR = 1e-12  # of the largest entry, added to the diagonal, so that undetermined unknowns do not change


class Equations:
    """Gauss-Newton equations of one group: T blocks of `size` unknowns, and their coupling with `shared` further unknowns.

    `diagonal` (T, size, size), `below` the blocks (T - 1, size, size), (T - 2, ...) that couple frames with earlier ones, `coupling`
    (T, size, shared), `corner` (shared, shared), `gradient` (T, size), `shared_gradient` (shared,). float64.
    """

    def __init__(self, frames: int, size: int, shared: int, device: torch.device | str = "cpu") -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self.frames, self.size, self.shared = frames, size, shared
        self.diagonal, self.gradient = zeros(frames, size, size), zeros(frames, size)
        self.below: list[Tensor] = []
        self.coupling, self.corner, self.shared_gradient = zeros(frames, size, shared), zeros(shared, shared), zeros(shared)

    def add(self, own: Tensor, shared: Tensor, residual: Tensor, weight: Tensor, columns: Columns = ALL) -> None:
        """Add residuals (T, Q, M) with weights, derivatives (T, Q, M, n) by the block's `columns`, and (T, Q, M, shared)."""
        J, S = own.flatten(1, 2), shared.flatten(1, 2)
        w, r = weight.expand_as(residual).flatten(1), residual.flatten(1)
        weighted = (J * w[..., None]).mT
        self.diagonal[_square(columns)] += weighted @ J
        self.gradient[:, columns] += (weighted @ r[..., None])[..., 0]
        if self.shared:
            self.coupling[:, columns] += weighted @ S
            flat = (S * w[..., None]).flatten(0, 1).mT
            self.corner += flat @ S.flatten(0, 1)
            self.shared_gradient += flat @ r.flatten()

    def add_differences(self, own: Tensor, shared: Tensor, difference: Tensor, weight: float, columns: Columns = ALL) -> None:
        """Add differences (T - 1, Q, M) between frames of values with derivatives (T, Q, M, n) and (T, Q, M, shared) at each frame."""
        J, S, r = own.flatten(1, 2), shared.flatten(1, 2), difference.flatten(1)
        square, push = weight * J.mT @ J, weight * r[..., None]
        block = _square(columns)
        self.diagonal[1:][block] += square[1:]
        self.diagonal[:-1][block] += square[:-1]
        self.coupled(1)[block] -= weight * J[1:].mT @ J[:-1]
        self.gradient[1:, columns] += (J[1:].mT @ push)[..., 0]
        self.gradient[:-1, columns] -= (J[:-1].mT @ push)[..., 0]
        if self.shared:
            change = S[1:] - S[:-1]
            self.coupling[1:, columns] += weight * J[1:].mT @ change
            self.coupling[:-1, columns] -= weight * J[:-1].mT @ change
            flat = weight * change.flatten(0, 1).mT
            self.corner += flat @ change.flatten(0, 1)
            self.shared_gradient += flat @ r.flatten()

    def add_changes(self, difference: Tensor, weight: float, columns: Columns = ALL) -> None:
        """Add differences (T - 1, n) between frames of values whose derivative by the `columns` is the identity, see `add_differences`."""
        for rows in (slice(1, None), slice(None, -1)):
            self.diagonal.diagonal(dim1=1, dim2=2)[rows, columns] += weight
        if len(difference):
            self.coupled(1).diagonal(dim1=1, dim2=2)[:, columns] -= weight
        self.gradient[1:, columns] += weight * difference
        self.gradient[:-1, columns] -= weight * difference

    def add_quadratic(self, matrix: Tensor, departure: Tensor, columns: Columns = ALL) -> None:
        """Add half of d^T B d for departures d (T, n) of the `columns`, with B (T, n, n) or (n, n); the derivative of d is the identity."""
        self.diagonal[_square(columns)] += matrix
        self.gradient[:, columns] += (matrix @ departure[..., None])[..., 0]

    def coupled(self, apart: int) -> Tensor:
        """(T - apart, size, size), the blocks that couple each frame with the one `apart` frames before; created on demand."""
        while len(self.below) < apart:
            self.below.append(self.diagonal.new_zeros(self.frames - len(self.below) - 1, self.size, self.size))
        return self.below[apart - 1]

    def factor(self, damping: Tensor) -> BlockFactor:
        """Cholesky factor of the blocks damped by `damping` (T,); raises LinAlgError where they are not positive definite."""
        blocks = self.diagonal.clone()
        own = blocks.diagonal(dim1=1, dim2=2)
        own += damping[:, None] * own + FLOOR * (1 + own.max())
        return BlockFactor(blocks, self.below)


@dataclass(frozen=True)
class Shared:
    """Equations of the shared unknowns alone: matrix (shared, shared) and gradient (shared,)."""

    matrix: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class Step:
    """A step of every group's unknowns (T, size), and of the shared unknowns (shared,)."""

    own: dict[Key, Tensor]
    shared: Tensor


def solve(systems: Mapping[Key, Equations], shared: Shared, damping: Tensor) -> Step:
    """The Gauss-Newton step, each frame's unknowns damped by `damping` (T,) times the diagonal of its matrix (Marquardt 1963).

    Shared unknowns are damped by the median over frames. Raises LinAlgError where the equations do not determine a step.
    """
    matrix = shared.matrix + sum((system.corner for system in systems.values()), torch.zeros_like(shared.matrix))
    gradient = shared.gradient + sum((system.shared_gradient for system in systems.values()), torch.zeros_like(shared.gradient))
    reduced, right, solved = matrix + torch.diag(damping.median() * matrix.diagonal().abs()), -gradient, dict[Key, Tensor]()
    for key, system in systems.items():
        both = system.factor(damping).solve(torch.cat([-system.gradient[..., None], system.coupling], dim=-1))
        solved[key] = both
        free = both.flatten(0, 1)
        reduced = reduced - system.coupling.flatten(0, 1).mT @ free[:, 1:]
        right = right - system.coupling.flatten(0, 1).mT @ free[:, 0]
    if not len(right):
        return Step({key: both[..., 0] for key, both in solved.items()}, right)
    step = torch.linalg.solve(reduced + FLOOR * (1 + reduced.abs().max()) * torch.eye(len(right)).to(reduced), right)
    if not bool(step.isfinite().all()):
        raise LinAlgError("the shared unknowns are not determined")
    return Step({key: both[..., 0] - both[..., 1:] @ step for key, both in solved.items()}, step)


class Evaluation(Protocol):
    """The objective at a state: its `total`, and each frame's own part (T,), None where it is not a sum over frames."""

    @property
    def total(self) -> float: ...

    @property
    def own(self) -> Tensor | None: ...


class LeastSquares(Protocol):
    """A robust nonlinear least-squares problem with its current state; `now` is the objective at this state."""

    now: Evaluation

    def equations(self) -> tuple[Mapping[Key, Equations], Shared]:
        """The equations at the current state."""

    def evaluate_step(self, step: Step) -> Evaluation:
        """The objective after a step, without changing the state."""

    def accept(self, there: Evaluation, systems: Mapping[Key, Equations], damping: Tensor) -> None:
        """Accept the step to the state of `there`; estimated noise and weights may change."""


@dataclass(frozen=True)
class Damping:
    """Schedule of the damping: initial value, limits, and factors after rejected and accepted steps."""

    first: float = 1e-5
    least: float = 1e-9
    most: float = 1e8
    rise: float = 10.0
    fall: float = 10.0


@dataclass(frozen=True)
class Progress:
    """The last step: decrease of the objective `gained`, largest entry `moved`; `stuck` where no step decreases the objective."""

    gained: float = float("inf")
    moved: float = float("inf")
    stuck: bool = False


class LevenbergMarquardt(torch.optim.Optimizer):
    """Levenberg-Marquardt as an optimizer: `step` takes one step of `problem`, damped until the objective decreases.

    The parameters are the module's copy of the problem's state; their gradients are not used. Where the objective is a sum over
    frames, only frames whose part increased are damped more, so that one bad frame does not slow down the others.
    """

    def __init__(self, params: Iterable[Any], problem: LeastSquares, frames: int, schedule: Damping | None = None) -> None:
        self.schedule = schedule or Damping()
        super().__init__(params, {})
        self.start(problem, frames)

    def start(self, problem: LeastSquares, frames: int) -> None:
        """Set another problem, with the initial damping."""
        self.problem, self.progress = problem, Progress()
        self.param_groups[0]["damping"] = torch.full((frames,), self.schedule.first, dtype=torch.float64)  # kept in checkpoints

    @property
    def damping(self) -> Tensor:
        """(T,) damping of the next step."""
        return self.param_groups[0]["damping"]

    def step(self, closure: Callable[[], Any] | None = None) -> float:  # type: ignore[override]
        """One accepted step, or none (`progress.stuck`); returns the objective after it."""
        if closure is not None:
            closure()
        before = self.problem.now
        systems, shared = self.problem.equations()
        damping = self.damping.to(shared.matrix.device)
        while float(damping.max()) <= self.schedule.most:
            found = self._try(systems, shared, damping)
            if found is not None and found[0].total <= before.total:
                there, step = found
                self.progress = Progress(before.total - there.total, _largest(step))
                self.problem.accept(there, systems, damping)
                increased, relaxed = _increased(before, there), damping / self.schedule.fall
                relaxed = relaxed if increased is None else torch.where(increased, damping * self.schedule.rise, relaxed)
                self.param_groups[0]["damping"] = relaxed.clamp_min(self.schedule.least).cpu()
                return self.problem.now.total
            increased = None if found is None else _increased(before, found[0])
            harder = torch.ones_like(damping, dtype=torch.bool) if increased is None or not bool(increased.any()) else increased
            damping = torch.where(harder, damping * self.schedule.rise, damping)
        self.progress = Progress(0.0, 0.0, stuck=True)
        return before.total

    def _try(self, systems: Mapping[Key, Equations], shared: Shared, damping: Tensor) -> tuple[Evaluation, Step] | None:
        try:
            step = solve(systems, shared, damping)
        except (LinAlgError, torch.linalg.LinAlgError):
            return None
        return self.problem.evaluate_step(step), step


def _increased(before: Evaluation, there: Evaluation) -> Tensor | None:
    """(T,) bool, frames whose part of the objective increased; None where it is not a sum over frames."""
    return None if before.own is None or there.own is None else there.own > before.own


def _largest(step: Step) -> float:
    return max(float(x.abs().max()) for x in (*step.own.values(), step.shared) if x.numel())


def _square(columns: Columns) -> tuple[slice, Columns, Columns]:
    return (ALL, columns, columns) if isinstance(columns, slice) else (ALL, columns[:, None], columns)
