"""MANO's forward pass for chosen points (the 21 joints, any vertices), and their analytic derivatives.

Linear blend skinning as in MANO (Romero et al. 2017, eqs. 2-4; Loper et al. 2015), restricted to the chosen points. A joint is a point
that is skinned to one bone and has no pose blend shape, so joints and vertices share the code.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import roma
import torch
from torch import Tensor

from holdprep.geometry.rigid import skew
from holdprep.hand.joints import MANO21_TIP_VERTICES
from holdprep.hand.model import HandModel, ManoParams

NUM_JOINTS = 21
AT_ONCE = 1024  # frames in memory at a time


@dataclass(frozen=True)
class HandMesh:
    """Posed hands: `vertices` (T, 778, 3) and `joints` (T, 21, 3) in MANO-21 order, metres, in the camera frame of the parameters."""

    vertices: Tensor
    joints: Tensor


def forward(model: HandModel, params: ManoParams) -> HandMesh:
    """The posed hand of T frames; differentiable. Frames with NaN parameters are NaN.

    Equal to smplx's MANO(use_pca=False, flat_hand_mean=False): `global_orient` rotates about the shaped template's wrist. `betas` is
    (10,), or (T, 10) for one shape per frame.
    """
    points, state = HandPoints.of(model, torch.arange(len(model.v_template))), to_state(model, params)
    posed = torch.cat([points.pose(state.rows(slice(i, i + AT_ONCE))).points for i in range(0, max(len(state.transl), 1), AT_ONCE)])
    return HandMesh(posed[:, NUM_JOINTS:], posed[:, :NUM_JOINTS])


@dataclass(frozen=True)
class HandState:
    """Hand pose of T frames.

    `rotations` (T, 16, 3, 3) of bones in their parents' frames, hand mean included; `betas` (10,) or (T, 10); `transl` (T, 3) m.
    """

    rotations: Tensor
    betas: Tensor
    transl: Tensor

    def rows(self, rows: slice | Tensor) -> "HandState":
        """The state of some frames."""
        betas = self.betas if self.betas.ndim == 1 else self.betas[rows]
        return HandState(self.rotations[rows], betas, self.transl[rows])

    def step(self, transl: Tensor, rotation_vectors: Tensor, betas: Tensor) -> "HandState":
        """The state after adding `transl` (T, 3) and `betas` (10,) or (T, 10), and rotating bones by `rotation_vectors` (T, 16, 3) in
        parents' frames."""
        rotations = roma.rotvec_to_rotmat(rotation_vectors) @ self.rotations
        return HandState(rotations, self.betas + betas, self.transl + transl)


def to_state(model: HandModel, params: ManoParams) -> HandState:
    """MANO parameters with rotations as matrices."""
    pose = torch.cat([params.global_orient, params.hand_pose + model.hand_mean], dim=1)
    return HandState(roma.rotvec_to_rotmat(pose.reshape(-1, 16, 3)), params.betas, params.transl)


def to_params(model: HandModel, state: HandState) -> ManoParams:
    """The inverse of `to_state`; angles are in [0, pi]."""
    pose = roma.rotmat_to_rotvec(state.rotations).reshape(-1, 48)
    return ManoParams(pose[:, :3], pose[:, 3:] - model.hand_mean, state.betas, state.transl)


@dataclass(frozen=True)
class Posed:
    """Points (T, P, 3) m in the camera frame, and input of their derivatives.

    The latter are bones' rotations, positions and offsets, and shaped points (T, 3, P).
    """

    points: Tensor
    bones: Tensor
    joints: Tensor
    offsets: Tensor
    shaped: Tensor
    state: HandState

    def to(self, dtype: torch.dtype) -> "Posed":
        """The same in another floating point type."""
        state = HandState(self.state.rotations.to(dtype), self.state.betas.to(dtype), self.state.transl.to(dtype))
        points, bones, joints, offsets, shaped = (x.to(dtype) for x in (self.points, self.bones, self.joints, self.offsets, self.shaped))
        return Posed(points, bones, joints, offsets, shaped, state)


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
        """The 21 joints and the vertices (P - 21,) of a model, in the model's dtype and on its device."""
        ids = torch.cat([torch.tensor(MANO21_TIP_VERTICES), vertices]).to(model.v_template.device)
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

    def to(self, dtype: torch.dtype) -> "HandPoints":
        """The same in another floating point type."""
        names = ("rest", "shapedirs", "posedirs", "skin", "joint_rest", "joint_shapedirs")
        return replace(self, **{name: getattr(self, name).to(dtype) for name in names})

    @cached_property
    def blend(self) -> Tensor:
        """(15, 9, 3, P): pose blend shapes of every joint's rotation, with the entries of its matrix by row."""
        return self.posedirs.unflatten(-1, (15, 9)).permute(2, 3, 1, 0).contiguous()

    @cached_property
    def blend_by_point(self) -> Tensor:
        """(3, P, 135): pose blend shapes of the points' coordinates."""
        return self.posedirs.permute(1, 0, 2).contiguous()

    def pose(self, state: HandState) -> Posed:
        """The posed points of T frames."""
        betas = state.betas.expand(len(state.transl), 10)
        joint_rest = self.joint_rest + torch.einsum("jcb,tb->tjc", self.joint_shapedirs, betas)
        features = (state.rotations[:, 1:] - torch.eye(3, dtype=self.rest.dtype, device=self.rest.device)).flatten(1)
        P = len(self.rest)
        shape = state.betas @ self.shapedirs.permute(2, 1, 0).flatten(1)  # of one shape for all frames: one row
        shaped = (self.rest.mT.flatten() + shape + features @ self.blend.reshape(135, -1)).view(-1, 3, P)
        bones, joints = [state.rotations[:, 0]], [joint_rest[:, 0] + state.transl]
        for k in range(1, 16):
            parent = self.parents[k]
            bones.append(bones[parent] @ state.rotations[:, k])
            joints.append(joints[parent] + (bones[parent] @ (joint_rest[:, k] - joint_rest[:, parent])[..., None])[..., 0])
        G, p = torch.stack(bones, dim=1), torch.stack(joints, dim=1)
        offsets = p - (G @ joint_rest[..., None])[..., 0]
        blended = blended_rotations(G, self.skin.mT)
        points = offsets.mT @ self.skin.mT
        for c in range(3):
            points = points.addcmul(blended[:, :, c], shaped[:, None, c])
        return Posed(points.mT, G, p, offsets, shaped, state)

    def frames(self, posed: Posed) -> Tensor:
        """(T, 16, 3, 3): rotation of each bone's parent in the camera frame, the identity for the wrist."""
        root = torch.eye(3, dtype=posed.bones.dtype, device=posed.bones.device).expand(len(posed.bones), 1, 3, 3)
        return torch.cat([root, posed.bones[:, list(self.parents[1:])]], dim=1)

    def choose(self, ids: Tensor, blend: bool = True) -> "Chosen":
        """Data of points `ids` (T, Q), or (1, Q) for all frames, for derivatives; `blend`: with pose blend shapes."""
        with_blend = blend and (len(ids) > 1 or bool((ids >= 16).any()))  # joints have no blend shapes
        shapes = self.blend[..., ids[0] if len(ids) == 1 else ids] if with_blend else None
        return Chosen(ids, self.skin[ids].mT.contiguous(), shapes, self.shapedirs[ids].permute(0, 3, 2, 1).contiguous())

    def rotation_rows(self, posed: Posed, chosen: "Chosen", out: Tensor | None = None) -> Tensor:
        """Derivative (T, 16, 3, 3, Q) of the points' coordinates (fourth axis) by rotations of each bone.

        Rotations are about the camera frame's axes (third axis). The result is written to `out` (zeros) if given. A rotation moves all
        points attached to the bone and its children about the bone's joint; the pose blend shapes add the second part.
        """
        x, y, z = about_joints(posed, chosen.ids, chosen.skin, self.parents).unbind(2)
        rows = x.new_zeros(len(x), 16, 3, 3, chosen.ids.shape[1]) if out is None else out
        torch.neg(z, out=rows[:, :, 0, 1])
        torch.neg(x, out=rows[:, :, 1, 2])
        torch.neg(y, out=rows[:, :, 2, 0])
        rows[:, :, 0, 2], rows[:, :, 1, 0], rows[:, :, 2, 1] = y, z, x
        if chosen.blend is not None:
            self._add_blend(rows, posed, chosen.skin, chosen.blend)
        return rows

    def _add_blend(self, rows: Tensor, posed: Posed, skin: Tensor, blend: Tensor) -> None:
        frames, points = len(posed.points), skin.shape[-1]
        changed = self.changes(posed)
        if blend.ndim == 4:
            moved = torch.bmm(changed.transpose(0, 1).reshape(15, frames * 3, 9), blend.flatten(2))
            moved = moved.view(15, frames, 3, 3, points).transpose(0, 1)
        else:
            moved = torch.einsum("tjmn,jnctq->tjmcq", changed, blend)
        blended = blended_rotations(posed.bones, skin)
        for a in range(3):
            for c in range(3):
                rows[:, 1:, :, a].addcmul_(moved[..., c, :], blended[:, None, None, a, c])

    def changes(self, posed: Posed) -> Tensor:
        """(T, 15, 3, 9): change of the matrix R_j of joint j by a rotation about camera axis m: [F_j' e_m] R_j, F_j its parent's rotation."""
        return (skew(self.frames(posed)[:, 1:]) @ posed.state.rotations[:, 1:, None]).flatten(3)

    def shape_rows(self, posed: Posed, chosen: "Chosen") -> Tensor:
        """Derivative (T, 10, 3, Q) of the points' coordinates by betas."""
        moved = [self.joint_shapedirs[0].expand(len(posed.points), 3, 10)]
        for k in range(1, 16):
            parent = self.parents[k]
            bone = self.joint_shapedirs[k] - self.joint_shapedirs[parent]
            moved.append(moved[parent] + posed.bones[:, parent] @ bone)
        offsets = torch.stack(moved, dim=1) - posed.bones @ self.joint_shapedirs
        rows = (offsets.permute(0, 3, 2, 1).flatten(1, 2) @ chosen.skin).unflatten(1, (10, 3))
        blended = blended_rotations(posed.bones, chosen.skin)
        for a in range(3):
            for c in range(3):
                rows[:, :, a].addcmul_(chosen.shapedirs[:, :, c], blended[:, None, a, c])
        return rows

    def rotation_jacobian(self, posed: Posed, ids: Tensor) -> Tensor:
        """Derivative (T, Q, 3, 16, 3) of points `ids`, (T, Q) or (1, Q), by rotations of bones in parents' frames (HandState.step)."""
        return torch.einsum("tjmaq,tjmi->tqaji", self.rotation_rows(posed, self.choose(ids)), self.frames(posed))

    def root_jacobian(self, posed: Posed, ids: Tensor) -> Tensor:
        """Derivative (T, Q, 3, 3) of points `ids`, (T, Q) or (1, Q), by rotations of the hand: the first bone in `rotation_jacobian`."""
        return skew(_columns(posed.points.mT, ids).mT - posed.joints[:, :1]).mT

    def shape_jacobian(self, posed: Posed, ids: Tensor) -> Tensor:
        """Derivative (T, Q, 3, 10) of points `ids` by betas."""
        return self.shape_rows(posed, self.choose(ids, blend=False)).permute(0, 3, 2, 1)

    def shaped_by(self, betas: Tensor) -> "HandPoints":
        """The same points with the shape `betas` (10,) as rest shape."""
        return replace(self, rest=self.rest + self.shapedirs @ betas, joint_rest=self.joint_rest + self.joint_shapedirs @ betas)


@dataclass(frozen=True)
class Chosen:
    """Data of points `ids` (T, Q) or (1, Q) for derivatives.

    `skin` (., 16, Q), `blend` (15, 9, 3, Q), (15, 9, 3, T, Q) or None, `shapedirs` (., 10, 3, Q).
    """

    ids: Tensor
    skin: Tensor
    blend: Tensor | None
    shapedirs: Tensor


def tip_patches(model: HandModel, size: int = 20) -> Tensor:
    """(5, size) vertices nearest to each fingertip in the template; replaces the index file of HOLD's fingertip patches."""
    tips = model.v_template[list(MANO21_TIP_VERTICES)]
    return torch.cdist(tips, model.v_template).topk(size, largest=False).indices


def blended_rotations(bones: Tensor, skin: Tensor) -> Tensor:
    """(T, 3, 3, Q): bones' rotations (T, 16, 3, 3) averaged by skinning weights (..., 16, Q)."""
    return (bones.flatten(2).mT @ skin).unflatten(1, (3, 3))


def about_joints(posed: Posed, ids: Tensor, skin: Tensor, parents: tuple[int, ...]) -> Tensor:
    """(T, 16, 3, Q): offsets of points from every bone's joint, times the share (skinning weights (., 16, Q)) that moves with the bone."""
    attached = (posed.bones.flatten(1, 2) @ _columns(posed.shaped, ids)).unflatten(1, (16, 3))
    attached.add_(posed.offsets[..., None]).mul_(skin[:, :, None])
    carried = skin.clone()
    for k in range(15, 0, -1):  # children follow their parents in MANO's order
        attached[:, parents[k]] += attached[:, k]
        carried[:, parents[k]] += carried[:, k]
    return attached.sub_(carried[:, :, None] * posed.joints[..., None])


def _columns(values: Tensor, ids: Tensor) -> Tensor:
    """Columns `ids` (T, Q), or (1, Q) for all frames, of `values` (T, 3, P)."""
    if len(ids) == 1:
        return values[..., ids[0]]
    return values.gather(2, ids[:, None].expand(-1, values.shape[1], -1))
