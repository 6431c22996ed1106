"""What several stages do to the same artefacts: the hand model in use, the hands asked for, parameters to and from files."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from holdprep.config import Config
from holdprep.hand.model import SIDES, HandModel, ManoParams, Side, load_hand_model

HAND_KEYS = ("global_orient", "hand_pose", "betas", "transl")


def hand_model(cfg: Config, side: Side) -> HandModel:
    """MANO where the user has it (hand_model.path or $MANO_DIR), else the stand-in; float64."""
    return load_hand_model(side, cfg.hand_model.path, dtype=torch.float64)


def wanted_sides(cfg: Config) -> tuple[Side, ...]:
    """The hands that `hands.which` allows."""
    which = cfg.hands.which
    return SIDES if which in ("auto", "both") else tuple(s for s in SIDES if s == which)


def params_to_dict(params: ManoParams) -> dict[str, np.ndarray]:
    """HOLD's layout of hold_fit.*.npy: float32, betas repeated for every frame."""
    frames = len(params.transl)
    betas = params.betas.expand(frames, 10)
    values = (params.global_orient, params.hand_pose, betas, params.transl)
    return {k: v.detach().cpu().numpy().astype(np.float32) for k, v in zip(HAND_KEYS, values, strict=True)}


def params_from_dict(fit: Mapping[str, Any]) -> ManoParams:
    """The reverse; the one shape is the mean over the frames that have one (HOLD's fits carry a shape a frame)."""
    arrays = {k: torch.as_tensor(np.asarray(fit[k]), dtype=torch.float64) for k in HAND_KEYS}
    arrays["betas"] = torch.nanmean(arrays["betas"].reshape(-1, 10), dim=0)
    return ManoParams(**arrays)
