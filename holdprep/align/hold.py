"""HOLD's published alignment objectives and schedules (CVPR 2024), generic and ARCTIC's, for parity with the paper.

Kept: every term, the object's freedom to leave its SfM trajectory, the hand target that is frozen when a mode starts, Adam with
the halved rates. Not kept: interpolated keypoints as targets (frames without weight have none), and the need of a right hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from holdprep.align.problem import Mode
from holdprep.geometry.cameras import project
from holdprep.geometry.robust import GemanMcClure
from holdprep.hand.model import Side

Variant = Literal["hold", "hold_arctic"]


@dataclass(frozen=True)
class Schedule:
    """Adam: rate halved at steps 0, decay_every, ...; gradients clipped to norm 0.5."""

    lr: float
    iterations: int
    decay_every: int

    def lr_at(self, step: int) -> float:
        """The rate of an iteration."""
        return self.lr * 0.5 ** (1 + step // self.decay_every)


_H = Schedule(0.01, 4000, 1000)
SCHEDULES: dict[Variant, dict[Mode, Schedule]] = {
    "hold": {"h": _H, "o": Schedule(0.01, 15000, 2000), "ho": Schedule(0.001, 3000, 1000)},
    "hold_arctic": {"h": _H, "o": Schedule(0.01, 30000, 5000), "ho": Schedule(0.0001, 1000, 3000)},
}
CLIP_NORM = 0.5
FREE_SCALE_AT = 2000
OPEN: dict[Variant, dict[str, float]] = {  # published numbers for weights left open
    "hold": {"outline": 0.0, "o2d": 1.0, "contact": 100.0, "grasp": 0.0, "rotation": 0.0, "pose": 0.0, "focal": 0.0},
    "hold_arctic": {"outline": 0.0, "o2d": 1.0, "contact": 10.0, "grasp": 0.0, "rotation": 0.0, "pose": 0.0, "focal": 0.0},
}
TOUCHING_SHARE = 0.01  # of the hand's box: object points this near to a keypoint in the picture make a contact frame
DEPTH_WEIGHT, DEPTH_WIDTH_M = 1000.0, 5.0  # of the Huber loss between the depths of hand and object
FRAMES_AT_ONCE = 8  # whose distances between hand and cloud are in memory


@dataclass(frozen=True)
class Targets:
    """What a mode starts with and keeps: seen joints (px) and their frames, the hands' points (T, P, 3) m, 21 joints and, for ARCTIC's
    variant, the vertices after them; the object's projected points."""

    K: Tensor
    j2d_px: Mapping[Side, Tensor]
    seen: Mapping[Side, Tensor]
    hands_m: Mapping[Side, Tensor]
    o2d_px: Tensor

    def to(self, device: str) -> "Targets":
        """The same on a device."""
        j2d_px, seen, hands_m = ({side: x.to(device) for side, x in part.items()} for part in (self.j2d_px, self.seen, self.hands_m))
        return Targets(self.K.to(device), j2d_px, seen, hands_m, self.o2d_px.to(device))

    def touching(self, side: Side) -> Tensor:
        """(T,) bool: an object point lies near a keypoint of this hand in the picture."""
        j2d = self.j2d_px[side].masked_fill(~self.seen[side][..., None], torch.nan)
        box = (j2d.nan_to_num(-torch.inf).amax(dim=1) - j2d.nan_to_num(torch.inf).amin(dim=1)).amax(dim=1)
        nearest = torch.stack([torch.cdist(o, j.nan_to_num(torch.inf)).amin() for o, j in zip(self.o2d_px, j2d, strict=True)])
        return nearest < TOUCHING_SHARE * box


def loss_hand(joints_m: Mapping[Side, Tensor], targets: Targets, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Robust reprojection of the joints (T, 21, 3), a mean over seen joints and over hands."""
    total = targets.K.new_zeros(())
    for side, joints in joints_m.items():
        seen = targets.seen[side]
        error = GemanMcClure(weights["j2d_sigma_px"]).value(project(joints, targets.K)[seen] - targets.j2d_px[side][seen])
        total = total + error.sum(dim=-1).mean() / len(joints_m)
    return {"j2d": weights["j2d"] * total}


def loss_object(points_m: Tensor, targets: Targets, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Centroid L1 to each frozen hand, and `_loss_place` of the points (T, N, 3)."""
    centre = points_m.mean(dim=1)
    pull = torch.stack([(hand[:, :21].mean(dim=1) - centre).abs().mean() for hand in targets.hands_m.values()]).mean()
    return {"contact": weights["contact"] * pull} | _loss_place(points_m, targets, weights)


def loss_object_arctic(points_m: Tensor, targets: Targets, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Squared distance to each frozen hand in frames of contact, Huber loss between their mean depths, and `_loss_place`."""
    contact, depth = [], []
    for side, hand in targets.hands_m.items():
        touching, vertices = targets.touching(side), hand[:, 21:]
        contact.append(nearest_squared(vertices[touching], points_m[touching]).mean() if bool(touching.any()) else points_m.new_zeros(()))
        depth.append(huber_loss(vertices[..., 2].mean(dim=1), points_m[..., 2].mean(dim=1), delta=DEPTH_WIDTH_M))
    terms = {"contact": weights["contact"] * torch.stack(contact).mean(), "depth": DEPTH_WEIGHT * torch.stack(depth).mean()}
    return terms | _loss_place(points_m, targets, weights)


def nearest_squared(hand_m: Tensor, points_m: Tensor) -> Tensor:
    """(F,) least squared distance between points (F, V, 3) and (F, N, 3); on CUDA by pytorch3d's search where it is installed."""
    if hand_m.is_cuda:
        try:
            from pytorch3d.ops import knn_points
        except ImportError:
            pass
        else:
            return torch.as_tensor(knn_points(hand_m, points_m, K=1).dists[..., 0].min(dim=1).values)
    parts = []
    for a, b in zip(hand_m.split(FRAMES_AT_ONCE), points_m.split(FRAMES_AT_ONCE), strict=True):
        pair = torch.cdist(a.detach(), b.detach()).flatten(1).argmin(dim=1)
        row = torch.arange(len(a), device=a.device)
        parts.append((a[row, pair // b.shape[1]] - b[row, pair % b.shape[1]]).square().sum(dim=-1))
    return torch.cat(parts)


def _loss_place(points_m: Tensor, targets: Targets, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Robust reprojection of the points and their depth behind the camera."""
    error = GemanMcClure(weights["o2d_sigma_px"]).value(project(points_m, targets.K) - targets.o2d_px).sum(dim=-1).mean()
    behind = (-points_m[..., 2].mean(dim=1)).clamp_min(0)
    z_min = behind.sum() / (behind > 0).sum().clamp_min(1)
    return {"o2d": weights["o2d"] * error, "z_min": weights["z_min"] * z_min}


def loss_motion(joints_m: Mapping[Side, Tensor], points_m: Tensor, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Mean squared frame-to-frame motion of the hands' and the object's centroids; with two hands HOLD divides the object's part by 3."""
    hands = sum(joints.mean(dim=1).diff(dim=0).square().mean() for joints in joints_m.values())
    thing = points_m.mean(dim=1).diff(dim=0).square().mean() / (1 if len(joints_m) == 1 else 3)
    return {"smooth": weights["smooth"] * (hands + thing)}


def loss_motion_arctic(hands_m: Mapping[Side, Tensor], points_m: Tensor, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """The same, a mean over hands (their vertices) and object."""
    moved = [points.mean(dim=1).diff(dim=0).square().mean() for points in (*(hand[:, 21:] for hand in hands_m.values()), points_m)]
    return {"smooth": weights["smooth"] * torch.stack(moved).mean()}


def losses(
    mode: Mode, variant: Variant, hands_m: Mapping[Side, Tensor], points_m: Tensor | None, targets: Targets, weights: Mapping[str, float]
) -> dict[str, Tensor]:
    """The terms of a mode's objective, of hands' points as in `Targets`; their sum is what Adam descends."""
    joints_m = {side: hand[:, :21] for side, hand in hands_m.items()}
    terms: dict[str, Tensor] = {}
    if mode in ("h", "ho"):
        terms |= loss_hand(joints_m, targets, weights)
    if mode in ("o", "ho") and points_m is not None:
        terms |= (loss_object if variant == "hold" else loss_object_arctic)(points_m, targets, weights)
    if mode == "ho" and points_m is not None and len(points_m) > 1:
        terms |= loss_motion(joints_m, points_m, weights) if variant == "hold" else loss_motion_arctic(hands_m, points_m, weights)
    return terms
