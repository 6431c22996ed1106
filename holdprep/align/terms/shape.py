"""Departure of the hand's shape from the registered one."""

import torch

from holdprep.align.terms.base import HandTerm, HandView, Residuals
from holdprep.geometry.least_squares import Equations, Shared


class Shape(HandTerm):
    """Squared difference of betas; px^2 per squared standard deviation."""

    unit = "px^2"
    first = 4.0

    def residuals(self, view: HandView) -> Residuals:
        """(1, 1, 10), one for the whole sequence."""
        away = (view.scene.hands[view.side].betas - view.setup.registered[view.side].betas)[None, None]
        return Residuals(away, away.new_ones(1))

    def add(self, view: HandView, at: Residuals, system: Equations, shared: Shared, weight: float) -> None:
        """Add to the shared unknowns, where the shape is free."""
        betas = view.layout.betas(view.side)
        if betas is not None:
            shared.matrix[betas, betas] += weight * torch.eye(10, dtype=torch.float64)
            shared.gradient[betas] += weight * at.value[0, 0]
