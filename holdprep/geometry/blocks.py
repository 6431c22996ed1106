"""Linear systems of one block per frame, separate or coupled with neighbours: (banded) Cholesky, in time linear in frames."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from scipy.linalg import cho_solve_banded, cholesky_banded
from torch import Tensor


class BlockFactor:
    """Cholesky factor of a symmetric block-banded matrix.

    `diagonal` (T, n, n), and `below`, the blocks (T - 1, n, n), (T - 2, n, n), ... below it that couple each frame with the
    previous one, the one before that, and so on; empty where frames are not coupled.

    Banded factors are LAPACK's, on the CPU. Raises a LinAlgError (scipy's or torch's) where the matrix is not positive definite.
    """

    def __init__(self, diagonal: Tensor, below: Sequence[Tensor] = ()) -> None:
        self.banded = len(below) > 0
        if self.banded:
            self._band = _banded_cholesky(diagonal.cpu().numpy(), [blocks.cpu().numpy() for blocks in below])
        else:
            self._blocks = torch.linalg.cholesky(diagonal)

    def solve(self, right: Tensor) -> Tensor:
        """Solutions (T, n, k) for right sides (T, n, k)."""
        if not self.banded:
            return torch.cholesky_solve(right, self._blocks)
        flat = right.cpu().numpy().reshape(-1, right.shape[-1])
        return torch.from_numpy(cho_solve_banded((self._band, True), flat, check_finite=False)).reshape(right.shape).to(right)


def _banded_cholesky(diagonal: np.ndarray, below: Sequence[np.ndarray]) -> np.ndarray:
    frames, size = diagonal.shape[:2]
    height = (len(below) + 1) * size
    columns = np.zeros((frames, height + size, size))  # of each frame: its block, those below, and rows of zeros
    for apart, blocks in enumerate([diagonal, *below]):
        columns[: frames - apart, apart * size : (apart + 1) * size] = blocks
    frame, row, entry = columns.strides
    # column c begins at row c, where the diagonal is
    shifted = as_strided(columns, (frames, size, height), (frame, row + entry, row), writeable=False)
    band = shifted.reshape(frames * size, height).T  # a copy in LAPACK's layout
    return np.asarray(cholesky_banded(band, lower=True, overwrite_ab=True, check_finite=False))
