"""HOLD's left hands: its generator negates the x of the left model's shape directions, this project and HOLD's trainer do not.

Parameters of a left hand in HOLD's files (hold_fit.*.npy, mano_fit_ckpt/) are converted where they are read.
"""

from dataclasses import replace

import torch
from torch import Tensor

from holdprep.hand import lbs
from holdprep.hand.model import HandModel, ManoParams
from holdprep.hand.shapes import shaped, solve_betas

NEARER = 0.5  # of the other convention's distance from the mesh
DIFFERENT_M = 5e-4  # distance from which the mesh beside the parameters shows their convention


def converted(params: ManoParams, model: HandModel) -> tuple[ManoParams, float]:
    """Parameters of `model` for those of HOLD's generator, and the mean distance (mm) of the two templates about the wrist.

    Rotations and the wrist's place are kept; `betas` are the least-squares solution over the vertices.
    """
    betas = params.betas.reshape(-1, 10).to(model.shapedirs)
    goal, wrist = shaped(_flipped(model), betas)
    found = solve_betas(model, goal)
    template, own_wrist = shaped(model, found)
    moved = (wrist - own_wrist).to(params.transl)
    off_mm = 1e3 * float((template - goal).norm(dim=-1).mean())
    shape = found[0] if params.betas.dim() == 1 else found
    return ManoParams(params.global_orient, params.hand_pose, shape.to(params.transl), params.transl + moved), off_mm


def is_of_hold(params: ManoParams, model: HandModel, vertices_m: Tensor) -> bool:
    """Whether the mesh (T, 778, 3) m beside the parameters is theirs in HOLD's convention; NaN rows are left out."""
    if model.side != "left":
        return False
    goal = vertices_m.double()
    own, hold = (float((lbs.forward(m.to(torch.float64), params).vertices - goal).norm(dim=-1).nanmean()) for m in (model, _flipped(model)))
    return own > DIFFERENT_M and hold < NEARER * own


def note(off_mm: float) -> str:
    """A line for the user."""
    return f"left hand: the file is HOLD's, whose shape directions have the opposite sign of x: converted, to {off_mm:.1f} mm"


def _flipped(model: HandModel) -> HandModel:
    return replace(model, shapedirs=model.shapedirs * torch.tensor([-1.0, 1.0, 1.0]).to(model.shapedirs)[:, None])
