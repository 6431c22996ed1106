"""Systems of one block a frame that is coupled with its neighbours: banded Cholesky, in time linear in frames."""

import numpy as np
from scipy.linalg import cho_solve_banded, cholesky_banded


class BlockFactor:
    """Cholesky factor of a symmetric block-tridiagonal matrix: `diagonal` (T, n, n), `below` (T - 1, n, n) or None for none.

    Raises scipy's LinAlgError where it is not positive definite.
    """

    def __init__(self, diagonal: np.ndarray, below: np.ndarray | None) -> None:
        frames, size = diagonal.shape[:2]
        band = np.zeros((2 * size if below is not None else size, frames * size))
        row, column = np.tril_indices(size)
        start = np.arange(frames)[:, None] * size
        band[row - column, start + column] = diagonal[:, row, column]
        if below is not None:
            row, column = (i.ravel() for i in np.indices((size, size)))
            band[size + row - column, start[:-1] + column] = below[:, row, column]
        self.cholesky = cholesky_banded(band, lower=True, overwrite_ab=True, check_finite=False)

    def solve(self, right: np.ndarray) -> np.ndarray:
        """Blocks (T, n, k) for right sides alike."""
        flat = right.reshape(-1, right.shape[-1])
        return cho_solve_banded((self.cholesky, True), flat, check_finite=False).reshape(right.shape)
