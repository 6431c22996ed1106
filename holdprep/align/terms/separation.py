"""Fingers that intersect each other."""

import torch
from torch import Tensor

from holdprep.align import evidence as ev
from holdprep.align.layout import Layout
from holdprep.align.scene import Setup
from holdprep.align.terms.base import HandTerm, HandView, Noise, Residuals
from holdprep.geometry.least_squares import Columns
from holdprep.hand.separation import Separation

SIGMA_M = 1e-3


class FingerSeparation(HandTerm):
    """Mean over frames of the squared overlaps of the fingers' capsules, as distances of joints; px^2 per m^2."""

    unit = "px^2 / m^2"

    def applies(self, setup: Setup, layout: Layout) -> bool:
        """Where the fingers are free."""
        return layout.refine.pose and layout.with_object

    def residuals(self, view: HandView) -> Residuals:
        """(T, Q, 1) m along the directions between overlapping capsules; no entry without overlap."""
        found = Separation.of(view.joints, view.setup.finger_radii_m[view.side])
        if found is None:
            nothing = torch.zeros(view.problem.num_frames, 0, 1, dtype=torch.float64)
            return Residuals(nothing, nothing)
        joints = view.joints.gather(1, found.ids[..., None].expand(-1, -1, 3))
        along = (found.normal * (joints - found.target_m)).sum(dim=-1, keepdim=True)
        extra = {"ids": found.ids, "normal": found.normal}
        return Residuals(along, found.weight[..., None] / view.problem.num_frames, extra=extra)

    def columns(self, view: HandView) -> Columns:
        """The hand's columns."""
        return view.layout.hand(view.side)

    def jacobian(self, view: HandView, at: Residuals) -> tuple[Tensor, Tensor]:
        """Along the directions between the capsules, which are held."""
        own, shared = view.joint_jacobians
        if at.extra is None:
            return own[:, :0, :1], shared[:, :0, :1]
        rows, normal = torch.arange(len(own))[:, None], at.extra["normal"][:, :, None]
        return normal @ own[rows, at.extra["ids"]], normal @ shared[rows, at.extra["ids"]]

    def measured(self, view: HandView, noise: Noise) -> float | None:
        """From the standard deviation of an overlap."""
        return ev.departure_weight(noise.variance_px2, SIGMA_M)
