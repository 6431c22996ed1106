"""The term of the hand's outline: silhouette vertices against the mask's edge, along its normals."""

import torch
from torch import Tensor

from holdprep.geometry.robust import GemanMcClure
from holdprep.hand.lbs import NUM_JOINTS, HandPoints, HandState
from holdprep.hand.model import HandModel
from holdprep.hand.outline import Outlines, OutlineTargets
from holdprep.hand.terms.base import Noise, Term


def outline(model: HandModel, state: HandState, outlines: Outlines, K: Tensor, weight: float) -> Term:
    """Distances (px) along the edge's normals, of a posed hand (T frames) under `K` (3, 3), with the correspondences of this state."""
    vertices = HandPoints.of(model, torch.arange(778)).pose(state).points[:, NUM_JOINTS:]
    found = OutlineTargets.of(outlines, vertices, K)
    loss, noise = GemanMcClure(found.width_px), Noise(found.sigma_px)
    values = (found.ids, found.target_px, weight * found.weight)
    return Term("outline", *values, noise, loss, K=K.double(), dtype=torch.float32, normal=found.normal)
