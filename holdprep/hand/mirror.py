"""A right hand's parameters as those of the left hand that is its mirror image, and the reverse."""

import torch
from torch import Tensor

from holdprep.hand.model import HandModel, ManoParams


def mirrored(params: ManoParams, model: HandModel, other: HandModel) -> ManoParams:
    """Parameters of `other` (the other side's model) whose mesh is that of `params` of `model` with x negated; NaN stays NaN.

    Turns, fingers and wrist are mirrored exactly. Shape is too where the models' shape directions are mirror images; where they are not
    (MANO's left directions have the sign of x wrong), `betas` are the nearest in the least-squares sense over the vertices.
    """
    flip = torch.tensor([-1.0, 1.0, 1.0]).to(params.transl)
    turn = -flip  # a mirrored rotation vector keeps its x and turns the other way about y and z
    pose = ((params.hand_pose + model.hand_mean).unflatten(-1, (15, 3)) * turn).flatten(-2) - other.hand_mean
    betas = params.betas.expand(len(params.transl), 10)
    hand, wrist = _shaped(model, betas)
    target = hand * flip
    zero, _ = _shaped(other, betas.new_zeros(1, 10))
    unit, _ = _shaped(other, torch.eye(10).to(betas))
    found = torch.linalg.pinv((unit - zero).flatten(1).T) @ (target - zero).flatten(1).T
    _, other_wrist = _shaped(other, found.T)
    return ManoParams(params.global_orient * turn, pose, found.T, (wrist + params.transl) * flip - other_wrist)


def _shaped(model: HandModel, betas: Tensor) -> tuple[Tensor, Tensor]:
    """Templates (N, 778, 3) of shapes (N, 10) about their wrists, and the wrists (N, 3)."""
    vertices = model.v_template + torch.einsum("vcb,nb->nvc", model.shapedirs, betas)
    wrist = torch.einsum("v,nvc->nc", model.J_regressor[0], vertices)
    return vertices - wrist[:, None], wrist
