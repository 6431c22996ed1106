"""Departure of mode ho's scale from mode o's."""

from collections.abc import Mapping

from holdprep.align.layout import SCALE, Group, Layout
from holdprep.align.scene import Scene, Setup
from holdprep.align.terms.base import SceneTerm
from holdprep.geometry.least_squares import Equations, Shared


class ScalePrior(SceneTerm):
    """Squared difference of the scales' logarithms, in mode o's standard errors; px^2."""

    first = 1.0

    def applies(self, setup: Setup, layout: Layout) -> bool:
        """With an object."""
        return layout.with_object

    def value(self, setup: Setup, scene: Scene) -> float:
        """In squared standard errors."""
        return float((scene.log_scale - setup.log_scale) / setup.scale_stderr_ratio) ** 2

    def add_to(self, setup: Setup, layout: Layout, scene: Scene, systems: Mapping[Group, Equations], shared: Shared, weight: float) -> None:
        """Add to the shared unknowns."""
        information = weight / setup.scale_stderr_ratio**2
        shared.matrix[SCALE, SCALE] += information
        shared.gradient[SCALE] += information * float(scene.log_scale - setup.log_scale)
