"""Distance of the hand's outline from its mask's edge."""

import torch
from torch import Tensor

from holdprep.align.layout import FOCAL, Layout
from holdprep.align.residuals import reprojection
from holdprep.align.scene import Setup
from holdprep.align.terms.base import HandTerm, HandView, Noise, Residuals
from holdprep.geometry.cameras import projection_jacobian
from holdprep.geometry.least_squares import Columns
from holdprep.geometry.robust import GemanMcClure


class Outline(HandTerm):
    """Geman-McClure of silhouette vertices' distances along the normals of the mask's edge; px^2 per px^2.

    It is the sum weighted by numbers of measurements, over the number of observed joints. Correspondences are fixed between two searches.
    """

    unit = "1"

    def applies(self, setup: Setup, layout: Layout) -> bool:
        """Where a hand has masks."""
        return self.weights.outline != 0 and any(hand.outlines is not None for hand in setup.problem.hands.values())

    def residuals(self, view: HandView) -> Residuals:
        """(T, Q, 1) px; no entry where the hand has no masks."""
        if view.edges is None:
            nothing = torch.zeros(view.problem.num_frames, 0, 1, dtype=torch.float64)
            return Residuals(nothing, nothing)
        edges = view.edges
        points = view.skin.points.gather(1, edges.ids[..., None].expand(-1, -1, 3))
        along = (edges.normal * reprojection(points, view.K, edges.target_px)).sum(dim=-1, keepdim=True)
        return Residuals(along, edges.weight[..., None] / view.hand.weight.sum(), GemanMcClure(edges.width_px), {"points": points})

    def columns(self, view: HandView) -> Columns:
        """The hand's columns."""
        return view.layout.hand(view.side)

    def jacobian(self, view: HandView, at: Residuals) -> tuple[Tensor, Tensor]:
        """Along the edge's normals."""
        edges = view.edges
        if edges is None or at.extra is None:
            return at.value.new_zeros(*at.value.shape, view.layout.hand_size), at.value.new_zeros(*at.value.shape, view.layout.shared)
        along = (edges.normal[..., None, :] @ projection_jacobian(at.extra["points"], view.K))[:, :, 0]
        own, shared = view.slopes(view.skin, view.setup.skin[view.side], edges.ids, along)
        if view.layout.focal_free:
            shared[..., 0, FOCAL] = at.value[..., 0] + (edges.normal * (edges.target_px - view.K[:2, 2])).sum(dim=-1)
        return own, shared

    def measured(self, view: HandView, noise: Noise) -> float | None:
        """From the ratio of the variances of keypoints and outline."""
        return None if view.edges is None else noise.variance_px2 / view.edges.sigma_px**2
