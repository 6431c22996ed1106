"""Departure of the fingers' joint angles from the registered ones."""

import torch
from torch import Tensor

from holdprep.align import evidence as ev
from holdprep.align.layout import Layout
from holdprep.align.scene import Setup
from holdprep.align.terms.base import HandView, Noise, Residuals
from holdprep.align.terms.rotation import Rotation
from holdprep.geometry.least_squares import Equations, Shared
from holdprep.hand.joints import CHILD

OBSERVED_RAD = 0.1  # standard deviation of a joint's rotation where the keypoint at the bone's end is observed
HIDDEN_RAD = 0.4  # where it is hidden: the tracker's guess, under its prior on finger poses


class FingerPose(Rotation):
    """Mean over frames of the squared rotation vectors of the joints 1-15, those of hidden bones less; px^2 per rad^2."""

    first = 4e3
    bones = slice(1, 16)
    unknowns = "pose"

    def applies(self, setup: Setup, layout: Layout) -> bool:
        """Where the fingers are free."""
        return layout.refine.pose

    def residuals(self, view: HandView) -> Residuals:
        """(T, 15, 3) rad; weights relative to those of an observed bone."""
        away = super().residuals(view).value
        return Residuals(away, relative_precision(view.hand.weight)[..., None] / len(away))

    def add(self, view: HandView, at: Residuals, system: Equations, shared: Shared, weight: float) -> None:
        """Add a diagonal."""
        precision = weight * at.weight.expand_as(at.value).flatten(1)
        system.add_quadratic(torch.diag_embed(precision), at.value.flatten(1), self.columns(view))

    def measured(self, view: HandView, noise: Noise) -> float | None:
        """From the standard deviation of an observed bone."""
        return ev.departure_weight(noise.variance_px2, OBSERVED_RAD)


def relative_precision(confidence: Tensor) -> Tensor:
    """(T, 15) precision of the registered rotations of the joints 1-15, 1 for observed bones, from confidences (T, 21) of the keypoints."""
    ends = confidence[:, [CHILD[joint] for joint in range(1, 16)]].clamp(0, 1)
    hidden = (OBSERVED_RAD / HIDDEN_RAD) ** 2
    return hidden + (1 - hidden) * ends
