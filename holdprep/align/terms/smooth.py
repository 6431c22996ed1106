"""Motion of the hand's joints from frame to frame."""

from holdprep.align.layout import Layout
from holdprep.align.residuals import motion
from holdprep.align.scene import Setup
from holdprep.align.terms.base import HandTerm, HandView, Residuals
from holdprep.geometry.least_squares import Equations, Shared


class Smooth(HandTerm):
    """Mean over joints and pairs of neighbouring frames of the squared displacement; px^2 per m^2."""

    unit = "px^2 / m^2"
    first = 100.0

    def applies(self, setup: Setup, layout: Layout) -> bool:
        """In mode ho."""
        return setup.surface is not None

    def residuals(self, view: HandView) -> Residuals:
        """(T - 1, 21, 3) m."""
        moved = motion(view.joints)
        return Residuals(moved, moved.new_full((1,), 1 / max(moved[..., 0].numel(), 1)))

    def add(self, view: HandView, at: Residuals, system: Equations, shared: Shared, weight: float) -> None:
        """Add the equations, which couple neighbouring frames."""
        if len(at.value):
            own, common = view.joint_jacobians
            system.add_differences(own, common, at.value, weight * float(at.weight), view.layout.hand(view.side))
