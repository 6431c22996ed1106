"""The term of the hand's outline: silhouette vertices against the mask's edge, along its normals."""

import torch
from torch import Tensor

from holdprep.geometry.cameras import project_ahead
from holdprep.hand.lbs import NUM_JOINTS, HandPoints, HandState
from holdprep.hand.model import HandModel
from holdprep.hand.outline import NOISE, WIDTH, Outlines, size_px
from holdprep.hand.terms.base import Loss, Noise, Term


def outline(model: HandModel, state: HandState, outlines: Outlines, K: Tensor, weight: float) -> Term:
    """Distances (px) along the edge's normals, of a posed hand (T frames) under `K` (3, 3), with the correspondences of this state."""
    vertices = HandPoints.of(model, torch.arange(778)).pose(state).points[:, NUM_JOINTS:]
    ids, found = outlines.correspond(vertices.cpu().numpy(), K.cpu().numpy()).compact()
    size = size_px(project_ahead(vertices, K.to(vertices)))
    target, normal, scaled = (torch.from_numpy(x).to(vertices) for x in (found.target_px, found.normal, weight * found.weight))
    loss, noise = Loss("geman_mcclure", WIDTH * size), Noise(NOISE * size)
    rows = NUM_JOINTS + torch.from_numpy(ids).to(vertices.device)
    return Term("outline", rows, target, scaled, noise, loss, K=K.double(), dtype=torch.float32, normal=normal)
