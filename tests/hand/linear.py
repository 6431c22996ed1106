"""The noise floor of a registration: least squares linearised at the truth, with dense matrices independent of the solver."""

import torch
from torch import Tensor

from holdprep.hand import lbs
from holdprep.hand.model import HandModel, ManoParams

AT_ONCE = 50


def displaced_by(model: HandModel, truth: ManoParams, noise: Tensor) -> Tensor:
    """Displacement (T, 778, 3) of the best linear unbiased fit of T poses and one shape by noise (T, 778, 3) on every vertex.

    Gauss and Markov: with equal, independent noise no unbiased estimate has less variance.
    """
    points, ids, state = lbs.HandPoints.of(model, torch.arange(778)), torch.arange(lbs.NUM_JOINTS, 799)[None], lbs.to_state(model, truth)
    parts = []
    for rows in (slice(i, i + AT_ONCE) for i in range(0, len(noise), AT_ONCE)):
        posed = points.pose(state.rows(rows))
        turns = points.rotation_jacobian(posed, ids).flatten(3).flatten(1, 2)
        own = torch.cat([turns, torch.eye(3).to(turns).repeat(778, 1).expand(len(turns), -1, 3)], dim=2)
        Q = torch.linalg.qr(own).Q
        shape = points.shape_jacobian(posed, ids).flatten(1, 2)
        parts.append((Q, shape - Q @ (Q.mT @ shape), noise[rows].flatten(1)[..., None]))
    left = sum(((B.mT @ B).sum(dim=0) for _, B, _ in parts), torch.zeros(10, 10).to(noise))
    right = sum(((B.mT @ n).sum(dim=0) for _, B, n in parts), torch.zeros(10, 1).to(noise))
    betas = torch.linalg.solve(left, right)
    return torch.cat([Q @ (Q.mT @ n) + B @ betas for Q, B, n in parts]).reshape(noise.shape)
