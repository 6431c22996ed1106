"""MANO parameters in the layout of HOLD's files: a dict of arrays with one row per frame."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from holdprep.hand.model import ManoParams

KEYS = ("global_orient", "hand_pose", "betas", "transl")


def params_to_dict(params: ManoParams) -> dict[str, np.ndarray]:
    """Parameters of T frames in HOLD's layout (hold_fit.*.npy): float32, `betas` (10,) or (T, 10) repeated for every frame."""
    frames = len(params.transl)
    betas = params.betas.expand(frames, 10)
    values = (params.global_orient, params.hand_pose, betas, params.transl)
    return {k: v.detach().cpu().numpy().astype(np.float32) for k, v in zip(KEYS, values, strict=True)}


def params_from_dict(fit: Mapping[str, Any]) -> ManoParams:
    """Parameters from HOLD's layout; the shape is the mean over frames that have one (HOLD's fits have one shape per frame)."""
    arrays = {k: torch.as_tensor(np.asarray(fit[k]), dtype=torch.float64) for k in KEYS}
    arrays["betas"] = torch.nanmean(arrays["betas"].reshape(-1, 10), dim=0)
    return ManoParams(**arrays)
