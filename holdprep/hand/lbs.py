"""MANO's forward pass for chosen points (the 21 joints, any vertices), and their analytic derivatives.

Linear blend skinning as in MANO (Romero et al. 2017, eqs. 2-4; Loper et al. 2015), restricted to the points asked for. A joint is a point
that is skinned to one bone and has no pose blend shape, so joints and vertices share the code.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import roma
import torch
from torch import Tensor

from holdprep.hand.joints import MANO21_TIP_VERTICES
from holdprep.hand.model import HandModel, ManoParams

NUM_JOINTS = 21


@dataclass(frozen=True)
class HandMesh:
    """`vertices` (T, 778, 3) and `joints` (T, 21, 3) in MANO-21 order, metres, in the camera frame of the parameters."""

    vertices: Tensor
    joints: Tensor


def forward(model: HandModel, params: ManoParams) -> HandMesh:
    """The posed hand of T frames; differentiable. Frames whose parameters are NaN come out NaN.

    Equal to smplx's MANO(use_pca=False, flat_hand_mean=False): `global_orient` turns about the shaped template's wrist. `betas` is
    (10,), or (T, 10) for a shape a frame.
    """
    points = HandPoints.of(model, torch.arange(len(model.v_template)))
    posed = points.pose(to_state(model, params)).points
    return HandMesh(posed[:, NUM_JOINTS:], posed[:, :NUM_JOINTS])


@dataclass(frozen=True)
class HandState:
    """`rotations` (T, 16, 3, 3) of each bone in its parent's frame, hand mean included; `betas` (10,) or (T, 10); `transl` (T, 3) m."""

    rotations: Tensor
    betas: Tensor
    transl: Tensor

    def step(self, transl: Tensor, rotation_vectors: Tensor, betas: Tensor) -> "HandState":
        """The state after adding `transl` (T, 3) and `betas` (10,) and turning bones by `rotation_vectors` (T, 16, 3) in parents' frames."""
        rotations = roma.rotvec_to_rotmat(rotation_vectors) @ self.rotations
        return HandState(rotations, self.betas + betas, self.transl + transl)


def to_state(model: HandModel, params: ManoParams) -> HandState:
    """MANO's parameters with rotations as matrices."""
    pose = torch.cat([params.global_orient, params.hand_pose + model.hand_mean], dim=1)
    return HandState(roma.rotvec_to_rotmat(pose.reshape(-1, 16, 3)), params.betas, params.transl)


def to_params(model: HandModel, state: HandState) -> ManoParams:
    """The inverse of `to_state` (angles come back in [0, pi])."""
    pose = roma.rotmat_to_rotvec(state.rotations).reshape(-1, 48)
    return ManoParams(pose[:, :3], pose[:, 3:] - model.hand_mean, state.betas, state.transl)


@dataclass(frozen=True)
class Posed:
    """Points (T, P, 3) m in the camera frame, and what their derivatives need: bones' turns, places and offsets, shaped points."""

    points: Tensor
    bones: Tensor
    joints: Tensor
    offsets: Tensor
    shaped: Tensor
    state: HandState


@dataclass(frozen=True)
class HandPoints:
    """P points of a hand: the 21 joints in MANO-21 order first, then the chosen vertices."""

    rest: Tensor
    shapedirs: Tensor
    posedirs: Tensor
    skin: Tensor
    joint_rest: Tensor
    joint_shapedirs: Tensor
    parents: tuple[int, ...]

    @staticmethod
    def of(model: HandModel, vertices: Tensor) -> "HandPoints":
        """The 21 joints and the vertices (P - 21,) of a model, in the model's dtype."""
        ids = torch.cat([torch.tensor(MANO21_TIP_VERTICES), vertices])
        joint_rest = model.J_regressor @ model.v_template
        joint_shapedirs = torch.einsum("jv,vcb->jcb", model.J_regressor, model.shapedirs)
        posedirs = model.posedirs[ids]
        return HandPoints(
            torch.cat([joint_rest, model.v_template[ids]]),
            torch.cat([joint_shapedirs, model.shapedirs[ids]]),
            torch.cat([posedirs.new_zeros(16, 3, 135), posedirs]),
            torch.cat([torch.eye(16).to(posedirs), model.weights[ids]]),
            joint_rest,
            joint_shapedirs,
            model.parents,
        )

    @cached_property
    def descends(self) -> Tensor:
        """(16, 16): 1 where bone k is bone j or hangs on it, [k, j]."""
        table = torch.eye(16).to(self.rest)
        for k in range(1, 16):
            table[k] += table[self.parents[k]]
        return table

    def pose(self, state: HandState) -> Posed:
        """The points of T frames."""
        betas = state.betas.expand(len(state.transl), 10)
        joint_rest = self.joint_rest + torch.einsum("jcb,tb->tjc", self.joint_shapedirs, betas)
        features = (state.rotations[:, 1:] - torch.eye(3).to(self.rest)).flatten(1)
        shaped = self.rest + torch.einsum("pcb,tb->tpc", self.shapedirs, betas) + torch.einsum("pcn,tn->tpc", self.posedirs, features)
        bones, joints = [state.rotations[:, 0]], [joint_rest[:, 0] + state.transl]
        for k in range(1, 16):
            parent = self.parents[k]
            bones.append(bones[parent] @ state.rotations[:, k])
            joints.append(joints[parent] + (bones[parent] @ (joint_rest[:, k] - joint_rest[:, parent])[..., None])[..., 0])
        G, p = torch.stack(bones, dim=1), torch.stack(joints, dim=1)
        offsets = p - (G @ joint_rest[..., None])[..., 0]
        turned = torch.einsum("pk,tkab->tpab", self.skin, G)
        points = (turned @ shaped[..., None])[..., 0] + torch.einsum("pk,tka->tpa", self.skin, offsets)
        return Posed(points, G, p, offsets, shaped, state)

    def rotation_jacobian(self, posed: Posed, ids: Tensor) -> Tensor:
        """Derivative (T, Q, 3, 16, 3) of points `ids` (T, Q), or (1, Q) for all frames, by turns of each bone in its parent's frame.

        See HandState.step. Turning a bone moves what hangs on it about the bone's joint; the pose blend shapes add the second part.
        """
        skin, shaped = self.skin[ids], _rows(posed.shaped, ids)
        placed = torch.einsum("tkab,tqb->tqka", posed.bones, shaped) + posed.offsets[:, None]
        hanging = torch.einsum("tqk,kj,tqka->tqja", skin, self.descends, placed)
        arm = hanging - (skin @ self.descends)[..., None] * posed.joints[:, None]
        root = torch.eye(3).to(skin).expand(len(posed.points), 1, 3, 3)
        frames = torch.cat([root, posed.bones[:, list(self.parents[1:])]], dim=1)
        jacobian = torch.einsum("tqjab,tjbm->tqajm", -_skew(arm), frames)
        if self.posedirs[ids.unique()].any():
            d_rotation = torch.einsum("mab,tjbc->tjmac", _skew(torch.eye(3).to(skin)), posed.state.rotations[:, 1:]).flatten(3)
            blend = torch.einsum("tqcjn,tjmn->tqcjm", self.posedirs[ids].unflatten(-1, (15, 9)), d_rotation)
            turned = torch.einsum("tqk,tkab->tqab", skin, posed.bones)
            jacobian[..., 1:, :] += torch.einsum("tqab,tqbjm->tqajm", turned, blend)
        return jacobian

    def shape_jacobian(self, posed: Posed, ids: Tensor) -> Tensor:
        """Derivative (T, Q, 3, 10) of points `ids` (T, Q), or (1, Q) for all frames, by betas."""
        moved = [self.joint_shapedirs[0].expand(len(posed.points), 3, 10)]
        for k in range(1, 16):
            parent = self.parents[k]
            bone = self.joint_shapedirs[k] - self.joint_shapedirs[parent]
            moved.append(moved[parent] + posed.bones[:, parent] @ bone)
        offsets = torch.stack(moved, dim=1) - posed.bones @ self.joint_shapedirs
        turned = torch.einsum("tqk,tkab->tqab", self.skin[ids], posed.bones)
        return turned @ self.shapedirs[ids] + torch.einsum("tqk,tkan->tqan", self.skin[ids], offsets)

    def shaped_by(self, betas: Tensor) -> "HandPoints":
        """The same points with a shape baked in."""
        return replace(self, rest=self.rest + self.shapedirs @ betas, joint_rest=self.joint_rest + self.joint_shapedirs @ betas)


def tip_patches(model: HandModel, size: int = 20) -> Tensor:
    """(5, size) vertices nearest to each fingertip in the template: HOLD's fingertip patches without its index file."""
    tips = model.v_template[list(MANO21_TIP_VERTICES)]
    return torch.cdist(tips, model.v_template).topk(size, largest=False).indices


def _rows(values: Tensor, ids: Tensor) -> Tensor:
    if len(ids) == 1:
        return values[:, ids[0]]
    return values.gather(1, ids[..., None].expand(-1, -1, values.shape[-1]))


def _skew(v: Tensor) -> Tensor:
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
