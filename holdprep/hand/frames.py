"""Rows of some frames as arrays over all frames."""

import numpy as np
import torch
from torch import Tensor

from holdprep.hand.model import ManoParams


def scatter_to_frames(rows: np.ndarray, at: np.ndarray, frames: int) -> np.ndarray:
    """(frames, ...) float64 with `rows` (N, ...) at the frames `at`, (N,) indices or (frames,) bool; NaN elsewhere."""
    out = np.full((frames, *rows.shape[1:]), np.nan)
    out[at] = rows
    return out


def scatter_params(params: ManoParams, is_valid: Tensor) -> ManoParams:
    """Parameters of the valid frames as those of all frames (T,), NaN elsewhere; a shared shape stays (10,). float64 on the CPU."""
    at = is_valid.cpu().numpy().astype(bool)

    def full(x: Tensor) -> Tensor:
        return torch.from_numpy(scatter_to_frames(x.double().cpu().numpy(), at, len(at)))

    betas = params.betas.double().cpu() if params.betas.ndim == 1 else full(params.betas)
    return ManoParams(full(params.global_orient), full(params.hand_pose), betas, full(params.transl))
