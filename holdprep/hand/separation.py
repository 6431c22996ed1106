"""Separation of intersecting fingers: each bone is a capsule, and targets move the joints of overlapping capsules apart.

Keypoints and outline do not prevent intersecting fingers, which are frequent where fingers are occluded. Closest points of two segments:
Ericson, Real-Time Collision Detection, 2005, section 5.1.9.
"""

from dataclasses import dataclass
from itertools import combinations, pairwise

import torch
from torch import Tensor

from holdprep.hand.joints import FINGERS
from holdprep.hand.lbs import NUM_JOINTS, HandPoints
from holdprep.hand.model import HandModel

SOFT_M = 0.0015  # overlap of two fingers that are pressed together
FREE_FROM = 0.4  # of the first bone: closer to the knuckle, fingers are connected by skin
SKIN = 0.9  # skinning weight of a finger's bones at the vertices that determine its radius
BREADTH = 0.75  # quantile of distances: a finger is broader than high
MAX_PAIRS = 12  # of capsules per frame, those of the largest overlap
SEGMENTS = tuple((k, a, b, FREE_FROM if i == 0 else 0.0) for k, f in enumerate(FINGERS) for i, (a, b) in enumerate(pairwise(f)))
PAIRS = torch.tensor([(i, j) for i, j in combinations(range(len(SEGMENTS)), 2) if SEGMENTS[i][0] != SEGMENTS[j][0]])


@dataclass(frozen=True)
class Separation:
    """Targets that separate overlapping capsules.

    Joints `ids` (T, Q), their targets `target_m` (T, Q, 3) along unit vectors `normal` (T, Q, 3), and `weight` (T, Q), 0 without overlap.
    """

    ids: Tensor
    target_m: Tensor
    normal: Tensor
    weight: Tensor

    @staticmethod
    def of(joints_m: Tensor, radius_m: Tensor) -> "Separation | None":
        """Targets for joints (T, 21, 3) m and the fingers' radii (5,) m, in FINGERS' order; None without overlap."""
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
        deepest = depth.topk(min(MAX_PAIRS, depth.shape[1]), dim=1)
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
    """(5,) radii (m) of the fingers of a shape (10,), in FINGERS' order: distance of the skin from the bones at the broad sides."""
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
    """Start and end points (T, S, 3) of the capsules' segments."""
    from_joint, to_joint = [a for _, a, _, _ in SEGMENTS], [b for _, _, b, _ in SEGMENTS]
    share = torch.tensor([free for *_, free in SEGMENTS]).to(joints_m)[:, None]
    start, end = joints_m[:, from_joint], joints_m[:, to_joint]
    return start + share * (end - start), end


def _from_joint(segment: Tensor, along: Tensor) -> Tensor:
    """Positions (T, P) in 0..1 along segments as positions along the bone from its first joint."""
    free = torch.tensor([s[3] for s in SEGMENTS]).to(along)[segment]
    return free + (1 - free) * along


def _closest(p: Tensor, p_end: Tensor, q: Tensor, q_end: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (T, P) in 0..1 along segments p and q (T, P, 3) at which they are closest to each other."""
    d1, d2, r = p_end - p, q_end - q, p - q
    a, e, b = d1.square().sum(-1), d2.square().sum(-1), (d1 * d2).sum(-1)
    c, f = (d1 * r).sum(-1), (d2 * r).sum(-1)
    s = ((b * f - c * e) / (a * e - b * b).clamp_min(1e-12)).clamp(0, 1)
    t = ((b * s + f) / e.clamp_min(1e-12)).clamp(0, 1)
    return ((b * t - c) / a.clamp_min(1e-12)).clamp(0, 1), t
