"""Quality metrics of an alignment: flat numbers for gates and loggers, and curves with one value per frame for the report."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from holdprep.align.contact import touching_tips
from holdprep.align.order import POSE_ERROR, DepthOrder, contradicted, depth_order_along_rays
from holdprep.align.problem import OBSERVED, Problem, contact_frames, object_points_sfm
from holdprep.align.residuals import reprojection
from holdprep.align.surface import Surface
from holdprep.align.tracks import HandTrack, joint_deviation_mm
from holdprep.geometry.cameras import project, projection_jacobian
from holdprep.hand.lbs import NUM_JOINTS, HandPoints, HandState, tip_patches
from holdprep.hand.model import Side
from holdprep.hand.outline import size_px

Curves = dict[str, np.ndarray]
CONTACT_MM = 5.0


def hand_track(problem: Problem, side: Side, state: HandState) -> HandTrack:
    """The posed hand as input of the scale estimators, with weights from confidences.

    It holds the frames in which hand and object may touch (a hand that does not hold the object gives no scale), or, if there are
    none, all that show both.
    """
    hand = problem.hands[side]
    touching = contact_frames(problem, side)
    both = touching if bool(touching.any()) else (hand.weight.sum(dim=1) > 0) & (problem.obj_weight > 0)
    patches = tip_patches(hand.model)
    posed = HandPoints.of(hand.model, patches.flatten()).pose(HandState(state.rotations[both], state.betas, state.transl[both]))
    return HandTrack(
        posed.points[:, :NUM_JOINTS].numpy(),
        posed.points[:, NUM_JOINTS:].unflatten(1, patches.shape).numpy(),
        posed.bones[:, 0].numpy(),
        (hand.weight.mean(dim=1) * problem.obj_weight)[both].numpy(),
        _depth_ratio(posed.points[:, :NUM_JOINTS], problem.K, hand.j2d_px[both], hand.weight[both]),
        problem.T_cam_obj[both, :3, :3].numpy(),
        problem.T_cam_obj[both, :3, 3].numpy(),
        both.nonzero()[:, 0].numpy(),
        touching[both].numpy(),
    )


def depth_order_rays(problem: Problem, side: Side, state: HandState, surface: Surface) -> DepthOrder | None:
    """Rays of the pixels that show which of hand and object is in front; None without masks of frames in which they may touch."""
    masks, touching = problem.masks, contact_frames(problem, side).numpy()
    if masks is None or side not in masks.hands or not touching[masks.frame].any():
        return None
    rows = np.flatnonzero(touching[masks.frame])
    at = torch.from_numpy(masks.frame[rows])
    hand = problem.hands[side]
    points = HandPoints.of(hand.model, torch.arange(778)).pose(HandState(state.rotations[at], state.betas, state.transl[at])).points
    ratio = _depth_ratio(points[:, :NUM_JOINTS], problem.K, hand.j2d_px[at], hand.weight[at])
    both = [(masks.hand_insets[side][row], masks.obj_insets[row]) for row in rows]
    margin_px = round(POSE_ERROR * size_px(project(points, problem.K)))
    T_cam_obj, vertices_m = problem.T_cam_obj[at].numpy(), points[:, NUM_JOINTS:].numpy()
    found = depth_order_along_rays(surface, problem.K.numpy(), T_cam_obj, vertices_m, both, ratio, margin_px)
    return replace(found, clip_frame=at.numpy())


def _depth_ratio(joints_m: Tensor, K: Tensor, j2d_px: Tensor, weight: Tensor) -> np.ndarray:
    """(F,) standard error of a hand's depth, as a fraction of it, from the residuals of its keypoints about the joints (F, 21, 3)."""
    error = reprojection(joints_m, K, j2d_px)
    seen = weight > 0
    variance = error.square().sum(dim=-1)[seen].median() / (2 * np.log(2)) if bool(seen.any()) else torch.tensor(np.inf)
    J = projection_jacobian(joints_m, K)
    information = torch.einsum("fj,fjrc,fjrd->fcd", weight, J, J)
    stderr_ratio = variance.sqrt() * torch.linalg.pinv(information)[:, 2, 2].sqrt() / joints_m[..., 2].mean(dim=1)
    return torch.where(seen.any(dim=1), stderr_ratio, torch.inf).numpy()


def hand_metrics(problem: Problem, side: Side, state: HandState, curves: Curves) -> dict[str, float]:
    """Reprojection error over observed joints (median, 95th percentile), number of frames, depth and median jerk, as `<side>.<metric>`.

    Curves (T,) of the reprojection error and of the jerk are added to `curves`.
    """
    hand = problem.hands[side]
    joints = HandPoints.of(hand.model, torch.zeros(0, dtype=torch.long)).pose(state).points
    observed = hand.weight >= min(OBSERVED, float(hand.weight.max()))  # the positions of hidden joints are the tracker's inventions
    observed &= hand.weight > 0
    error = torch.where(observed, reprojection(joints, problem.K, hand.j2d_px).norm(dim=-1), torch.nan)
    curves[f"{side}.reprojection_px"] = error.nanmedian(dim=1).values.numpy()
    curves[f"{side}.jerk_mm"] = jerk_mm(joints.numpy())
    seen = error[observed]
    return {
        f"{side}.reprojection_px": float(seen.median()),
        f"{side}.reprojection_p95_px": float(np.quantile(seen.numpy(), 0.95)),
        f"{side}.frames": float((hand.weight.sum(dim=1) > 0).sum()),
        f"{side}.depth_m": float(joints[:, 0, 2].median()),
        **median_of(curves, f"{side}.jerk_mm"),
    }


def jerk_mm(points_m: np.ndarray) -> np.ndarray:
    """(T,) mean norm of the third difference over time of points (T, N, 3) m, in mm per frame cubed; NaN in the last three frames."""
    result = np.full(len(points_m), np.nan)
    if len(points_m) > 3:
        result[:-3] = 1e3 * np.linalg.norm(np.diff(points_m, n=3, axis=0), axis=-1).mean(axis=1)
    return result


def median_of(curves: Curves, name: str) -> dict[str, float]:
    """The median of a curve's finite values under its own name; empty if there are none."""
    known = curves[name][np.isfinite(curves[name])]
    return {name: float(np.median(known))} if len(known) else {}


def object_metrics(problem: Problem, surface: Surface, scale: float, stderr_ratio: float, curves: Curves) -> dict[str, float]:
    """Scale and its standard error, the cloud's diameter, depth and jerk, and the reprojection error of SfM's observations if given."""
    T = problem.T_cam_obj[problem.obj_weight > 0]
    depth_sfm = T[:, 2, :3] @ torch.from_numpy(surface.points.mean(axis=0)) + T[:, 2, 3]
    result = {
        "object.scale": scale,
        "object.scale_stderr_pct": 100 * stderr_ratio,
        "object.diameter_mm": 1e3 * scale * surface.across,
        "object.depth_m": scale * float(depth_sfm.median()),
    }
    centroid = problem.T_cam_obj @ torch.cat([problem.points_obj.mean(dim=0), torch.ones(1, dtype=torch.float64)])
    curves["object.jerk_mm"] = jerk_mm(scale * centroid[:, None, :3].numpy())
    result |= median_of(curves, "object.jerk_mm")
    if problem.tracks is not None:
        frame, point = problem.tracks.frame, problem.tracks.point
        seen = object_points_sfm(problem).flatten(0, 1)[frame * len(problem.points_obj) + point]
        error = (project(seen, problem.K) - problem.tracks.px).norm(dim=-1)
        result["object.reprojection_px"] = float(error.median())
        curves["object.reprojection_px"] = _frame_medians(error.numpy(), frame.numpy(), problem.num_frames)
    return result


def _frame_medians(values: np.ndarray, frame: np.ndarray, frames: int) -> np.ndarray:
    """(T,) lower median of the values (M,) of each frame (M,), NaN in frames without values."""
    order = np.argsort(frame, kind="stable")
    parts = np.split(values[order], np.searchsorted(frame[order], np.arange(1, frames)))
    return np.array([np.partition(part, (len(part) - 1) // 2)[(len(part) - 1) // 2] if len(part) else np.nan for part in parts])


def contact_metrics(problem: Problem, hands: Mapping[Side, HandState], scale: float, surface: Surface, curves: Curves) -> dict[str, float]:
    """Gap and penetration of the hands and the object's surface: medians over contact frames, and curves of the minimum over hands.

    `contact.gap_mm` is the distance from hand to surface, 0 where the hand is inside; `contact.penetration_mm` the depth of its deepest
    vertex; `contact.fraction_pct` the share of vertices within CONTACT_MM of the surface or inside, a mean over hands and frames;
    `contact.spread_mm` the result of `joint_deviation_mm`. `contact.tips_mm` is the mean distance of the three nearest fingertips to the
    surface, `contact.unobserved_pct` the share of them where the surface is a guess (`Surface.observed`).
    """
    least, tips = np.full(problem.num_frames, np.nan), np.full(problem.num_frames, np.nan)
    fractions, deviations, observed = [], [], list[np.ndarray]()
    for side, state in hands.items():
        frames = np.flatnonzero(contact_frames(problem, side))
        if len(frames):
            track = hand_track(problem, side, state)
            distance_m, known = touching_tips(track, np.arange(len(track.frame)), surface, scale)
            tips[frames] = np.fmin(tips[frames], 1e3 * distance_m.mean(axis=1))
            observed.append(known)
            distance_mm = 1e3 * _vertex_distance_m(problem, side, state, frames, surface, scale)
            least[frames] = np.fmin(least[frames], distance_mm.min(axis=1))
            fractions.append(100 * (distance_mm < CONTACT_MM).mean())
            deviations.append(joint_deviation_mm(track, scale))
    if not deviations:
        return {}
    curves |= {"contact.gap_mm": np.maximum(least, 0), "contact.penetration_mm": np.maximum(-least, 0), "contact.tips_mm": tips}
    found = {
        name: value for curve in ("gap_mm", "penetration_mm", "tips_mm") for name, value in median_of(curves, f"contact.{curve}").items()
    }
    found |= {"contact.fraction_pct": float(np.mean(fractions)), "contact.spread_mm": max(deviations)}
    return found | {"contact.unobserved_pct": 100 * float(1 - np.concatenate(observed).mean())}


def order_metrics(problem: Problem, hands: Mapping[Side, HandState], scale: float, surface: Surface) -> dict[str, float]:
    """`<side>.contradicted_pct`: share of the pixels with visible depth order in which the alignment has the other order.

    Left out where there are no masks, or where such pixels are no evidence (`DepthOrder.is_evidence`).
    """
    orders = {side: depth_order_rays(problem, side, state, surface) for side, state in hands.items()}
    return {
        f"{side}.contradicted_pct": 100 * float(contradicted(order, scale).mean())
        for side, order in orders.items()
        if order is not None and order.is_evidence
    }


def behind_camera_frames(problem: Problem, hands: Mapping[Side, HandState]) -> float:
    """Number of frames in which a joint of a visible hand has no positive depth."""
    behind = torch.zeros(problem.num_frames, dtype=torch.bool)
    for side, state in hands.items():
        hand = problem.hands[side]
        joints = HandPoints.of(hand.model, torch.zeros(0, dtype=torch.long)).pose(state).points
        behind |= (joints[..., 2] <= 0).any(dim=1) & (hand.weight.sum(dim=1) > 0)
    return float(behind.sum())


def _vertex_distance_m(problem: Problem, side: Side, state: HandState, frames: np.ndarray, surface: Surface, scale: float) -> np.ndarray:
    """(F, 778) m, signed distance of the hand's vertices to the surface."""
    at = torch.from_numpy(frames)
    # single precision: errors of about 1e-4 mm
    vertices = HandPoints.of(problem.hands[side].model, torch.arange(778)).to(torch.float32)
    some = HandState(state.rotations[at].float(), state.betas.float(), state.transl[at].float())
    T = problem.T_cam_obj[at].float()
    local = (vertices.pose(some).points[:, NUM_JOINTS:] / scale - T[:, None, :3, 3]) @ T[:, :3, :3]
    return scale * surface.distance(local.numpy())
