"""Normal equations with one block a frame, coupling between neighbours, and a few unknowns that all frames share.

The blocks make a banded matrix, solved by banded Cholesky in time linear in frames; the shared unknowns are eliminated by their
Schur complement (an arrow system).
"""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from scipy.linalg import LinAlgError
from torch import Tensor

from holdprep.geometry.blocks import BlockFactor

Key = TypeVar("Key")
Columns = slice | np.ndarray  # of a block, in order
ALL = slice(None)


class BlockSystem:
    """Gauss-Newton equations: T blocks of `size` unknowns, coupled with their neighbours, and `shared` further ones."""

    def __init__(self, frames: int, size: int, shared: int) -> None:
        self.frames, self.size, self.shared = frames, size, shared
        self.diagonal = np.zeros((frames, size, size))
        self.below: np.ndarray | None = None
        self.coupling = np.zeros((frames, size, shared))
        self.corner = np.zeros((shared, shared))
        self.gradient = np.zeros((frames, size))
        self.shared_gradient = np.zeros(shared)

    def add(self, own: Tensor, shared: Tensor, residual: Tensor, weight: Tensor, columns: Columns = ALL) -> None:
        """Residuals (T, Q, M) with weights alike, their derivatives (T, Q, M, n) by the `columns` of their frame's block and (T, Q, M, shared)."""
        J, S = own.flatten(1, 2).numpy(), shared.flatten(1, 2).numpy()
        w, r = weight.expand_as(residual).flatten(1).numpy(), residual.flatten(1).numpy()
        weighted = np.swapaxes(J * w[..., None], 1, 2)
        self.diagonal[_square(columns)] += weighted @ J
        self.gradient[:, columns] += (weighted @ r[..., None])[..., 0]
        if self.shared:
            self.coupling[:, columns] += weighted @ S
            self.corner += np.einsum("fma,fm,fmb->ab", S, w, S, optimize=True)
            self.shared_gradient += np.einsum("fma,fm->a", S, w * r)

    def add_motion(self, own: Tensor, shared: Tensor, moved: Tensor, weight: float, columns: Columns = ALL) -> None:
        """Displacements (T - 1, Q, 3) of points with derivatives (T, Q, 3, n) and (T, Q, 3, shared) at each frame."""
        J, S, r = own.flatten(1, 2).numpy(), shared.flatten(1, 2).numpy(), moved.flatten(1).numpy()
        square = weight * np.swapaxes(J, 1, 2) @ J
        block, push = _square(columns), weight * r[..., None]
        self.diagonal[1:][block] += square[1:]
        self.diagonal[:-1][block] += square[:-1]
        if self.below is None:
            self.below = np.zeros((self.frames - 1, self.size, self.size))
        self.below[block] -= weight * np.swapaxes(J[1:], 1, 2) @ J[:-1]
        self.gradient[1:, columns] += (np.swapaxes(J[1:], 1, 2) @ push)[..., 0]
        self.gradient[:-1, columns] -= (np.swapaxes(J[:-1], 1, 2) @ push)[..., 0]
        if self.shared:
            change = S[1:] - S[:-1]
            self.coupling[1:, columns] += weight * np.swapaxes(J[1:], 1, 2) @ change
            self.coupling[:-1, columns] -= weight * np.swapaxes(J[:-1], 1, 2) @ change
            self.corner += weight * np.einsum("fma,fmb->ab", change, change)
            self.shared_gradient += weight * np.einsum("fma,fm->a", change, r)

    def add_squares(self, blocks: np.ndarray, departure: np.ndarray, columns: Columns = ALL) -> None:
        """Half of d^T B d for departures (T, n) of unknowns, whose derivative is one, with `blocks` (T, n, n)."""
        self.diagonal[_square(columns)] += blocks
        self.gradient[:, columns] += (blocks @ departure[..., None])[..., 0]

    def factor(self, damping: float) -> BlockFactor:
        """Cholesky factor of the damped blocks; raises LinAlgError if they are not positive definite."""
        blocks = self.diagonal.copy()
        at = np.arange(self.size)
        blocks[:, at, at] += damping * blocks[:, at, at] + 1e-12 * (1 + np.abs(blocks).max())
        return BlockFactor(blocks, () if self.below is None else (self.below,))


def _square(columns: Columns) -> tuple[slice, Columns, Columns]:
    return (ALL, columns, columns) if isinstance(columns, slice) else (ALL, columns[:, None], columns)


def solve(
    systems: Mapping[Key, BlockSystem], shared_block: np.ndarray, shared_gradient: np.ndarray, damping: float
) -> tuple[dict[Key, np.ndarray], np.ndarray]:
    """The damped Gauss-Newton step: (T, size) for every system and (shared,) for what they share. Raises LinAlgError."""
    corner, right = shared_block.copy(), -shared_gradient
    solved = {}
    for key, system in systems.items():
        both = system.factor(damping).solve(np.concatenate([-system.gradient[..., None], system.coupling], axis=-1))
        solved[key] = both
        corner += system.corner - np.einsum("fas,fat->st", system.coupling, both[..., 1:])
        right = right - system.shared_gradient - np.einsum("fas,fa->s", system.coupling, both[..., 0])
    if len(corner) == 0:
        return {key: both[..., 0] for key, both in solved.items()}, right
    size = np.abs(np.diag(corner)) + 1e-12
    shared = np.linalg.solve(corner + damping * np.diag(size) + 1e-12 * np.eye(len(size)), right)
    if not np.isfinite(shared).all():
        raise LinAlgError("the shared unknowns are not determined")
    return {key: both[..., 0] - both[..., 1:] @ shared for key, both in solved.items()}, shared
