"""What the outline of one hand's masks says in the alignment: targets of silhouette vertices, fixed between two searches for them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from holdprep.geometry.cameras import project_ahead
from holdprep.hand.lbs import NUM_JOINTS
from holdprep.hand.outline import NOISE, WIDTH, Outlines, size_px


@dataclass(frozen=True)
class OutlineTargets:
    """Points `ids` (T, Q) of HandPoints with all vertices, the mask's edge that they correspond to, `target_px` (T, Q, 2), its `normal`
    (T, Q, 2) and the number of measurements `weight` (T, Q); their noise `sigma_px` and the robust width `width_px`, both px."""

    ids: Tensor
    target_px: Tensor
    normal: Tensor
    weight: Tensor
    sigma_px: float
    width_px: float

    @staticmethod
    def of(outlines: Outlines, vertices_m: Tensor, K: Tensor, shown: Tensor) -> "OutlineTargets":
        """For posed meshes (T, 778, 3) under `K` (3, 3); frames that are not `shown` (T,) bool say nothing."""
        ids, found = outlines.correspond(vertices_m.numpy(), K.numpy()).compact()
        size = size_px(project_ahead(vertices_m, K))
        target, normal, weight = (torch.from_numpy(x) for x in (found.target_px, found.normal, found.weight))
        return OutlineTargets(NUM_JOINTS + torch.from_numpy(ids), target, normal, weight * shown[:, None], NOISE * size, WIDTH * size)
