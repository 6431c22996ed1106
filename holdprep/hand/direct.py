"""Registration by a tracker's own MANO parameters as they are: only the shape is made one for the clip."""

from dataclasses import replace

import torch
from torch import Tensor

from holdprep.errors import HoldprepError
from holdprep.hand.lbs import forward
from holdprep.hand.model import HandModel, ManoParams
from holdprep.hand.registration import Registration
from holdprep.hand.targets import Targets, check


def register_direct(model: HandModel, params: ManoParams, vertices_m: Tensor, shared_shape: bool = True) -> Registration:
    """`params` of T frames (`betas` (T, 10), NaN where no hand was found) in this model's conventions; `vertices_m` (T, 778, 3) are the
    tracker's meshes, against which they are measured.

    With `shared_shape` every frame gets the median shape, and stays where its wrist was. Raises HoldprepError where no frame has
    parameters, or the meshes are no hand of this side in metres.
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
