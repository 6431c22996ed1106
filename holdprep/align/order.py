"""Scale from depth order: a hand that occludes the object is in front of it, a hand that the object occludes is behind it.

Along a pixel's ray, SfM gives the depths of the object's front and back up to the scale. Every such pixel whose surface was observed
therefore bounds the scale from one side. A thumb in front of the object and fingers behind it bound the scale from both sides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.special import log_ndtr
from torch import Tensor

from holdprep.align.surface import Kind, Surface
from holdprep.align.tracks import ScaleEstimate, parabola_maximum, resampled_counts
from holdprep.geometry.cameras import project, rays
from holdprep.geometry.silhouettes import Inset
from holdprep.hand.lbs import NUM_JOINTS
from holdprep.hand.model import Side

CELL_PX = 8  # of the depth buffer that selects the hand's front
FRONT_M = 0.008  # maximal distance of front skin behind the nearest skin of its cell
STEPS = 48  # along a ray
MAX_RAYS = 36  # of a frame, evenly over the hand: three times EVIDENCE
EVIDENCE = 12.0  # independent pixels that one frame counts as: neighbouring pixels are correlated
FRAMES = 8  # independent frames that a clip counts as: the errors of the hand's pose change slowly
OUTLIER_SHARE = 0.1  # of pixels with a wrong order
OUTLIER_FRAMES = 0.2  # of frames with a wrong finger on them
# Of the hand's size in the image: nearer to a mask's contour, a pixel does not show whether the order is wrong, or the hand is displaced in
# the image by the keypoints' error
POSE_ERROR = 0.06
SHARP_M = 0.004  # standard error of skin and surface
SYSTEMATIC = 0.03
MAX_STDERR = 0.1
RANGE, STEP = (-0.35, 0.25), 0.01  # log scale searched


@dataclass(frozen=True)
class DepthOrder:
    """Rays (M,) that show a hand in front of or behind the object.

    `frame` is the index of a ray's frame among the F given ones, `hand_m` the depth of the skin, `front_sfm` and `back_sfm` the depths of
    the object's front and back in the unit of SfM, `hand_in_front` whether the hand is visible there. `vertex` is the skin's, `face_obj`
    (M, 3) the point of the object's front or back, whichever is next to the hand in this order, in the cloud's frame and unit.
    `depth_ratio` (F,) is the standard error of the hand's depth in each frame, as a fraction of it; `clip_frame` (F,) are the frames'
    numbers in the clip.
    """

    frame: np.ndarray
    vertex: np.ndarray
    hand_m: np.ndarray
    front_sfm: np.ndarray
    back_sfm: np.ndarray
    hand_in_front: np.ndarray
    face_obj: np.ndarray
    depth_ratio: np.ndarray
    clip_frame: np.ndarray = field(default_factory=lambda: np.zeros(0, int))

    @property
    def is_evidence(self) -> bool:
        """Whether its rays are as many as EVIDENCE, in FRAMES frames or half of the given ones.

        Where fewer frames have any, these are the pixels by which the hand is displaced in the image, and say nothing of its depth.
        """
        return len(self.frame) >= EVIDENCE and len(np.unique(self.frame)) >= min(FRAMES, len(self.depth_ratio) / 2)


@dataclass(frozen=True)
class Faces:
    """Planes next to the hand's skin on rays with a known depth order, of T frames.

    Points `ids` (T, Q) of HandPoints with all vertices belong outside of the planes through `point_obj` (T, Q, 3) with the outward normals
    `normal_obj` (T, Q, 3), in the cloud's frame and unit; `weight` (T, Q) sums to at most EVIDENCE in a frame, over T.
    """

    ids: Tensor
    point_obj: Tensor
    normal_obj: Tensor
    weight: Tensor

    @staticmethod
    def of(order: DepthOrder, surface: Surface, frames: int) -> "Faces":
        """The planes that touch the surface where the rays meet it."""
        count = np.bincount(order.frame, minlength=len(order.clip_frame))
        column = np.arange(len(order.frame)) - (np.cumsum(count) - count)[order.frame]
        normal = surface.gradient(order.face_obj)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-9)
        weight = np.minimum(1.0, EVIDENCE / np.maximum(count, 1))[order.frame] / frames
        size, at = (frames, int(count.max(initial=0))), (order.clip_frame[order.frame], column)

        def table(values: np.ndarray) -> Tensor:
            full = np.zeros((*size, *values.shape[1:]), dtype=values.dtype)
            full[at] = values
            return torch.from_numpy(full)

        return Faces(table(NUM_JOINTS + order.vertex), table(order.face_obj), table(normal), table(weight))


def depth_order(orders: Mapping[Side, DepthOrder], around: float, seed: int = 0) -> ScaleEstimate:
    """The scale that fewest rays contradict, searched about `around`; rejected where rays bound it from one side only, or not at all."""
    frames = max((len(np.unique(order.frame)) for order in orders.values()), default=0)
    orders = {side: order for side, order in orders.items() if order.is_evidence}
    sided = [side for side in (True, False) if any((o.hand_in_front == side).any() for o in orders.values())]
    if len(sided) < 2:
        one = "the hand is never seen in front of the object" if sided == [False] else "the object never occludes the hand"
        none = f"only {frames} frames show" if frames else "no pixel shows"
        return ScaleEstimate("depth_order", around, float("inf"), one if sided else f"{none} which of hand and object is in front")
    log_scales = np.arange(RANGE[0], RANGE[1] + STEP / 2, STEP)
    curves = [_frame_curves(o, np.log(around) + log_scales) for o in orders.values()]
    totals = resampled_counts([len(c) for c in curves], seed) @ np.concatenate(curves)
    maxima = np.array([parabola_maximum(log_scales, total) for total in totals])
    likelihood = np.exp(totals[0] - totals[0].max())
    std = np.sqrt(np.average((log_scales - maxima[0]) ** 2, weights=likelihood))
    scale, stderr = float(around * np.exp(maxima[0])), float(np.linalg.norm([max(np.std(maxima[1:]), std), SYSTEMATIC]))
    wrong = np.concatenate([contradicted(o, scale) for o in orders.values()]).mean()
    rejection = "its best scale lies at the end of the range searched" if totals[0].argmax() in (0, len(log_scales) - 1) else ""
    if stderr > MAX_STDERR:
        rejection = rejection or f"standard error {100 * stderr:.0f} % (at most {100 * MAX_STDERR:.0f})"
    return ScaleEstimate("depth_order", scale, stderr, rejection, {"against_pct": 100 * float(wrong)})


def log_likelihood(orders: Mapping[Side, DepthOrder], log_scales: np.ndarray) -> np.ndarray:
    """(G,) logarithm of the likelihood of scales (G,) by all rays, those of a clip counted as at most FRAMES independent frames.

    Rays that bound the scale from one side only count as well: they exclude scales.
    """
    total = np.zeros(len(log_scales))
    for order in orders.values():
        rows = np.unique(order.frame)
        each = np.logaddexp(np.log(1 - OUTLIER_FRAMES) + _frame_curves(order, log_scales)[rows], np.log(OUTLIER_FRAMES))
        total += each.sum(axis=0) * min(1.0, FRAMES / max(len(rows), 1))
    return total


def contradicted(order: DepthOrder, scale: float) -> np.ndarray:
    """(M,) whether a ray's hand lies on the other side of the object than the masks show, by more than SHARP_M."""
    return np.asarray(_margin(order, np.log([scale]))[:, 0] * order.hand_m < -SHARP_M)


def _margin(order: DepthOrder, log_scales: np.ndarray) -> np.ndarray:
    """(M, S) signed distance of a ray's hand from the object, positive on the side that the masks show; a fraction of the depth."""
    front, back = (np.log(order.hand_m / depth)[:, None] - log_scales for depth in (order.front_sfm, order.back_sfm))
    return np.where(order.hand_in_front[:, None], -front, back)


def _frame_curves(order: DepthOrder, log_scales: np.ndarray) -> np.ndarray:
    """(F, S) log-likelihoods of scales: the mean over a frame's rays, times at most EVIDENCE, blurred by the frame's depth error."""
    width = np.hypot(order.depth_ratio[order.frame], SHARP_M / order.hand_m)[:, None]
    each = np.logaddexp(np.log(1 - OUTLIER_SHARE) + log_ndtr(_margin(order, log_scales) / width), np.log(OUTLIER_SHARE))
    total = np.zeros((len(order.depth_ratio), len(log_scales)))
    np.add.at(total, order.frame, each)
    count = np.bincount(order.frame, minlength=len(total))[:, None]
    return np.asarray(total * np.minimum(1.0, EVIDENCE / np.maximum(count, 1)))


def depth_order_along_rays(
    surface: Surface,
    K: np.ndarray,
    T_cam_obj_sfm: np.ndarray,
    vertices_m: np.ndarray,
    masks: Sequence[tuple[Inset, Inset]],
    depth_ratio: np.ndarray,
    margin_px: int,
) -> DepthOrder:
    """The depth order on rays of a posed hand (F, V, 3) m that meet the object, from poses (F, 4, 4) and each frame's masks of hand and object.

    Pixels nearer to a mask's contour than `margin_px` are not used.

    Rays are left out where the surface in question, the front of an object behind the hand, else its back, was not observed.
    """
    found = []
    for k, (vertices, both) in enumerate(zip(vertices_m, masks, strict=True)):
        px = project(vertices, K)
        rows, in_front = front_vertices(vertices, px, both, margin_px)
        found.append((np.full(len(rows), k), rows, vertices[rows, 2], px[rows], in_front))
    frame, vertex, hand_m, seen_px, in_front = (np.concatenate(part) for part in zip(*found, strict=True))
    R, t = T_cam_obj_sfm[frame, :3, :3], T_cam_obj_sfm[frame, :3, 3]
    front, back = surface_depths(surface, K, R, t, seen_px)
    met = np.isfinite(front)
    ray = rays(seen_px[met], K)
    face = np.where(in_front[met], front[met], back[met])[:, None]
    face_obj = np.einsum("mba,mb->ma", R[met], ray * face - t[met])
    observed = surface.kind(face_obj) == Kind.OBSERVED  # at the edges of silhouettes a small displacement of the hand reverses the order
    met[met] = observed
    on_rays = (frame[met], vertex[met], hand_m[met], front[met], back[met], in_front[met])
    return DepthOrder(*on_rays, face_obj[observed], depth_ratio)


def surface_depths(
    surface: Surface, K: np.ndarray, R_cam_obj: np.ndarray, t_cam_obj_sfm: np.ndarray, px: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Depths (M,) of the object's front and back on the rays of pixels (M, 2), in the unit of SfM; NaN where a ray misses it.

    The object's pose is the same for all rays, (3, 3) and (3,), or given per ray, (M, 3, 3) and (M, 3).
    """
    centroid = R_cam_obj @ surface.points.mean(axis=0) + t_cam_obj_sfm
    radius = np.linalg.norm(surface.points - surface.points.mean(axis=0), axis=1).max()
    depth = np.broadcast_to(centroid[..., 2, None] + np.linspace(-radius, radius, STEPS), (len(px), STEPS))
    ray = rays(px, K)
    inside = surface.distance((ray[:, None] * depth[..., None] - t_cam_obj_sfm[..., None, :]) @ R_cam_obj) < 0
    hit = inside.any(axis=1)
    first, last = inside.argmax(axis=1), STEPS - 1 - inside[:, ::-1].argmax(axis=1)
    front, back = (np.take_along_axis(depth, step[:, None], axis=1)[:, 0] for step in (first, last))
    return np.where(hit, front, np.nan), np.where(hit, back, np.nan)


def front_vertices(vertices_m: np.ndarray, px: np.ndarray, masks: tuple[Inset, Inset], margin_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the vertices (V, 3) at `px` (V, 2) that are the hand's front and in the masks of hand or object, and whether in the hand's.

    Pixels up to `margin_px` inside of a mask's contour do not count.
    """
    width, height = masks[0].size
    at = np.round(px).astype(int)
    rows = np.flatnonzero((at >= 0).all(axis=1) & (at < (width, height)).all(axis=1) & (vertices_m[:, 2] > 0))
    cells = at[rows] // CELL_PX
    nearest = np.full((height // CELL_PX + 1, width // CELL_PX + 1), np.inf)
    np.minimum.at(nearest, (cells[:, 1], cells[:, 0]), vertices_m[rows, 2])
    rows = rows[vertices_m[rows, 2] <= nearest[cells[:, 1], cells[:, 0]] + FRONT_M]
    hand, obj = (mask.at(at[rows]) > margin_px for mask in masks)
    kept = np.flatnonzero(hand | obj)
    kept = kept[:: -(-len(kept) // MAX_RAYS) or 1]
    return rows[kept], hand[kept]
