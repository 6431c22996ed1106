"""Fingers that do not pass through each other: each bone a capsule, and targets that move the joints of overlapping capsules apart.

Neither keypoints nor an outline forbid two fingers in one place, and what the picture hides is often there. Closest points of two segments:
Ericson, Real-Time Collision Detection, 2005, section 5.1.9.
"""

from dataclasses import dataclass
from itertools import combinations, pairwise

import torch
from torch import Tensor

from holdprep.hand.joints import FINGERS
from holdprep.hand.lbs import NUM_JOINTS, HandPoints
from holdprep.hand.model import HandModel

SOFT_M = 0.0015  # by which two fingers that are pressed together overlap
FREE_FROM = 0.4  # of the first bone: nearer to the knuckle, fingers are joined by the web
SKIN = 0.9  # of the skinning weight of a finger's bones: the vertices that tell its radius
BREADTH = 0.75  # quantile: a finger is broader than it is high
MOST_PAIRS = 12  # of capsules in a frame, the deepest
SEGMENTS = tuple((k, a, b, FREE_FROM if i == 0 else 0.0) for k, f in enumerate(FINGERS) for i, (a, b) in enumerate(pairwise(f)))
PAIRS = torch.tensor([(i, j) for i, j in combinations(range(len(SEGMENTS)), 2) if SEGMENTS[i][0] != SEGMENTS[j][0]])


@dataclass(frozen=True)
class Separation:
    """Joints `ids` (T, Q) of overlapping capsules, where they should be, `target_m` (T, Q, 3), along unit vectors `normal` (T, Q, 3), and
    `weight` (T, Q), 0 where nothing overlaps."""

    ids: Tensor
    target_m: Tensor
    normal: Tensor
    weight: Tensor

    @staticmethod
    def of(joints_m: Tensor, radius_m: Tensor) -> "Separation | None":
        """For joints (T, 21, 3) and the fingers' radii (5,), in FINGERS' order; None where no capsules overlap."""
        start, end = _segments(joints_m)
        first, second = PAIRS[:, 0], PAIRS[:, 1]
        s, t = _closest(start[:, first], end[:, first], start[:, second], end[:, second])
        here, there = (torch.lerp(start[:, i], end[:, i], x[..., None]) for i, x in ((first, s), (second, t)))
        apart = here - there
        distance = apart.norm(dim=-1)
        finger = torch.tensor([k for k, *_ in SEGMENTS])
        depth = radius_m[finger[first]] + radius_m[finger[second]] - SOFT_M - distance
        if not bool((depth > 0).any()):
            return None
        deepest = depth.topk(min(MOST_PAIRS, depth.shape[1]), dim=1)
        rows = deepest.indices
        away = torch.nn.functional.normalize(apart.gather(1, rows[..., None].expand(-1, -1, 3)), dim=-1)
        move = deepest.values.clamp_min(0)[..., None] * away / 2
        ids, share = [], []
        for pair, along in ((first, s), (second, t)):
            for share_of, end_number in ((1 - _from_joint(pair, along), 1), (_from_joint(pair, along), 2)):
                ids.append(torch.tensor([segment[end_number] for segment in SEGMENTS])[pair][rows])
                share.append(share_of.gather(1, rows))
        at = torch.cat(ids, dim=1)
        target = joints_m.gather(1, at[..., None].expand(-1, -1, 3)) + torch.cat([move, move, -move, -move], dim=1)
        weight = torch.cat(share, dim=1) * (deepest.values > 0).repeat(1, 4)
        return Separation(at, target, torch.cat([away] * 4, dim=1), weight)


def finger_radii(model: HandModel, betas: Tensor) -> Tensor:
    """(5,) m, in FINGERS' order: the distance of a finger's skin from its bones on its broad sides, straight in the rest pose, of a shape (10,)."""
    points = HandPoints.of(model, torch.arange(778))
    shaped = points.rest + points.shapedirs @ betas
    joints, skin = shaped[:NUM_JOINTS], shaped[NUM_JOINTS:]
    radii = []
    for finger in FINGERS:
        own = skin[model.weights[:, list(finger[1:3])].sum(dim=1) > SKIN]
        chain = joints[list(finger)]
        bones = chain[1:] - chain[:-1]
        along = (((own[:, None] - chain[:-1]) * bones).sum(dim=-1) / bones.square().sum(dim=-1)).clamp(0, 1)
        distance = (own[:, None] - chain[:-1] - along[..., None] * bones).norm(dim=-1).amin(dim=1)
        radii.append(distance.quantile(BREADTH))
    return torch.stack(radii)


def _segments(joints_m: Tensor) -> tuple[Tensor, Tensor]:
    """(T, S, 3) starts and ends."""
    from_joint, to_joint = [a for _, a, _, _ in SEGMENTS], [b for _, _, b, _ in SEGMENTS]
    share = torch.tensor([free for *_, free in SEGMENTS]).to(joints_m)[:, None]
    start, end = joints_m[:, from_joint], joints_m[:, to_joint]
    return start + share * (end - start), end


def _from_joint(segment: Tensor, along: Tensor) -> Tensor:
    """Shares (T, P) of the way along segments, as shares from the segments' first joints."""
    free = torch.tensor([s[3] for s in SEGMENTS]).to(along)[segment]
    return free + (1 - free) * along


def _closest(p: Tensor, p_end: Tensor, q: Tensor, q_end: Tensor) -> tuple[Tensor, Tensor]:
    """Shares (T, P) of the way along segments p and q (T, P, 3) at which they are nearest to each other."""
    d1, d2, r = p_end - p, q_end - q, p - q
    a, e, b = d1.square().sum(-1), d2.square().sum(-1), (d1 * d2).sum(-1)
    c, f = (d1 * r).sum(-1), (d2 * r).sum(-1)
    s = ((b * f - c * e) / (a * e - b * b).clamp_min(1e-12)).clamp(0, 1)
    t = ((b * s + f) / e.clamp_min(1e-12)).clamp(0, 1)
    return ((b * t - c) / a.clamp_min(1e-12)).clamp(0, 1), t
