"""Mirroring of MANO parameters between right and left hands."""

import torch
from torch import Tensor

from holdprep.hand.model import HandModel, ManoParams


def mirrored(params: ManoParams, model: HandModel, other: HandModel) -> ManoParams:
    """Parameters of `other` (the other side's model) whose mesh is that of `params` of `model` with x negated; NaN stays NaN.

    Rotations and wrist are mirrored exactly. So is the shape if the models' shape directions are mirror images; if not (MANO's left
    directions have the wrong sign of x), `betas` are the least-squares solution over the vertices.
    """
    flip = torch.tensor([-1.0, 1.0, 1.0]).to(params.transl)
    signs = -flip  # a mirrored rotation vector keeps its x component, y and z change sign
    pose = ((params.hand_pose + model.hand_mean).unflatten(-1, (15, 3)) * signs).flatten(-2) - other.hand_mean
    betas = params.betas.expand(len(params.transl), 10)
    hand, wrist = _shaped(model, betas)
    target = hand * flip
    zero, _ = _shaped(other, betas.new_zeros(1, 10))
    unit, _ = _shaped(other, torch.eye(10).to(betas))
    found = torch.linalg.pinv((unit - zero).flatten(1).T) @ (target - zero).flatten(1).T
    _, other_wrist = _shaped(other, found.T)
    return ManoParams(params.global_orient * signs, pose, found.T, (wrist + params.transl) * flip - other_wrist)


def _shaped(model: HandModel, betas: Tensor) -> tuple[Tensor, Tensor]:
    """Templates (N, 778, 3) of shapes (N, 10) relative to their wrists, and the wrists (N, 3)."""
    vertices = model.v_template + torch.einsum("vcb,nb->nvc", model.shapedirs, betas)
    wrist = torch.einsum("v,nvc->nc", model.J_regressor[0], vertices)
    return vertices - wrist[:, None], wrist
