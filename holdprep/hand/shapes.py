"""Shaped templates about their wrists, and the shape that is nearest to one."""

import torch
from torch import Tensor

from holdprep.hand.model import HandModel


def shaped(model: HandModel, betas: Tensor) -> tuple[Tensor, Tensor]:
    """Templates (N, 778, 3) of shapes (N, 10) relative to their wrists, and the wrists (N, 3)."""
    vertices = model.v_template + torch.einsum("vcb,nb->nvc", model.shapedirs, betas)
    wrist = torch.einsum("v,nvc->nc", model.J_regressor[0], vertices)
    return vertices - wrist[:, None], wrist


def solve_betas(model: HandModel, templates: Tensor) -> Tensor:
    """(N, 10) shapes whose templates about the wrist are nearest to `templates` (N, 778, 3), by least squares over the vertices."""
    zero, _ = shaped(model, templates.new_zeros(1, 10))
    unit, _ = shaped(model, torch.eye(10).to(templates))
    return (torch.linalg.pinv((unit - zero).flatten(1).T) @ (templates - zero).flatten(1).T).T
