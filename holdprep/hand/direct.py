"""Registration by a tracker's own MANO parameters, with one shape for the clip."""

from dataclasses import replace

import torch
from torch import Tensor

from holdprep.errors import HoldprepError
from holdprep.hand.lbs import forward
from holdprep.hand.model import HandModel, ManoParams
from holdprep.hand.registration import Registration
from holdprep.hand.targets import Targets, check


def register_direct(model: HandModel, params: ManoParams, vertices_m: Tensor, shared_shape: bool = True) -> Registration:
    """Registration by given parameters of T frames (`betas` (T, 10), NaN without a hand) in this model's conventions.

    The error is measured against the tracker's meshes `vertices_m` (T, 778, 3). With `shared_shape` every frame gets the median shape,
    with unchanged position of the wrist. Raises HoldprepError where no frame has parameters, or the meshes are not a hand of this side.
    """
    rows = torch.cat([params.global_orient, params.hand_pose, params.betas, params.transl], dim=1)
    is_valid = torch.isfinite(rows).all(dim=1)
    if not bool(is_valid.any()):
        raise HoldprepError(f"register: the tracker gave no MANO parameters in any of {len(is_valid)} frames: use registration=lm")
    is_valid = is_valid & check(model, Targets(vertices_m=vertices_m))
    if shared_shape:
        betas = params.betas[is_valid].median(dim=0).values
        wrist = torch.einsum("v,vcb->cb", model.J_regressor[0], model.shapedirs).to(params.betas)
        params = replace(params, betas=betas, transl=params.transl + (params.betas - betas) @ wrist.T)
    error = (forward(model, params).vertices - vertices_m.to(params.transl)).norm(dim=-1).mean(dim=1)
    error_mm = 1e3 * float(error[is_valid].mean())
    note = f"{model.side} hand: the tracker's MANO parameters, {error_mm:.2f} mm from its own meshes with one shape for the clip"
    return Registration(params, is_valid, torch.where(is_valid, error, torch.nan), notes=[note])
