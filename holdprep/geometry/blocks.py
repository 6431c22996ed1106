"""Systems of one block a frame, alone or coupled with its neighbours: Cholesky, banded where coupled, in time linear in frames."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg import cho_solve_banded, cholesky_banded


class BlockFactor:
    """Cholesky factor of a symmetric block-banded matrix: `diagonal` (T, n, n), and `below`, the blocks (T - 1, n, n), (T - 2, n, n), ...
    under it that couple each frame with the one before, the one before that, and so on; empty where frames are not coupled.

    Raises scipy's LinAlgError where it is not positive definite.
    """

    def __init__(self, diagonal: np.ndarray, below: Sequence[np.ndarray] = ()) -> None:
        self.banded = len(below) > 0
        self.cholesky = _banded_cholesky(diagonal, below) if below else np.linalg.cholesky(diagonal)

    def solve(self, right: np.ndarray) -> np.ndarray:
        """Blocks (T, n, k) for right sides alike."""
        if not self.banded:
            return torch.cholesky_solve(torch.from_numpy(right), torch.from_numpy(self.cholesky)).numpy()
        flat = right.reshape(-1, right.shape[-1])
        return cho_solve_banded((self.cholesky, True), flat, check_finite=False).reshape(right.shape)


def _banded_cholesky(diagonal: np.ndarray, below: Sequence[np.ndarray]) -> np.ndarray:
    frames, size = diagonal.shape[:2]
    band = np.zeros(((len(below) + 1) * size, frames * size), order="F")  # as LAPACK has it: no copy
    row, column = np.tril_indices(size)
    start = np.arange(frames)[:, None] * size
    band[row - column, start + column] = diagonal[:, row, column]
    row, column = (i.ravel() for i in np.indices((size, size)))
    for apart, blocks in enumerate(below, start=1):
        band[apart * size + row - column, start[:-apart] + column] = blocks[:, row, column]
    return np.asarray(cholesky_banded(band, lower=True, overwrite_ab=True, check_finite=False))
