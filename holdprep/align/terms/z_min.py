"""Joints that are too near to the camera, or behind it."""

from torch import Tensor

from holdprep.align.residuals import too_near
from holdprep.align.terms.base import HandTerm, HandView, Residuals
from holdprep.geometry.least_squares import Columns, Equations, Shared

NEAR_M = 0.05  # smallest depth of a joint


class TooNear(HandTerm):
    """Mean over joints of the squared difference of NEAR_M and a smaller depth; px^2 per m^2."""

    unit = "px^2 / m^2"
    first = 1000.0

    def residuals(self, view: HandView) -> Residuals:
        """(T, 21, 1) m."""
        lacking = too_near(view.joints[..., 2:], NEAR_M)
        return Residuals(lacking, lacking.new_full((1,), 1 / lacking.numel()))

    def columns(self, view: HandView) -> Columns:
        """The hand's columns."""
        return view.layout.hand(view.side)

    def jacobian(self, view: HandView, at: Residuals) -> tuple[Tensor, Tensor]:
        """Minus the derivative of the depth, where it is too small."""
        lacks = (at.value > 0)[..., None]
        own, shared = view.joint_jacobians
        return -own[..., 2:, :] * lacks, -shared[..., 2:, :] * lacks

    def add(self, view: HandView, at: Residuals, system: Equations, shared: Shared, weight: float) -> None:
        """Add the equations if a joint is too near; usually none is."""
        if bool((at.value > 0).any()):
            super().add(view, at, system, shared, weight)
