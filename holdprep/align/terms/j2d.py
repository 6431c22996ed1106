"""Reprojection of the hand's keypoints."""

from torch import Tensor

from holdprep.align.layout import FOCAL
from holdprep.align.residuals import reprojection
from holdprep.align.terms.base import HandTerm, HandView, Residuals
from holdprep.geometry.cameras import projection_jacobian
from holdprep.geometry.least_squares import Columns
from holdprep.geometry.robust import GemanMcClure


class Keypoints(HandTerm):
    """Geman-McClure of the reprojection error, a mean over visible joints weighted by confidence; px^2 per px^2."""

    unit = "1"
    first = 1.0

    def residuals(self, view: HandView) -> Residuals:
        """(T, 21, 2) px."""
        weight = view.hand.weight[..., None] / view.hand.weight.sum()
        return Residuals(reprojection(view.joints, view.K, view.hand.j2d_px), weight, GemanMcClure(self.weights.j2d_sigma_px))

    def columns(self, view: HandView) -> Columns:
        """The hand's columns."""
        return view.layout.hand(view.side)

    def jacobian(self, view: HandView, at: Residuals) -> tuple[Tensor, Tensor]:
        """Derivatives of the projection; by log focal length, the offset of the pixel from the principal point."""
        own, shared = view.joint_jacobians
        by_point = projection_jacobian(view.joints, view.K)
        shared = by_point @ shared
        if view.layout.focal_free:
            shared[..., FOCAL] = at.value + view.hand.j2d_px - view.K[:2, 2]
        return by_point @ own, shared
