"""The term of the tracker's 3D joints."""

import torch

from holdprep.geometry.robust import GemanMcClure
from holdprep.hand.lbs import NUM_JOINTS
from holdprep.hand.targets import Targets
from holdprep.hand.terms.base import Noise, Term

FIRST_SIGMA_M = 0.01
WIDTH_M = 0.04  # Geman-McClure: a tracker invents the positions of hidden joints, which are wrong by up to half a hand
FLOOR_M = 2e-4


def joint_3d(targets: Targets) -> Term | None:
    """Distances (m) of the 21 joints; their noise is estimated where the targets have none. None without joints."""
    weight, sigma_m = targets.weights()[1], targets.j3d_sigma_m
    if targets.j3d_m is None or weight is None:
        return None
    noise = Noise(sigma_m or FIRST_SIGMA_M, sigma_m is None, FLOOR_M)
    loss = GemanMcClure(WIDTH_M)
    return Term("joint_3d", torch.arange(NUM_JOINTS, device=targets.j3d_m.device), targets.j3d_m, weight, noise, loss, targets.floating)
