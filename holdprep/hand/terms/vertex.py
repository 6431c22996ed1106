"""The term of the tracker's mesh vertices."""

import torch

from holdprep.geometry.robust import Loss
from holdprep.hand.lbs import NUM_JOINTS
from holdprep.hand.targets import Targets
from holdprep.hand.terms.base import Noise, Term

FIRST_SIGMA_M = 2e-3
FLOOR_M = 5e-5  # lower bound, which keeps the effect of the shape prior on exact targets


def vertex(targets: Targets, sigma_m: float | None, loss: Loss, step: int = 1) -> Term | None:
    """Distances (m) of every `step`-th vertex; `sigma_m` None is estimated. None without meshes."""
    weight = targets.weights()[0]
    if targets.vertices_m is None or weight is None:
        return None
    ids = NUM_JOINTS + torch.arange(len(range(0, 778, step)), device=targets.vertices_m.device)
    noise = Noise(sigma_m or FIRST_SIGMA_M, sigma_m is None, FLOOR_M)
    return Term("vertex", ids, targets.vertices_m[:, ::step], weight[:, ::step], noise, loss, targets.floating, dtype=torch.float32)
