"""Correspondences between the outline of a posed hand and the outline of its mask, for registration and alignment.

A mask's edge pixel corresponds to the nearest vertex on the silhouette of the posed mesh, nearest in position and in outward normal; a
silhouette vertex outside the mask corresponds to the nearest edge pixel. Distances along the normal are what Gauss-Newton minimises
(point to line), as in articulated ICP (Tagliasacchi et al., Robust articulated-ICP for real-time hand tracking, SGP 2015).
Edges beside the arm or the picture's border cut the hand: they are left out. An edge beside another entity may be where that entity hides
the hand, so the hand may go on behind it, but must reach it: such edges count only where the silhouette falls short of them.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree
from torch import Tensor

from holdprep.geometry.cameras import project
from holdprep.geometry.raster import covered
from holdprep.hand.joints import WRIST_RING

NOISE = 0.008  # of the hand's size: standard deviation of what masks and meshes differ by along the normal
WIDTH = 0.06  # of the hand's size, Geman-McClure: edges beyond are leaks
BESIDE_PX = 4.0  # an edge this near to another entity may be that entity's edge
BORDER_PX = 2
MIN_EDGE_PX = 20  # fewer usable pixels say nothing
REACH = 0.2  # of the hand's size in the picture: a mask's edge beyond it from the mesh's edge is another part's
NORMAL_PX = 0.08  # of the hand's size: the distance that counts as much as a difference of 1 between unit normals
RIM = 0.012  # of the hand's size: vertices of a coarse mesh lie this far inside its drawn silhouette at most
MIN_RIM_PX = 1.5
MOST_PIXELS = 5  # edge pixels of one vertex that count; more are correlated
PIXELS_APART = 5.0  # neighbouring edge pixels share their error: so many count as one measurement
WRIST_REACH = 0.12  # of the hand's size: vertices this near to the wrist's ring bound the arm
ARM_SHARE, ARM_SHARE_BEYOND = 0.5, 0.15  # of a region whose nearest outline is the wrist: the region is arm; known to be beyond the wrist
MIN_AXIS = 0.2  # of the hand's size: from its centroid to its wrist in the picture, for a direction beyond the wrist
NEAR = 0.025  # of the hand's size: mask edge that is explained by the silhouette's
MIN_SEEN = 0.2  # of the silhouette
MOST_SIDE = 400  # px: a larger window is reduced, since a hand's outline has no finer detail than its noise
MARGIN_PX = 12  # of a frame's window about mask and hand


@dataclass(frozen=True)
class MaskEdge:
    """The edge of a hand's mask in one frame: `px` (E, 2) pixels of the full picture, `normal` (E, 2) unit vectors that point out of the mask,
    `is_own` (E,) false beside other entities; edges at the picture's border are left out. And a window about the mask, reduced by `scale`,
    with its first pixel's centre at `origin` (2,) of the full picture: `mask` (h, w) bool and `hidden` (h, w) bool pixels of entities that
    may occlude the hand.
    """

    px: np.ndarray
    normal: np.ndarray
    is_own: np.ndarray
    origin: np.ndarray
    scale: float
    mask: np.ndarray
    hidden: np.ndarray

    @staticmethod
    def of(mask: np.ndarray, hidden: np.ndarray) -> "MaskEdge | None":
        """Of masks (H, W) bool; None where the hand's mask is empty."""
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(ys):
            return None
        margin = MARGIN_PX + max(np.ptp(ys), np.ptp(xs)) // 3
        low = np.maximum([xs[0] - margin, ys[0] - margin], 0)
        high = np.minimum([xs[-1] + margin + 1, ys[-1] + margin + 1], mask.shape[::-1])
        scale = max(1.0, float((high - low).max()) / MOST_SIDE)
        inside, other = (_reduced(x[low[1] : high[1], low[0] : high[0]], scale) for x in (mask, hidden))
        origin = low + (scale - 1) / 2
        contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        at = np.concatenate([c[:, 0] for c in contours if len(c) >= MIN_EDGE_PX] or [np.zeros((0, 2), np.int32)])
        full = at * scale + origin
        kept = ((full >= BORDER_PX * scale) & (full < np.array(mask.shape[::-1]) - BORDER_PX * scale)).all(axis=1)
        away = _away_from(other, at[kept])
        return MaskEdge(full[kept], _outward(inside, at[kept]), away * scale > BESIDE_PX, origin, scale, inside, other)

    def in_window(self, px: np.ndarray) -> np.ndarray:
        """Pixels (N, 2) of the full picture as those of the window."""
        return (px - self.origin) / self.scale


@dataclass(frozen=True)
class Correspondences:
    """What silhouette vertices of T frames correspond to: `target_px` (T, V, 2) on the mask's edge, its `normal` (T, V, 2), and `weight`
    (T, V), the number of independent measurements, 0 where a vertex corresponds to nothing."""

    target_px: np.ndarray
    normal: np.ndarray
    weight: np.ndarray

    def compact(self) -> tuple[np.ndarray, "Correspondences"]:
        """Vertices (T, Q) that correspond to something in some frame, as few as fit all frames, and what they correspond to."""
        most = max(int((self.weight > 0).sum(axis=1).max(initial=0)), 1)
        ids = np.argsort(-self.weight, axis=1, kind="stable")[:, :most]
        target, normal = (np.take_along_axis(x, ids[..., None], axis=1) for x in (self.target_px, self.normal))
        return ids, Correspondences(target, normal, np.take_along_axis(self.weight, ids, axis=1))


@dataclass(frozen=True)
class Outlines:
    """The mask edges of T frames (None where there is no mask) and the triangles of the hand's mesh."""

    edges: Sequence[MaskEdge | None]
    faces: np.ndarray

    def rows(self, rows: Iterable[int]) -> "Outlines":
        """Some of the frames, in their order."""
        return Outlines([self.edges[t] for t in rows], self.faces)

    def correspond(self, vertices_m: np.ndarray, K: np.ndarray, threads: int = 2) -> Correspondences:
        """For posed meshes (T, V, 3) in the camera frame of `K` (3, 3)."""
        normals = vertex_normals(vertices_m, self.faces)

        def one(t: int) -> list[np.ndarray]:
            return _one_frame(vertices_m[t], normals[t], self.edges[t], K, self.faces)

        with ThreadPoolExecutor(threads) as workers:
            found = list(workers.map(one, range(len(vertices_m))))
        return Correspondences(*(np.stack(part) for part in zip(*found, strict=True)))

    def agreement(self, vertices_m: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of posed meshes (T, V, 3), NaN where there is no hand: `iou` (T,) of the silhouette and the mask without its arm, outside of what
        may occlude the hand; and `explained` (T,), the share of the mask's own edge that lies within NEAR of the silhouette's edge.

        NaN where there is no mask, or what can be seen of hand and mask is less than MIN_SEEN of the silhouette.
        """
        found = [_agreement(v, edge, K, self.faces) for v, edge in zip(vertices_m, self.edges, strict=True)]
        iou, explained = np.array(found).reshape(-1, 2).T
        return iou, explained


def _reduced(mask: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1:
        return mask
    size = np.maximum(np.round(np.array(mask.shape[::-1]) / scale), 1).astype(int)
    return np.asarray(cv2.resize(mask.astype(np.float32), size.tolist(), interpolation=cv2.INTER_AREA) > 0.5)


def size_px(px: Tensor) -> float:
    """The median diagonal of the box about points (T, N, 2), those that are NaN left out; px."""
    low, high = (torch.where(px.isfinite(), px, fill) for fill in (torch.inf, -torch.inf))
    diagonal = (high.amax(dim=1) - low.amin(dim=1)).norm(dim=1)
    return float(diagonal[diagonal.isfinite()].median())


def vertex_normals(vertices_m: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(T, V, 3) outward unit normals: the area-weighted mean over a vertex's triangles."""
    corners = vertices_m[:, faces]
    across = np.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
    frames, vertices = vertices_m.shape[:2]
    rows, columns = faces.ravel(), np.repeat(np.arange(len(faces)), 3)
    gather = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(vertices, len(faces)))
    summed = (gather @ across.transpose(1, 0, 2).reshape(len(faces), -1)).reshape(vertices, frames, 3).transpose(1, 0, 2)
    return np.asarray(summed / (np.linalg.norm(summed, axis=2, keepdims=True) + 1e-12))


def _agreement(vertices_m: np.ndarray, edge: MaskEdge | None, K: np.ndarray, faces: np.ndarray) -> tuple[float, float]:
    if edge is None or not np.isfinite(vertices_m).all() or (vertices_m[:, 2] <= 0).any():
        return np.nan, np.nan
    px = edge.in_window(project(vertices_m, K))
    drawn = covered(px, faces, edge.mask.shape[::-1])
    arm, free = _arm_outside(edge.mask, px, drawn), ~edge.hidden
    seen, union = drawn & edge.mask & free, (drawn | (edge.mask & ~arm)) & free
    if union.sum() < MIN_SEEN * drawn.sum() or not union.any():
        return np.nan, np.nan
    at = np.round(edge.in_window(edge.px[edge.is_own])).astype(int)
    at = at[_away_from(arm, at) * edge.scale > BESIDE_PX]
    rim = drawn.astype(np.uint8) - cv2.erode(drawn.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0)
    explained = _away_from(rim > 0, at) <= NEAR * _hand_size_px(px)
    return float(seen.sum() / union.sum()), float(explained.mean()) if len(at) >= MIN_EDGE_PX else np.nan


def _away_from(region: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(N,) px from pixels `at` (N, 2) to a region (H, W) bool."""
    if not region.any():
        return np.full(len(at), np.inf)
    return np.asarray(cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, 3)[at[:, 1], at[:, 0]])


def arm_pixels(mask: np.ndarray, px: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels of a hand's mask (H, W) bool that belong to the forearm, by the posed hand's projected vertices (V, 2).

    Arm are the regions of the mask outside the hand's silhouette and beyond its wrist whose nearest point of the outline is the wrist for a
    share of their pixels. A hand seen along its forearm has no direction beyond the wrist in the picture: then for most of them.
    """
    arm = np.zeros_like(mask)
    if not mask.any() or not np.isfinite(px).all():
        return arm
    xs, ys = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    low = np.clip(np.floor(np.minimum(px.min(axis=0), [xs[0], ys[0]])), 0, np.array(mask.shape[::-1]) - 1).astype(int)
    high = np.clip(np.ceil(np.maximum(px.max(axis=0), [xs[-1], ys[-1]])) + 1, low + 1, mask.shape[::-1]).astype(int)
    window = (slice(low[1], high[1]), slice(low[0], high[0]))
    part = mask[window]
    arm[window] = _arm_outside(part, px - low, covered(px - low, faces, part.shape[::-1]))
    return arm


def _arm_outside(mask: np.ndarray, px: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """`arm_pixels` for a silhouette (H, W) bool that is drawn already."""
    outside = mask & ~drawn
    if not outside.any() or not drawn.any():
        return np.zeros_like(mask)
    size = _hand_size_px(px)
    ring = px[list(WRIST_RING)]
    away, share = _beyond_wrist(px, ring, size), ARM_SHARE
    if away is not None:
        y, x = np.ogrid[: mask.shape[0], : mask.shape[1]]
        start, share = ring.mean(axis=0), ARM_SHARE_BEYOND
        outside &= (x - start[0]) * away[0] + (y - start[1]) * away[1] > 0
    rim = _rim(px, drawn, np.ones(len(px), bool))
    outline = np.concatenate([px[rim], ring])
    nearest = outside & _nearest_to(outline, cKDTree(ring).query(outline)[0] < WRIST_REACH * size, mask.shape)
    count, regions = cv2.connectedComponents(outside.astype(np.uint8), connectivity=4)
    total = np.bincount(regions.ravel(), minlength=count)
    is_arm = np.bincount(regions[nearest], minlength=count) > share * total
    is_arm[0] = False
    return np.asarray(is_arm[regions])


def _nearest_to(points: np.ndarray, chosen: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool: pixels whose nearest point of `points` (N, 2) is one of the `chosen` (N,) bool."""
    at = np.clip(np.round(points), 0, np.array(shape[::-1]) - 1).astype(int)
    free, is_chosen = np.ones(shape, np.uint8), np.zeros(shape, bool)
    free[at[:, 1], at[:, 0]] = 0
    is_chosen[at[chosen, 1], at[chosen, 0]] = True
    _, labels = cv2.distanceTransformWithLabels(free, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    by_label = np.zeros(labels.max() + 1, bool)
    by_label[labels[at[:, 1], at[:, 0]]] = is_chosen[at[:, 1], at[:, 0]]
    return np.asarray(by_label[labels])


def _beyond_wrist(px: np.ndarray, ring: np.ndarray, size: float) -> np.ndarray | None:
    """(2,) unit direction in the picture from the hand's centroid to its wrist; None where the hand is seen along it."""
    axis = ring.mean(axis=0) - px.mean(axis=0)
    length = float(np.linalg.norm(axis))
    return axis / length if length > MIN_AXIS * size else None


def _one_frame(vertices_m: np.ndarray, normals: np.ndarray, edge: MaskEdge | None, K: np.ndarray, faces: np.ndarray) -> list[np.ndarray]:
    """Target (V, 2), normal (V, 2) and weight (V,) of one frame."""
    nothing = [np.zeros((len(vertices_m), 2)), np.zeros((len(vertices_m), 2)), np.zeros(len(vertices_m))]
    if edge is None or not np.isfinite(vertices_m).all() or (vertices_m[:, 2] <= 0).any():
        return nothing
    px = project(vertices_m, K)
    size = _hand_size_px(px)
    height, width = edge.mask.shape
    front = faces[_faces_camera(px, faces)]
    inner = edge.in_window(px)
    drawn = covered(inner, front, (width, height))
    if not drawn.any():
        return nothing
    arm = _arm_outside(edge.mask, inner, drawn)
    at = np.round(edge.in_window(edge.px)).astype(int)
    used = (edge.is_own | ~drawn[at[:, 1], at[:, 0]]) & (_away_from(arm, at) * edge.scale > BESIDE_PX)
    may_move = np.ones(len(px), bool)
    may_move[list(WRIST_RING)] = False
    rim = _rim(inner, drawn, may_move)
    if used.sum() < MIN_EDGE_PX or len(rim) < MIN_EDGE_PX:
        return nothing
    # vertices outside hand and occluders: nothing there shows the hand
    at = np.clip(np.round(inner[rim]).astype(int), 0, (width - 1, height - 1))
    away = _away_from((edge.mask & ~arm) | edge.hidden, at)
    found = _Rim(px[rim], _in_picture(vertices_m[rim], normals[rim], K))
    for all_vertices, own in zip(nothing, _matched(found, edge.px[used], edge.normal[used], edge.scale, away > 1, size), strict=True):
        all_vertices[rim] = own
    return nothing


@dataclass(frozen=True)
class _Rim:
    """Silhouette vertices of one frame: pixels `px` (R, 2) and outward directions (R, 2)."""

    px: np.ndarray
    direction: np.ndarray


def _matched(
    rim: _Rim, edge_px: np.ndarray, edge_normal: np.ndarray, spacing_px: float, alone: np.ndarray, size: float
) -> list[np.ndarray]:
    """Target (R, 2), normal (R, 2) and weight (R,) of silhouette vertices, for edge pixels `spacing_px` apart.

    Vertices of `alone` (R,) bool that no edge pixel corresponds to look for the nearest one themselves.
    """
    target, normal, count = np.zeros_like(rim.px), np.zeros_like(rim.px), np.zeros(len(rim.px))
    edges, vertices = (np.c_[at, NORMAL_PX * size * way] for at, way in ((edge_px, edge_normal), (rim.px, rim.direction)))
    distance, nearest = cKDTree(vertices).query(edges, distance_upper_bound=REACH * size)
    met = np.isfinite(distance)
    np.add.at(target, nearest[met], edge_px[met])
    np.add.at(normal, nearest[met], edge_normal[met])
    np.add.at(count, nearest[met], 1.0)
    weight = np.minimum(count * spacing_px, MOST_PIXELS) / PIXELS_APART
    rows = np.flatnonzero(alone & (count == 0))
    if len(rows):
        distance, nearest = cKDTree(edges).query(vertices[rows], distance_upper_bound=2 * REACH * size)
        rows, nearest = rows[np.isfinite(distance)], nearest[np.isfinite(distance)]
        target[rows], normal[rows], count[rows], weight[rows] = edge_px[nearest], edge_normal[nearest], 1.0, 1.0
    target /= np.maximum(count, 1.0)[:, None]
    return [target, normal / (np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12), weight]


def _rim(px: np.ndarray, drawn: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Ids of `allowed` vertices, at pixels (V, 2), on the outline of the drawn silhouette (h, w)."""
    padded = np.pad(drawn.astype(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    at = np.round(px).astype(int)
    inside = (at >= 0).all(axis=1) & (at < np.array(drawn.shape[::-1])).all(axis=1) & allowed
    at = np.clip(at, 0, np.array(drawn.shape[::-1]) - 1)
    return np.flatnonzero(inside & (depth[at[:, 1], at[:, 0]] <= max(MIN_RIM_PX, RIM * _hand_size_px(px))))


def _faces_camera(px: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F,) bool triangles whose projection has the sense of those seen from outside (y points down)."""
    a, b, c = (px[faces[:, i]] for i in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    return np.asarray(area < 0)


def _in_picture(points_m: np.ndarray, normals: np.ndarray, K: np.ndarray) -> np.ndarray:
    """(N, 2) unit directions in the picture of surface normals (N, 3) at points (N, 3)."""
    moved = (normals[:, :2] - points_m[:, :2] / points_m[:, 2:] * normals[:, 2:]) * [K[0, 0], K[1, 1]]
    return np.asarray(moved / (np.linalg.norm(moved, axis=1, keepdims=True) + 1e-12))


def _hand_size_px(px: np.ndarray) -> float:
    """The diagonal of the projected hand's box."""
    return float(np.linalg.norm(np.ptp(px, axis=0)))


def _outward(mask: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(E, 2) unit normals at pixels `at` (E, 2) of a mask, from its smoothed gradient."""
    smooth = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 2)
    slope = np.stack([cv2.Sobel(smooth, cv2.CV_32F, dx, dy)[at[:, 1], at[:, 0]] for dx, dy in ((1, 0), (0, 1))], axis=1)
    return np.asarray(-slope / (np.linalg.norm(slope, axis=1, keepdims=True) + 1e-6), np.float64)
