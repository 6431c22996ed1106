"""How far frames repeat each other's errors: the effective number of frames behind what all frames share.

A tracker's error is mostly systematic: the same bones are wrong in every frame. N frames whose errors have the mean correlation r over all
pairs measure what they share as well as N / (1 + (N - 1) r) independent ones (the variance of a mean of correlated values; Kish, Survey
Sampling, 1965, section 5.4).
"""

import torch
from torch import Tensor


def frames_repeated(residual: Tensor, weight: Tensor) -> float:
    """How many frames count as one, 1 (independent errors) to N (one error in all frames).

    `residual` (T, Q, C) of Q points in a frame that moves with the hand, `weight` (T, Q), 0 where a point was not seen. The variance of the
    points' means over time is compared with that of single frames, pooled over points and coordinates: independent errors make it
    1 / N of theirs.
    """
    weight = weight.to(residual)
    total, square = weight.sum(dim=0), weight.square().sum(dim=0)
    frames = torch.where(total > 0, total.square() / square.clamp_min(1e-12), 0.0)  # that count, by their weights
    often = frames >= 2
    if not bool(often.any()):
        return 1.0
    share = (weight / total.clamp_min(1e-12))[:, often]
    single = (share * residual[:, often].square().sum(dim=-1)).sum(dim=0)
    of_mean = (share[..., None] * residual[:, often]).sum(dim=0).square().sum(dim=-1)
    known = float(frames[often].mean())
    ratio = float((total[often] * of_mean).sum() / (total[often] * single).sum().clamp_min(1e-300))
    return min(max(known * ratio, 1.0), known)


def in_hand_frame(residual_m: Tensor, root: Tensor) -> Tensor:
    """(T, Q, 3) residuals, camera axes, in the axes of the hand's root rotation (T, 3, 3)."""
    return residual_m @ root.to(torch.promote_types(residual_m.dtype, root.dtype))
