"""Scale from depth maps, used as relative depth of hand and object within a frame.

In each frame the maps' gain follows from the hand, whose depth is metric, and from the object, whose depth is known up to the scale; the ratio
of these gains is the scale. A network's metres are thus never used, and its gain may change from frame to frame.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from holdprep.align.order import POSE_ERROR, front_vertices, surface_depths
from holdprep.align.problem import Problem, contact_frames
from holdprep.align.surface import Surface
from holdprep.align.tracks import ScaleEstimate, resampled_counts
from holdprep.geometry.cameras import project
from holdprep.geometry.noise import NORMAL_MAD
from holdprep.geometry.rigid import apply
from holdprep.geometry.silhouettes import Inset
from holdprep.hand.lbs import NUM_JOINTS, HandPoints, HandState
from holdprep.hand.model import Side
from holdprep.hand.outline import size_px

MAX_POINTS = 300  # of the cloud, in a frame
MIN_PIXELS = 8  # of the hand, and of the object, in a frame that counts
MIN_FRAMES = 5
FRONT = 0.04  # of the diameter: largest distance of a visible point of the cloud behind the surface's front
SYSTEMATIC = (
    0.05  # of the log scale: error of a map between hand and object that all frames share; a guess, no network's maps were measured
)
INDEPENDENT = 8  # frames that a clip counts as: errors change slowly
MAX_SPREAD = 0.15  # standard deviation between frames, by the median absolute deviation
SLOPES = (0.4, 2.0)  # of log values over log depth on the object: 1 is a depth map, -1 an inverse one, 0 noise
CLIP = 0.3  # of log values about a frame's median


@dataclass(frozen=True)
class DepthRatios:
    """Frames (F,) of the clip with their log scale by the depth map; `slope` is that of log values over log depth on the object's points."""

    frame: np.ndarray
    log_scale: np.ndarray
    slope: float


def depth_ratios(problem: Problem, side: Side, state: HandState, surface: Surface) -> DepthRatios | None:
    """What the depth maps of frames with contact say of a posed hand and the object; None without maps or masks of them."""
    masks, touching = problem.masks, contact_frames(problem, side).numpy()
    if masks is None or masks.depth is None or side not in masks.hands:
        return None
    rows = np.flatnonzero(touching[masks.frame])
    at = torch.from_numpy(masks.frame[rows])
    some = HandState(state.rotations[at], state.betas, state.transl[at])
    vertices_m = HandPoints.of(problem.hands[side].model, torch.arange(778)).pose(some).points[:, NUM_JOINTS:]
    margin_px = round(POSE_ERROR * size_px(project(vertices_m, problem.K))) if len(rows) else 0
    points, frames, log_scale, relief = surface.points[:: -(-len(surface.points) // MAX_POINTS)], [], [], []
    for row, t, vertices in zip(rows, at.tolist(), vertices_m.numpy(), strict=True):
        hand = _hand_gain(problem, vertices, (masks.hand_insets[side][row], masks.obj_insets[row]), masks.depth[row], margin_px)
        depth_sfm, value = _object_values(problem, t, surface, points, (masks.obj_insets[row], masks.depth[row]), margin_px)
        if hand is None or len(value) < MIN_PIXELS:
            continue
        gain = np.log(value) - np.log(depth_sfm)
        frames.append(t)
        log_scale.append(np.median(gain) - hand)
        relief.append(np.stack([np.log(depth_sfm / np.median(depth_sfm)), np.log(value / np.median(value)).clip(-CLIP, CLIP)]))
    if not frames:
        return DepthRatios(np.zeros(0, int), np.zeros(0), np.nan)
    x, y = np.concatenate(relief, axis=1)
    return DepthRatios(np.array(frames), np.array(log_scale), float(x @ y / max(float(x @ x), 1e-12)))


def depth_maps(ratios: Mapping[Side, DepthRatios], around: float, seed: int = 0) -> ScaleEstimate:
    """The median scale over frames; rejected where maps are no depth maps, or contradict each other.

    The standard error is the larger of a block bootstrap's and that of INDEPENDENT frames, and the systematic one. A rejected estimate
    without any frame has the scale `around`.
    """
    known = [r for r in ratios.values() if len(r.frame)]
    count = sum(len(r.frame) for r in known)
    if count < MIN_FRAMES:
        return ScaleEstimate("depth_maps", around, float("inf"), f"hand and object have depth in {count} frames (at least {MIN_FRAMES})")
    logs = np.concatenate([r.log_scale for r in known])
    order = np.argsort(logs)
    counts = resampled_counts([len(r.frame) for r in known], seed)[:, order].cumsum(axis=1)
    medians = logs[order][(counts >= 0.5 * counts[:, -1:]).argmax(axis=1)]
    centre = float(np.median(logs))
    spread = float(np.median(np.abs(logs - centre))) / NORMAL_MAD
    sampling = max(float(np.std(medians[1:])), spread / np.sqrt(min(count, INDEPENDENT)))
    slope = float(np.average([r.slope for r in known], weights=[len(r.frame) for r in known]))
    rejection = ""
    if not SLOPES[0] <= slope <= SLOPES[1]:
        rejection = f"their values are not proportional to the object's depth (exponent {slope:.2f}, between {SLOPES[0]} and {SLOPES[1]})"
    elif spread > MAX_SPREAD:
        rejection = f"frames differ by {100 * spread:.0f} % (at most {100 * MAX_SPREAD:.0f})"
    figures = {"frames": float(count), "spread_pct": 100 * spread, "exponent": slope}
    return ScaleEstimate("depth_maps", float(np.exp(centre)), float(np.hypot(sampling, SYSTEMATIC)), rejection, figures)


def _hand_gain(problem: Problem, vertices_m: np.ndarray, masks: tuple[Inset, Inset], depth: np.ndarray, margin_px: int) -> float | None:
    """Logarithm of a map's value by the hand's depth (m), median over visible skin; None where too little is visible."""
    px = project(vertices_m, problem.K.numpy())
    rows, is_hand = front_vertices(vertices_m, px, masks, margin_px)
    column, row = np.round(px[rows[is_hand]]).astype(int).T
    value = depth[row, column].astype(float)
    known = value > 0
    return float(np.median(np.log(value[known] / vertices_m[rows[is_hand], 2][known]))) if known.sum() >= MIN_PIXELS else None


def _object_values(
    problem: Problem, t: int, surface: Surface, points: np.ndarray, views: tuple[Inset, np.ndarray], margin_px: int
) -> tuple[np.ndarray, np.ndarray]:
    """Depths (unit of SfM) and the map's values (M,) of the cloud's points (N, 3) that a frame shows; `views` are its object's mask and map."""
    mask, depth = views
    T, K = problem.T_cam_obj[t].numpy(), problem.K.numpy()
    seen = apply(T, points)
    px = project(seen, K)
    at = np.round(px).astype(int)
    inside = np.flatnonzero((at >= 0).all(axis=1) & (at < mask.size).all(axis=1) & (seen[:, 2] > 0))
    inside = inside[mask.at(at[inside]) > margin_px]
    front, _ = surface_depths(surface, K, T[:3, :3], T[:3, 3], px[inside])
    inside = inside[np.abs(seen[inside, 2] - front) < FRONT * surface.diameter]  # NaN beside the surface
    value = depth[at[inside, 1], at[inside, 0]].astype(float)
    return seen[inside, 2][value > 0], value[value > 0]
