"""Reprojection of the object's points, where the object's poses are free."""

from collections.abc import Mapping

import torch

from holdprep.align import evidence as ev
from holdprep.align.layout import Group, Layout
from holdprep.align.scene import Scene, Setup
from holdprep.align.terms.base import HandView, Noise, SceneTerm
from holdprep.geometry.least_squares import Equations, Shared

FIRST = 1e4


class ObjectReprojection(SceneTerm):
    """Mean squared reprojection error of SfM's observations, to second order about SfM's optimum; px^2 per px^2."""

    unit = "1"
    first = FIRST

    def applies(self, setup: Setup, layout: Layout) -> bool:
        """Where the object's poses are free."""
        return setup.known is not None and layout.object_free

    def value(self, setup: Setup, scene: Scene) -> float:
        """Value in px^2."""
        assert setup.known is not None
        away = scene.trajectory.departure(setup.problem)
        return float(torch.einsum("ta,tab,tb->", away, setup.known.blocks, away)) / setup.known.count

    def add_to(self, setup: Setup, layout: Layout, scene: Scene, systems: Mapping[Group, Equations], shared: Shared, weight: float) -> None:
        """Add to the object's poses."""
        assert setup.known is not None
        away = scene.trajectory.departure(setup.problem) / setup.sfm_unit
        blocks = (weight / setup.known.count) * setup.sfm_unit[:, None] * setup.known.blocks * setup.sfm_unit
        systems[layout.groups[0]].add_quadratic(blocks, away, layout.obj)

    def measured(self, view: HandView, noise: Noise) -> float | None:
        """From the variance of the observations."""
        known = view.setup.known
        return None if known is None else known.count * ev.shared_weight(noise.variance_px2, noise.joints, known.variance_px2**0.5)
