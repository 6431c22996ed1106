"""Departure of the hand's rotation from the registered one."""

from typing import ClassVar

import torch

from holdprep.align import evidence as ev
from holdprep.align.terms.base import HandTerm, HandView, Noise, Residuals
from holdprep.geometry.least_squares import Columns, Equations, Shared

FIRST = 400.0  # px^2 per rad^2


class Rotation(HandTerm):
    """Mean over frames of the squared rotation vector; px^2 per rad^2."""

    unit = "px^2 / rad^2"
    first = FIRST
    bones: ClassVar[slice] = slice(0, 1)
    unknowns: ClassVar[str] = "rotation"  # name of their columns in the layout

    def residuals(self, view: HandView) -> Residuals:
        """(T, bones, 3) rad."""
        away = view.departure[:, self.bones]
        return Residuals(away, away.new_full((1,), 1 / len(away)))

    def columns(self, view: HandView) -> Columns:
        """Columns of the rotations under this prior, in the hand's block."""
        held = view.layout.prior_columns.get(self.unknowns, slice(0, 0))
        first = view.layout.hand(view.side).start + 3
        return slice(first + held.start, first + held.stop)

    def add(self, view: HandView, at: Residuals, system: Equations, shared: Shared, weight: float) -> None:
        """Add a diagonal, where the rotations are free: the derivative is one, to first order about the registered rotations."""
        if self.unknowns in view.layout.prior_columns:
            size = at.value.shape[1] * 3
            matrix = weight * float(at.weight) * torch.eye(size, dtype=torch.float64)
            system.add_quadratic(matrix, at.value.flatten(1), self.columns(view))

    def measured(self, view: HandView, noise: Noise) -> float | None:
        """The prior's weight under which the departures are most likely."""
        held = view.layout.prior_columns.get(self.unknowns)
        if held is None:
            return None
        away = self.residuals(view).value[noise.seen].flatten(1)
        return ev.prior_weight(noise.variance_px2, away, float(noise.share[3:][held].mean()), noise.before[self.name])
