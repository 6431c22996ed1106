"""Fewer vertices for a mesh, each one of its own."""

import heapq
from collections.abc import Sequence

import numpy as np

from holdprep.errors import HoldprepError


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
