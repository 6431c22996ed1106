"""Correlation of errors between frames, and the resulting effective number of frames for shared unknowns.

A tracker's error is mostly systematic: the same bones are wrong in every frame. If the mean correlation of the errors over all pairs of N
frames is r, shared unknowns are as accurate as with N / (1 + (N - 1) r) independent frames (the variance of a mean of correlated values;
Kish, Survey Sampling, 1965, section 5.4).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def frames_repeated(residual: Tensor, weight: Tensor) -> float:
    """Number of frames that count as one, from 1 (independent errors) to N (the same error in all frames).

    `residual` (T, Q, C) of Q points in the hand's frame, `weight` (T, Q), 0 where a point was not observed. The variance of the
    points' means over time is compared with that of single frames, over all points and coordinates: with independent errors the
    ratio is 1 / N.
    """
    return SharedErrors.of(residual, weight).frames_repeated()


@dataclass(frozen=True)
class SharedErrors:
    """Sums over frames for Q points: `weight` (Q,), its `square` (Q,), weighted residuals `mean` (Q, C), weighted squares `total` (Q,)."""

    weight: Tensor
    square: Tensor
    mean: Tensor
    total: Tensor

    @staticmethod
    def of(residual: Tensor, weight: Tensor) -> "SharedErrors":
        """Sums of some frames; arguments as in `frames_repeated`."""
        weight = weight.to(residual)
        weighted = weight[..., None] * residual
        return SharedErrors(weight.sum(dim=0), weight.square().sum(dim=0), weighted.sum(dim=0), (weighted * residual).sum(dim=(0, 2)))

    def __add__(self, other: "SharedErrors") -> "SharedErrors":
        """Sums with further frames of the same points."""
        return SharedErrors(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def frames_repeated(self) -> float:
        """The result of the function `frames_repeated`."""
        frames = torch.where(
            self.weight > 0, self.weight.square() / self.square.clamp_min(1e-12), 0.0
        )  # effective number, by their weights
        usable = frames >= 2
        if not bool(usable.any()):
            return 1.0
        of_mean = (self.mean.square().sum(dim=-1) / self.weight.clamp_min(1e-12))[usable]
        known = float(frames[usable].mean())
        return min(max(known * float(of_mean.sum() / self.total[usable].sum().clamp_min(1e-300)), 1.0), known)


def in_hand_frame(residual_m: Tensor, root: Tensor) -> Tensor:
    """Residuals (T, Q, 3) m in camera axes, rotated into the axes of the hand's root rotation (T, 3, 3)."""
    return residual_m @ root.to(torch.promote_types(residual_m.dtype, root.dtype))
