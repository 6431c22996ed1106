"""The term of the tracker's 2D keypoints."""

import torch

from holdprep.geometry.robust import GemanMcClure
from holdprep.hand.lbs import NUM_JOINTS
from holdprep.hand.outline import size_px
from holdprep.hand.targets import Targets
from holdprep.hand.terms.base import Noise, Term

FIRST_SIGMA = 0.03  # of the hand's size in the image
WIDTH = 0.1  # of the hand's size, Geman-McClure: occluded joints are often outliers
FLOOR_PX = 0.3  # lower bound of the keypoints' standard deviation


def joint_2d(targets: Targets, sigma_px: float | None) -> Term | None:
    """Distances (px) of the 21 joints under the targets' K; `sigma_px` None is estimated. None without keypoints."""
    weight = targets.weights()[2]
    if targets.j2d_px is None or targets.K is None or weight is None:
        return None
    size = size_px(targets.j2d_px)
    noise = Noise(sigma_px or FIRST_SIGMA * size, sigma_px is None, FLOOR_PX)
    loss = GemanMcClure(WIDTH * size)
    return Term("joint_2d", torch.arange(NUM_JOINTS, device=weight.device), targets.j2d_px, weight, noise, loss, K=targets.K.double())
