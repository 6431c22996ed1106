"""Initial pose of the registration in closed form, for any global rotation: each bone is rotated onto its observations."""

import cv2
import numpy as np
import roma
import torch
from torch import Tensor

from holdprep.geometry.cameras import linear_translation
from holdprep.hand.joints import CHILD, PALM
from holdprep.hand.lbs import HandPoints, HandState, to_state
from holdprep.hand.model import HandModel, ManoParams

AT_ONCE = 1024  # frames in memory


def from_vertices(model: HandModel, vertices_m: Tensor, seen: Tensor, at_once: int = AT_ONCE) -> HandState:
    """Initial state from vertices (T, 778, 3) m: each bone by Procrustes on its vertices, weighted by `seen` (T, 778).

    The error is about 5 mm. `at_once` frames are in memory.
    """
    parts = [_from_vertices(model, v, s) for v, s in zip(vertices_m.split(at_once), seen.split(at_once), strict=True)]
    return HandState(torch.cat([p.rotations for p in parts]), parts[0].betas, torch.cat([p.transl for p in parts]))


def _from_vertices(model: HandModel, vertices_m: Tensor, seen: Tensor) -> HandState:
    target = torch.where(seen[..., None] > 0, vertices_m.to(model.v_template), 0.0)
    w = model.weights.mT * seen.to(target)[:, None] + 1e-12
    w = w / w.sum(dim=2, keepdim=True)
    products = (target[..., None] * model.v_template[:, None]).flatten(2)
    centres = (w @ target)[..., None] * (w @ model.v_template)[..., None, :]
    bones = roma.special_procrustes((w @ products).unflatten(2, (3, 3)) - centres)
    local = [bones[:, 0]] + [bones[:, model.parents[k]].mT @ bones[:, k] for k in range(1, 16)]
    state = HandState(torch.stack(local, dim=1), torch.zeros(10).to(target), torch.zeros(len(target), 3).to(target))
    few = torch.arange(0, 778, 8)  # sufficient for the translation
    points = HandPoints.of(model, few).pose(state).points[:, 21:]
    share = seen[:, few].to(target)
    share = (share / share.sum(dim=1, keepdim=True).clamp_min(1))[..., None]
    return HandState(state.rotations, state.betas, ((target[:, few] - points) * share).sum(dim=1))


def from_joints(model: HandModel, j3d_m: Tensor, seen: Tensor) -> HandState:
    """Initial state from joints (T, 21, 3) m: palm by Procrustes, finger bones by the shortest rotation.

    Bones of joints that are not `seen` (T, 21) keep the mean pose.
    """
    points = HandPoints.of(model, torch.zeros(0, dtype=torch.long))
    state = _mean_pose(model, len(j3d_m))
    mean = points.pose(state.rows(slice(1))).points[0]
    palm = list(PALM)
    w = seen[:, palm] / seen[:, palm].sum(dim=1, keepdim=True).clamp_min(1e-12)
    target = torch.where(seen[..., None] > 0, j3d_m, 0.0)
    centred = (target[:, palm] - (w[..., None] * target[:, palm]).sum(dim=1, keepdim=True)) * w[..., None]
    root = roma.special_procrustes(centred.mT @ (mean[palm] - w[..., None].mul(mean[palm]).sum(dim=1, keepdim=True)))
    rotations = state.rotations.clone()
    rotations[:, 0] = root
    world = {0: root}
    for k, child in CHILD.items():
        parent = world[model.parents[k]]
        want = (parent.mT @ (target[:, child] - target[:, k])[..., None])[..., 0]
        have = (state.rotations[:, k] @ (points.rest[child] - points.rest[k]).expand_as(want)[..., None])[..., 0]
        rotation = shortest_rotation(have, want)
        both = (seen[:, child] * seen[:, k] > 0)[:, None, None]
        rotations[:, k] = torch.where(both, rotation @ state.rotations[:, k], state.rotations[:, k])
        world[k] = parent @ rotations[:, k]
    state = HandState(rotations, state.betas, state.transl)
    joints = points.pose(state).points
    w = (seen / seen.sum(dim=1, keepdim=True))[..., None]
    return HandState(rotations, state.betas, ((target - joints) * w).sum(dim=1))


def from_pixels(model: HandModel, j2d_px: Tensor, K: Tensor, weight: Tensor) -> HandState:
    """Initial state from pixels (T, 21, 2): the hand in its mean pose by PnP (SQPnP, Terzakis & Lourakis 2020)."""
    state = _mean_pose(model, len(j2d_px))
    mean = HandPoints.of(model, torch.zeros(0, dtype=torch.long)).pose(state.rows(slice(1))).points[0].cpu()
    rotations, transl = state.rotations.clone(), state.transl.clone()
    for t, px in enumerate(j2d_px.cpu()):
        use = (weight[t] > 0).cpu().numpy()
        ok, rvec, tvec = cv2.solvePnP(
            (mean - mean[0]).numpy()[use], px.numpy()[use], K.cpu().numpy(), np.zeros(4), flags=cv2.SOLVEPNP_SQPNP
        )
        if ok:
            rotations[t, 0] = roma.rotvec_to_rotmat(torch.from_numpy(np.ravel(rvec))).to(rotations)
            transl[t] = (torch.from_numpy(np.ravel(tvec)) - mean[0]).to(transl)
    return HandState(rotations, state.betas, transl)


def translated(model: HandModel, state: HandState, j2d_px: Tensor, K: Tensor, weight: Tensor) -> HandState:
    """The state translated so that its joints project to the observed pixels (T, 21, 2)."""
    at_origin = HandState(state.rotations, state.betas, torch.zeros_like(state.transl))
    joints = HandPoints.of(model, torch.zeros(0, dtype=torch.long)).pose(at_origin).points
    return HandState(state.rotations, state.betas, linear_translation(joints, K, torch.nan_to_num(j2d_px), weight))


def shortest_rotation(a: Tensor, b: Tensor) -> Tensor:
    """(T, 3, 3) shortest rotations from directions a to b (T, 3)."""
    a, b = torch.nn.functional.normalize(a, dim=-1), torch.nn.functional.normalize(b, dim=-1)
    axis = torch.linalg.cross(a, b)
    angle = torch.atan2(axis.norm(dim=-1), (a * b).sum(dim=-1))
    return roma.rotvec_to_rotmat(torch.nn.functional.normalize(axis, dim=-1) * angle[:, None])


def _mean_pose(model: HandModel, frames: int) -> HandState:
    zeros = [torch.zeros(frames, n).to(model.v_template) for n in (3, 45, 3)]
    return to_state(model, ManoParams(zeros[0], zeros[1], torch.zeros(10).to(model.v_template), zeros[2]))
