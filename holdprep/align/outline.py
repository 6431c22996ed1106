"""Outline targets of one hand in the alignment: mask edge points of silhouette vertices, fixed between two searches for correspondences."""

from dataclasses import dataclass

import torch
from torch import Tensor

from holdprep.geometry.cameras import project_ahead
from holdprep.hand.lbs import NUM_JOINTS
from holdprep.hand.outline import NOISE, WIDTH, Outlines, size_px


@dataclass(frozen=True)
class OutlineTargets:
    """Silhouette vertices and the points of the mask's edge to which they correspond.

    `ids` (T, Q) are points of HandPoints with all vertices, `target_px` (T, Q, 2) and `normal` (T, Q, 2) those of the mask's edge,
    `weight` (T, Q) numbers of measurements; `sigma_px` is the standard deviation of their noise, `width_px` the robust loss's width.
    """

    ids: Tensor
    target_px: Tensor
    normal: Tensor
    weight: Tensor
    sigma_px: float
    width_px: float

    @staticmethod
    def of(outlines: Outlines, vertices_m: Tensor, K: Tensor, shown: Tensor) -> "OutlineTargets":
        """Targets for posed meshes (T, 778, 3) m under `K` (3, 3); frames that are not `shown` (T,) bool have zero weight."""
        ids, found = outlines.correspond(vertices_m.numpy(), K.numpy()).compact()
        size = size_px(project_ahead(vertices_m, K))
        target, normal, weight = (torch.from_numpy(x) for x in (found.target_px, found.normal, found.weight))
        return OutlineTargets(NUM_JOINTS + torch.from_numpy(ids), target, normal, weight * shown[:, None], NOISE * size, WIDTH * size)
