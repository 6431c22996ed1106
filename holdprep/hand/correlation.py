"""How far frames repeat each other's errors: the effective number of frames behind what all frames share.

A tracker's error is mostly systematic: the same bones are wrong in every frame. N frames whose errors have the mean correlation r over all
pairs measure what they share as well as N / (1 + (N - 1) r) independent ones (the variance of a mean of correlated values; Kish, Survey
Sampling, 1965, section 5.4).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def frames_repeated(residual: Tensor, weight: Tensor) -> float:
    """How many frames count as one, 1 (independent errors) to N (one error in all frames).

    `residual` (T, Q, C) of Q points in a frame that moves with the hand, `weight` (T, Q), 0 where a point was not seen. The variance of the
    points' means over time is compared with that of single frames, pooled over points and coordinates: independent errors make it
    1 / N of theirs.
    """
    return SharedErrors.of(residual, weight).frames_repeated()


@dataclass(frozen=True)
class SharedErrors:
    """Sums over frames of Q points: of their `weight` (Q,), its `square` (Q,), and of the weighted residuals' `mean` (Q, C) and `total` (Q,)."""

    weight: Tensor
    square: Tensor
    mean: Tensor
    total: Tensor

    @staticmethod
    def of(residual: Tensor, weight: Tensor) -> "SharedErrors":
        """Of some frames, as `frames_repeated` takes them."""
        weight = weight.to(residual)
        weighted = weight[..., None] * residual
        return SharedErrors(weight.sum(dim=0), weight.square().sum(dim=0), weighted.sum(dim=0), (weighted * residual).sum(dim=(0, 2)))

    def __add__(self, other: "SharedErrors") -> "SharedErrors":
        """Of more frames of the same points."""
        return SharedErrors(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def frames_repeated(self) -> float:
        """See the function of that name."""
        frames = torch.where(self.weight > 0, self.weight.square() / self.square.clamp_min(1e-12), 0.0)  # that count, by their weights
        often = frames >= 2
        if not bool(often.any()):
            return 1.0
        of_mean = (self.mean.square().sum(dim=-1) / self.weight.clamp_min(1e-12))[often]
        known = float(frames[often].mean())
        return min(max(known * float(of_mean.sum() / self.total[often].sum().clamp_min(1e-300)), 1.0), known)


def in_hand_frame(residual_m: Tensor, root: Tensor) -> Tensor:
    """(T, Q, 3) residuals, camera axes, in the axes of the hand's root rotation (T, 3, 3)."""
    return residual_m @ root.to(torch.promote_types(residual_m.dtype, root.dtype))
