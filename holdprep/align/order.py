"""Scale from depth order: where a hand hides the object it is nearer than the object's front, where it is hidden it is beyond its back.

Along a pixel's ray the object's front and back lie at depths that SfM knows up to the scale; so every such pixel bounds the scale from one
side. Thumb before and fingers behind the object bound it from both.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.special import log_ndtr

from holdprep.align.surface import Surface
from holdprep.align.tracks import ScaleEstimate, parabola_maximum, resampled_counts
from holdprep.geometry.cameras import project
from holdprep.hand.model import Side

CELL_PX = 8  # of the depth buffer that finds the hand's front
FRONT_M = 0.008  # of the hand's front: skin no farther behind it
INSIDE_PX = 7  # width of the window that must lie in a mask: contours and keypoints err
STEPS = 48  # along a ray
MAX_RAYS = 36  # of a frame, evenly over the hand: three times what it may say
EVIDENCE = 12.0  # pixels' worth that one frame may say: neighbours see the same thing
OUTLIER_SHARE = 0.1  # of pixels with a wrong order
SHARP_M = 0.004  # how well skin and surface are known
SYSTEMATIC = 0.03
MAX_STDERR = 0.1
RANGE, STEP = (-0.35, 0.25), 0.01  # log scale searched


@dataclass(frozen=True)
class DepthOrder:
    """Rays (M,) of one hand: `frame` their frame's place among the F asked, `hand_m` the skin's depth, `front_sfm` and `back_sfm` the
    object's there, `before` whether the hand is seen. `depth_ratio` (F,): the frames' depth errors."""

    frame: np.ndarray
    hand_m: np.ndarray
    front_sfm: np.ndarray
    back_sfm: np.ndarray
    before: np.ndarray
    depth_ratio: np.ndarray


def depth_order(orders: Mapping[Side, DepthOrder], around: float, seed: int = 0) -> ScaleEstimate:
    """The scale that fewest rays contradict, searched about `around`; its doubts: bounds from one side only, or none."""
    sided = [side for side in (True, False) if any((o.before == side).any() for o in orders.values())]
    if len(sided) < 2:
        one = "the hand is never seen before the object" if sided == [False] else "the object never hides the hand"
        return ScaleEstimate("depth_order", around, float("inf"), one if sided else "no pixel shows hand and object one before the other")
    log_scales = np.arange(RANGE[0], RANGE[1] + STEP / 2, STEP)
    curves = [_frame_curves(o, np.log(around) + log_scales) for o in orders.values()]
    totals = resampled_counts([len(c) for c in curves], seed) @ np.concatenate(curves)
    found = np.array([parabola_maximum(log_scales, total) for total in totals])
    chance = np.exp(totals[0] - totals[0].max())
    spread = np.sqrt(np.average((log_scales - found[0]) ** 2, weights=chance))
    scale, stderr = float(around * np.exp(found[0])), float(np.linalg.norm([max(np.std(found[1:]), spread), SYSTEMATIC]))
    wrong = np.concatenate([contradicted(o, scale) for o in orders.values()]).mean()
    doubt = "its best scale lies at the end of the range searched" if totals[0].argmax() in (0, len(log_scales) - 1) else ""
    if stderr > MAX_STDERR:
        doubt = doubt or f"standard error {100 * stderr:.0f} % (at most {100 * MAX_STDERR:.0f})"
    return ScaleEstimate("depth_order", scale, stderr, doubt, {"contradicted_pct": 100 * float(wrong)})


def contradicted(order: DepthOrder, scale: float) -> np.ndarray:
    """(M,) rays whose hand lies on the other side of the object than is seen, by more than skin and surface are uncertain."""
    return np.asarray(_margin(order, np.log([scale]))[:, 0] * order.hand_m < -SHARP_M)


def _margin(order: DepthOrder, log_scales: np.ndarray) -> np.ndarray:
    """(M, S) by how much of its depth a ray's hand lies on the side on which it is seen."""
    front, back = (np.log(order.hand_m / depth)[:, None] - log_scales for depth in (order.front_sfm, order.back_sfm))
    return np.where(order.before[:, None], -front, back)


def _frame_curves(order: DepthOrder, log_scales: np.ndarray) -> np.ndarray:
    """(F, S) log-likelihoods: the mean over a frame's rays, worth at most EVIDENCE of them, blurred by the frame's depth error."""
    width = np.hypot(order.depth_ratio[order.frame], SHARP_M / order.hand_m)[:, None]
    each = np.logaddexp(np.log(1 - OUTLIER_SHARE) + log_ndtr(_margin(order, log_scales) / width), np.log(OUTLIER_SHARE))
    total = np.zeros((len(order.depth_ratio), len(log_scales)))
    np.add.at(total, order.frame, each)
    count = np.bincount(order.frame, minlength=len(total))[:, None]
    return np.asarray(total * np.minimum(1.0, EVIDENCE / np.maximum(count, 1)))


def along_rays(
    surface: Surface,
    K: np.ndarray,
    T_cam_obj_sfm: np.ndarray,
    vertices_m: np.ndarray,
    masks: tuple[np.ndarray, np.ndarray],
    depth_ratio: np.ndarray,
) -> DepthOrder:
    """The rays of a posed hand (F, V, 3) that meet the object, posed by (F, 4, 4), with the masks (F, H, W) of hand and object."""
    found = []
    for k, (vertices, hand, thing) in enumerate(zip(vertices_m, *masks, strict=True)):
        px = project(vertices, K)
        rows, before = seen_rays(vertices, px, hand, thing)
        found.append((np.full(len(rows), k), vertices[rows, 2], px[rows], before))
    frame, hand_m, seen_px, is_before = (np.concatenate(part) for part in zip(*found, strict=True))
    front, back = rays_through(surface, K, T_cam_obj_sfm[frame, :3, :3], T_cam_obj_sfm[frame, :3, 3], seen_px)
    met = np.isfinite(front)
    return DepthOrder(frame[met], hand_m[met], front[met], back[met], is_before[met], depth_ratio)


def rays_through(
    surface: Surface, K: np.ndarray, R_cam_obj: np.ndarray, t_cam_obj_sfm: np.ndarray, px: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Depths (M,) at which the rays of pixels (M, 2) enter and leave the object for good, in the unit of SfM; NaN where they miss it.

    The object's pose is one for all rays, (3, 3) and (3,), or each one's own, (M, 3, 3) and (M, 3).
    """
    middle = R_cam_obj @ surface.points.mean(axis=0) + t_cam_obj_sfm
    radius = np.linalg.norm(surface.points - surface.points.mean(axis=0), axis=1).max()
    depth = np.broadcast_to(middle[..., 2, None] + np.linspace(-radius, radius, STEPS), (len(px), STEPS))
    ray = np.concatenate([px, np.ones((len(px), 1))], axis=1) @ np.linalg.inv(K).T
    inside = surface.distance((ray[:, None] * depth[..., None] - t_cam_obj_sfm[..., None, :]) @ R_cam_obj) < 0
    hit = inside.any(axis=1)
    first, last = inside.argmax(axis=1), STEPS - 1 - inside[:, ::-1].argmax(axis=1)
    front, back = (np.take_along_axis(depth, step[:, None], axis=1)[:, 0] for step in (first, last))
    return np.where(hit, front, np.nan), np.where(hit, back, np.nan)


def seen_rays(vertices_m: np.ndarray, px: np.ndarray, hand_mask: np.ndarray, object_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which vertices (V, 3) at `px` (V, 2) are the hand's front there, well within a mask (H, W): their rows, and whether the hand's."""
    height, width = hand_mask.shape
    at = np.round(px).astype(int)
    rows = np.flatnonzero((at >= 0).all(axis=1) & (at < (width, height)).all(axis=1) & (vertices_m[:, 2] > 0))
    cells = at[rows] // CELL_PX
    nearest = np.full((height // CELL_PX + 1, width // CELL_PX + 1), np.inf)
    np.minimum.at(nearest, (cells[:, 1], cells[:, 0]), vertices_m[rows, 2])
    rows = rows[vertices_m[rows, 2] <= nearest[cells[:, 1], cells[:, 0]] + FRONT_M]
    hand, thing = (_well_inside(mask, at[rows]) for mask in (hand_mask, object_mask))
    kept = np.flatnonzero(hand | thing)
    kept = kept[:: -(-len(kept) // MAX_RAYS) or 1]
    return rows[kept], hand[kept]


def _well_inside(mask: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(M,) whether the whole window about each of the pixels `at` (M, 2) lies in a mask (H, W), as far as it lies in the picture."""
    if not len(at):
        return np.zeros(0, bool)
    x, y = np.maximum(at.min(axis=0) - INSIDE_PX, 0)
    right, bottom = at.max(axis=0) + INSIDE_PX + 1
    eroded = cv2.erode(mask[y:bottom, x:right].astype(np.uint8), np.ones((INSIDE_PX, INSIDE_PX), np.uint8))
    return eroded[at[:, 1] - y, at[:, 0] - x] > 0
