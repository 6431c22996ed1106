"""Departure of a refined focal length from SfM's."""

from collections.abc import Mapping

from holdprep.align import evidence as ev
from holdprep.align.layout import FOCAL, Group, Layout
from holdprep.align.scene import Scene, Setup
from holdprep.align.terms.base import HandView, Noise, SceneTerm
from holdprep.geometry.least_squares import Equations, Shared

STDERR_RATIO = 0.01  # standard error of SfM's focal length, as a fraction of it
FIRST = 1e4  # px^2


class Focal(SceneTerm):
    """Squared logarithm of the focal lengths' ratio; px^2."""

    first = FIRST

    def applies(self, setup: Setup, layout: Layout) -> bool:
        """Where it is free."""
        return layout.focal_free

    def value(self, setup: Setup, scene: Scene) -> float:
        """The squared logarithm."""
        return float(scene.trajectory.log_focal) ** 2

    def add_to(self, setup: Setup, layout: Layout, scene: Scene, systems: Mapping[Group, Equations], shared: Shared, weight: float) -> None:
        """Add to the shared unknowns."""
        shared.matrix[FOCAL, FOCAL] += weight
        shared.gradient[FOCAL] += weight * float(scene.trajectory.log_focal)

    def measured(self, view: HandView, noise: Noise) -> float | None:
        """From the standard error of SfM's focal length."""
        return ev.shared_weight(noise.variance_px2, noise.joints, STDERR_RATIO)
