"""HOLD's published alignment objective and schedule (CVPR 2024, generic settings), for parity with the paper.

Kept: every term, the object's freedom to leave its SfM trajectory, the hand target that is frozen when a mode starts, Adam with
the halved rates. Not kept: interpolated keypoints as targets (frames without weight have none), and the need of a right hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from holdprep.align.problem import Mode, SettledWeights
from holdprep.align.residuals import geman_mcclure
from holdprep.geometry.cameras import project
from holdprep.hand.model import Side


@dataclass(frozen=True)
class Schedule:
    """Adam: rate halved at steps 0, decay_every, ...; gradients clipped to norm 0.5."""

    lr: float
    iterations: int
    decay_every: int

    def lr_at(self, step: int) -> float:
        """The rate of an iteration."""
        return self.lr * 0.5 ** (1 + step // self.decay_every)


SCHEDULES: dict[Mode, Schedule] = {"h": Schedule(0.01, 4000, 1000), "o": Schedule(0.01, 15000, 2000), "ho": Schedule(0.001, 3000, 1000)}
CLIP_NORM = 0.5
FREE_SCALE_AT = 2000
CONTACT = 100.0  # generic; ARCTIC's 10 stands in conf/weights/arctic.yaml


@dataclass(frozen=True)
class Targets:
    """What a mode starts with and keeps: seen joints (px) and their frames, the hands' centroids, the object's projected points."""

    K: Tensor
    j2d_px: Mapping[Side, Tensor]
    seen: Mapping[Side, Tensor]
    centroids_m: Mapping[Side, Tensor]
    o2d_px: Tensor


def loss_hand(joints_m: Mapping[Side, Tensor], targets: Targets, weights: SettledWeights) -> dict[str, Tensor]:
    """Robust reprojection of the joints (T, 21, 3), a mean over seen joints and over hands."""
    total = torch.zeros((), dtype=targets.K.dtype)
    for side, joints in joints_m.items():
        seen = targets.seen[side]
        error = geman_mcclure(project(joints, targets.K)[seen] - targets.j2d_px[side][seen], weights.j2d_sigma_px)
        total = total + error.sum(dim=-1).mean() / len(joints_m)
    return {"j2d": weights.j2d * total}


def loss_object(points_m: Tensor, targets: Targets, weights: SettledWeights) -> dict[str, Tensor]:
    """Centroid L1 to each frozen hand, robust reprojection and depth behind the camera of the points (T, N, 3)."""
    centre = points_m.mean(dim=1)
    pull = torch.stack([(hand - centre).abs().mean() for hand in targets.centroids_m.values()]).mean()
    error = geman_mcclure(project(points_m, targets.K) - targets.o2d_px, weights.o2d_sigma_px).sum(dim=-1).mean()
    behind = (-points_m[..., 2].mean(dim=1)).clamp_min(0)
    z_min = behind.sum() / (behind > 0).sum().clamp_min(1)
    return {"contact": weights.contact * pull, "o2d": weights.o2d * error, "z_min": weights.z_min * z_min}


def loss_motion(joints_m: Mapping[Side, Tensor], points_m: Tensor, weights: SettledWeights) -> dict[str, Tensor]:
    """Mean squared frame-to-frame motion of the hands' and the object's centroids; with two hands HOLD divides the object's part by 3."""
    hands = sum(joints.mean(dim=1).diff(dim=0).square().mean() for joints in joints_m.values())
    thing = points_m.mean(dim=1).diff(dim=0).square().mean() / (1 if len(joints_m) == 1 else 3)
    return {"smooth": weights.smooth * (hands + thing)}


def losses(
    mode: Mode, joints_m: Mapping[Side, Tensor], points_m: Tensor | None, targets: Targets, weights: SettledWeights
) -> dict[str, Tensor]:
    """The terms of a mode's objective; their sum is what Adam descends."""
    terms: dict[str, Tensor] = {}
    if mode in ("h", "ho"):
        terms |= loss_hand(joints_m, targets, weights)
    if mode in ("o", "ho") and points_m is not None:
        terms |= loss_object(points_m, targets, weights)
    if mode == "ho" and points_m is not None and len(points_m) > 1:
        terms |= loss_motion(joints_m, points_m, weights)
    return terms
