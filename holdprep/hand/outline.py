"""Correspondences between the outline of a posed hand and the outline of its mask, for registration and alignment.

A mask's edge pixel corresponds to the nearest vertex on the silhouette of the posed mesh, in position and outward normal; a silhouette
vertex outside the mask corresponds to the nearest edge pixel. Gauss-Newton minimises distances along the normal (point to line), as in
articulated ICP (Tagliasacchi et al., Robust articulated-ICP for real-time hand tracking, SGP 2015).
Edges beside the arm or the image's border are not edges of the hand and are ignored. Beside another entity, which may occlude the hand,
the hand may continue behind the edge, but must reach it: such edges are used only where they are outside the silhouette.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from holdprep.geometry.cameras import project, project_ahead
from holdprep.geometry.normals import vertex_normals
from holdprep.geometry.raster import covered
from holdprep.hand.joints import WRIST_RING
from holdprep.hand.lbs import NUM_JOINTS

NOISE = 0.008  # of the hand's size: standard deviation of the distance between masks and meshes along the normal
WIDTH = 0.06  # of the hand's size, Geman-McClure: edges at larger distances are errors of the mask
BESIDE_PX = 4.0  # an edge this near to another entity may be that entity's edge
BORDER_PX = 2
MIN_EDGE_PX = 20  # minimal number of usable pixels
REACH = 0.2  # of the hand's size in the image: maximal distance of corresponding edges
NORMAL_PX = 0.08  # of the hand's size: distance that is equivalent to a difference of 1 between unit normals
RIM = 0.012  # of the hand's size: maximal distance of silhouette vertices from the edge of the drawn silhouette
MIN_RIM_PX = 1.5
MAX_PIXELS = 5  # edge pixels of one vertex that are counted; more are correlated
PIXELS_APART = 5.0  # number of neighbouring edge pixels that count as one measurement, since their errors are correlated
WRIST_REACH = 0.12  # of the hand's size: maximal distance from the wrist's ring of vertices that bound the arm
ARM_SHARE, ARM_SHARE_BEYOND = 0.5, 0.15  # share of an arm region whose nearest outline is the wrist; the second beyond the wrist
MIN_AXIS = 0.2  # of the hand's size: minimal distance of centroid and wrist in the image that defines a direction
NEAR = 0.025  # of the hand's size: maximal distance of a mask edge explained by the silhouette
MIN_SEEN = 0.2  # visible share of the silhouette
MAX_SIDE_PX = 400  # larger windows are reduced; detail below the outline's noise is not needed
MARGIN_PX = 12  # of a frame's window about mask and hand


@dataclass(frozen=True)
class MaskEdge:
    """The edge of a hand's mask in one frame, and a window around the mask.

    `px` (E, 2) are pixels of the full image, `normal` (E, 2) unit vectors pointing out of the mask, `is_own` (E,) false beside other
    entities; edges at the image's border are excluded. The window is reduced by `scale`, its first pixel's centre is at `origin` (2,) of
    the full image; `mask` (h, w) bool, and `hidden` (h, w) bool, the pixels of entities that may occlude the hand.
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
        """The edge of a `mask` (H, W) bool with the mask `hidden` of possible occluders; None where the hand's mask is empty."""
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(ys):
            return None
        margin = MARGIN_PX + max(np.ptp(ys), np.ptp(xs)) // 3
        low = np.maximum([xs[0] - margin, ys[0] - margin], 0)
        high = np.minimum([xs[-1] + margin + 1, ys[-1] + margin + 1], mask.shape[::-1])
        scale = max(1.0, float((high - low).max()) / MAX_SIDE_PX)
        inside, other = (_reduced(x[low[1] : high[1], low[0] : high[0]], scale) for x in (mask, hidden))
        origin = low + (scale - 1) / 2
        contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        at = np.concatenate([c[:, 0] for c in contours if len(c) >= MIN_EDGE_PX] or [np.zeros((0, 2), np.int32)])
        full = at * scale + origin
        kept = ((full >= BORDER_PX * scale) & (full < np.array(mask.shape[::-1]) - BORDER_PX * scale)).all(axis=1)
        away = _away_from(other, at[kept])
        return MaskEdge(full[kept], _outward(inside, at[kept]), away * scale > BESIDE_PX, origin, scale, inside, other)

    def in_window(self, px: np.ndarray) -> np.ndarray:
        """Pixels (N, 2) of the full image in the window's coordinates."""
        return (px - self.origin) / self.scale


@dataclass(frozen=True)
class Correspondences:
    """Correspondences of the vertices of T frames with their mask's edge.

    `target_px` (T, V, 2) on the edge, its `normal` (T, V, 2), and `weight` (T, V), the number of independent measurements, 0 for vertices
    without correspondence.
    """

    target_px: np.ndarray
    normal: np.ndarray
    weight: np.ndarray

    def compact(self) -> tuple[np.ndarray, "Correspondences"]:
        """Ids (T, Q) of the vertices with correspondences, Q as small as possible for all frames, and their correspondences."""
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
        """The outlines of some frames, in their order."""
        return Outlines([self.edges[t] for t in rows], self.faces)

    def correspond(self, vertices_m: np.ndarray, K: np.ndarray, threads: int = 2) -> Correspondences:
        """Correspondences of posed meshes (T, V, 3) m in the camera frame of `K` (3, 3)."""
        normals = vertex_normals(vertices_m, self.faces)

        def one(t: int) -> list[np.ndarray]:
            return _one_frame(vertices_m[t], normals[t], self.edges[t], K, self.faces)

        with ThreadPoolExecutor(threads) as workers:
            found = list(workers.map(one, range(len(vertices_m))))
        return Correspondences(*(np.stack(part) for part in zip(*found, strict=True)))

    def agreement(self, vertices_m: np.ndarray, K: np.ndarray, threads: int = 2) -> tuple[np.ndarray, np.ndarray]:
        """Agreement of posed meshes (T, V, 3) m, NaN without a hand, with their masks.

        `iou` (T,) is that of the silhouette and the mask without the arm, outside of possible occluders; `explained` (T,) the share of the
        mask's own edge within NEAR of the silhouette's edge. NaN without a mask, or where less than MIN_SEEN of the silhouette is visible.
        """
        with ThreadPoolExecutor(threads) as workers:
            found = list(workers.map(lambda t: _agreement(vertices_m[t], self.edges[t], K, self.faces), range(len(vertices_m))))
        iou, explained = np.array(found).reshape(-1, 2).T
        return iou, explained


@dataclass(frozen=True)
class OutlineTargets:
    """Silhouette vertices and the points of the mask's edge to which they correspond.

    `ids` (T, Q) are points of HandPoints with all vertices, `target_px` (T, Q, 2) and `normal` (T, Q, 2) those of the mask's edge,
    `weight` (T, Q) numbers of measurements; `sigma_px` is the standard deviation of their noise, `width_px` the robust loss's width.
    """

    ids: Tensor
    target_px: Tensor
    normal: Tensor
    weight: Tensor
    sigma_px: float
    width_px: float

    @staticmethod
    def of(outlines: Outlines, vertices_m: Tensor, K: Tensor) -> "OutlineTargets":
        """Targets for posed meshes (T, 778, 3) m under `K` (3, 3), on the meshes' device."""
        ids, found = outlines.correspond(vertices_m.cpu().numpy(), K.cpu().numpy()).compact()
        size = size_px(project_ahead(vertices_m, K.to(vertices_m)))
        target, normal, weight = (torch.from_numpy(x).to(vertices_m) for x in (found.target_px, found.normal, found.weight))
        rows = NUM_JOINTS + torch.from_numpy(ids).to(vertices_m.device)
        return OutlineTargets(rows, target, normal, weight, NOISE * size, WIDTH * size)


def _reduced(mask: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1:
        return mask
    size = np.maximum(np.round(np.array(mask.shape[::-1]) / scale), 1).astype(int)
    return np.asarray(cv2.resize(255 * mask.astype(np.uint8), size.tolist(), interpolation=cv2.INTER_AREA) > 127)


def size_px(px: Tensor) -> float:
    """The median diagonal (px) of the bounding box of points (T, N, 2); NaN points are ignored."""
    low, high = (torch.where(px.isfinite(), px, fill) for fill in (torch.inf, -torch.inf))
    diagonal = (high.amax(dim=1) - low.amin(dim=1)).norm(dim=1)
    return float(diagonal[diagonal.isfinite()].median())


def _agreement(vertices_m: np.ndarray, edge: MaskEdge | None, K: np.ndarray, faces: np.ndarray) -> tuple[float, float]:
    if edge is None or not np.isfinite(vertices_m).all() or (vertices_m[:, 2] <= 0).any():
        return np.nan, np.nan
    px = edge.in_window(project(vertices_m, K))
    drawn = covered(px, faces[_faces_camera(px, faces)], edge.mask.shape[::-1])
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
    """(N,) px, distances of pixels `at` (N, 2) to a region (H, W) bool."""
    if not region.any():
        return np.full(len(at), np.inf)
    return np.asarray(cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, 3)[at[:, 1], at[:, 0]])


def arm_pixels(mask: np.ndarray, px: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels of a hand's mask (H, W) bool that belong to the forearm, given the posed hand's projected vertices (V, 2).

    The arm consists of the regions of the mask outside the hand's silhouette and beyond its wrist in which, for a share of the pixels, the
    nearest point of the outline is at the wrist. A hand seen along its forearm has no direction of the forearm in the image: then for most.
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
    """`arm_pixels` for a given silhouette `drawn` (H, W) bool."""
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
    if not outside.any():
        return outside
    rim = _rim(px, drawn, np.ones(len(px), bool))
    outline = np.concatenate([px[rim], ring])
    of_wrist = cKDTree(ring).query(outline)[0] < WRIST_REACH * size
    ys, xs = np.nonzero(outside)
    nearest = of_wrist[cKDTree(outline).query(np.stack([xs, ys], axis=1))[1]]
    count, regions = cv2.connectedComponents(outside.astype(np.uint8), connectivity=4)
    region = regions[ys, xs]
    is_arm = np.bincount(region[nearest], minlength=count) > share * np.bincount(region, minlength=count)
    return np.asarray(is_arm[regions])


def _beyond_wrist(px: np.ndarray, ring: np.ndarray, size: float) -> np.ndarray | None:
    """(2,) unit direction in the image from the hand's centroid to its wrist; None where the hand is seen along it."""
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
    # vertices outside of the hand's mask and of occluders
    at = np.clip(np.round(inner[rim]).astype(int), 0, (width - 1, height - 1))
    away = _away_from((edge.mask & ~arm) | edge.hidden, at)
    found = _Rim(px[rim], _projected_direction(vertices_m[rim], normals[rim], K))
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

    Vertices of `alone` (R,) bool without a corresponding edge pixel correspond to the nearest one.
    """
    target, normal, count = np.zeros_like(rim.px), np.zeros_like(rim.px), np.zeros(len(rim.px))
    edges, vertices = (np.c_[at, NORMAL_PX * size * way] for at, way in ((edge_px, edge_normal), (rim.px, rim.direction)))
    distance, nearest = cKDTree(vertices).query(edges, distance_upper_bound=REACH * size)
    met = np.isfinite(distance)
    np.add.at(target, nearest[met], edge_px[met])
    np.add.at(normal, nearest[met], edge_normal[met])
    np.add.at(count, nearest[met], 1.0)
    weight = np.minimum(count * spacing_px, MAX_PIXELS) / PIXELS_APART
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
    """(F,) bool, triangles seen from outside, by the sense of their projected corners (y points down)."""
    a, b, c = (px[faces[:, i]] for i in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    return np.asarray(area < 0)


def _projected_direction(points_m: np.ndarray, normals: np.ndarray, K: np.ndarray) -> np.ndarray:
    """(N, 2) unit directions in the image of surface normals (N, 3) at points (N, 3)."""
    moved = (normals[:, :2] - points_m[:, :2] / points_m[:, 2:] * normals[:, 2:]) * [K[0, 0], K[1, 1]]
    return np.asarray(moved / (np.linalg.norm(moved, axis=1, keepdims=True) + 1e-12))


def _hand_size_px(px: np.ndarray) -> float:
    """The diagonal (px) of the projected hand's bounding box."""
    return float(np.linalg.norm(np.ptp(px, axis=0)))


def _outward(mask: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(E, 2) unit normals at pixels `at` (E, 2) of a mask, from its smoothed gradient."""
    smooth = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 2)
    slope = np.stack([cv2.Sobel(smooth, cv2.CV_32F, dx, dy)[at[:, 1], at[:, 0]] for dx, dy in ((1, 0), (0, 1))], axis=1)
    return np.asarray(-slope / (np.linalg.norm(slope, axis=1, keepdims=True) + 1e-6), np.float64)
