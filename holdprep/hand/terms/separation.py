"""The term that separates intersecting fingers."""

import torch

from holdprep.hand.lbs import HandPoints, HandState
from holdprep.hand.model import HandModel
from holdprep.hand.separation import Separation, finger_radii
from holdprep.hand.terms.base import Noise, Term

SIGMA_M = 1e-3


def separation(model: HandModel, state: HandState) -> Term | None:
    """Distances (m) along the directions between overlapping capsules, of this state; None without overlap."""
    joints = HandPoints.of(model, torch.zeros(0, dtype=torch.long)).pose(state).points
    found = Separation.of(joints.cpu(), finger_radii(model, state.betas.reshape(-1, 10).mean(dim=0)).cpu())
    if found is None:
        return None
    ids, target, normal, weight = (x.to(joints.device) for x in (found.ids, found.target_m, found.normal, found.weight))
    return Term("separation", ids, target, weight, Noise(SIGMA_M), normal=normal, dtype=torch.float32)
