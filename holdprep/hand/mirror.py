"""Mirroring of MANO parameters between right and left hands."""

import torch

from holdprep.hand.model import HandModel, ManoParams
from holdprep.hand.shapes import shaped, solve_betas


def mirrored(params: ManoParams, model: HandModel, other: HandModel) -> ManoParams:
    """Parameters of `other` (the other side's model) whose mesh is that of `params` of `model` with x negated; NaN stays NaN.

    Rotations and wrist are mirrored exactly. So is the shape if the models' shape directions are mirror images; if not (MANO's left
    directions have the wrong sign of x), `betas` are the least-squares solution over the vertices.
    """
    flip = torch.tensor([-1.0, 1.0, 1.0]).to(params.transl)
    signs = -flip  # a mirrored rotation vector keeps its x component, y and z change sign
    pose = ((params.hand_pose + model.hand_mean).unflatten(-1, (15, 3)) * signs).flatten(-2) - other.hand_mean
    betas = params.betas.expand(len(params.transl), 10)
    hand, wrist = shaped(model, betas)
    found = solve_betas(other, hand * flip)
    _, other_wrist = shaped(other, found)
    return ManoParams(params.global_orient * signs, pose, found, (wrist + params.transl) * flip - other_wrist)
