"""Change of the fingers' departures from their registered joint angles, from frame to frame."""

from holdprep.align import evidence as ev
from holdprep.align.terms.base import HandView, Noise, Residuals
from holdprep.align.terms.pose import FingerPose
from holdprep.geometry.least_squares import Equations, Shared

CHANGE_RAD = 0.03  # standard deviation of the change of a joint's correction from one frame to the next


class FingerPoseSmooth(FingerPose):
    """Mean over frames of the squared changes of the rotation vectors of `pose`; px^2 per rad^2.

    The registration has smoothed the poses; its errors, of which hidden fingers have most, change slowly.
    """

    def residuals(self, view: HandView) -> Residuals:
        """(T - 1, 15, 3) rad."""
        away = super().residuals(view).value
        return Residuals(away.diff(dim=0), away.new_full((1,), 1 / len(away)))

    def add(self, view: HandView, at: Residuals, system: Equations, shared: Shared, weight: float) -> None:
        """Add the equations, which couple neighbouring frames."""
        system.add_changes(at.value.flatten(1), weight * float(at.weight), self.columns(view))

    def measured(self, view: HandView, noise: Noise) -> float | None:
        """From the standard deviation of a change."""
        return ev.departure_weight(noise.variance_px2, CHANGE_RAD)
