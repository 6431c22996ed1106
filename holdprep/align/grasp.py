"""Scale from a rigid grasp: while the hand stands still in the object's frame, h_i = s t_i + R_i g is linear in the scale s and the place g.

The clip is cut where the hand turns in the object's frame, which no scale enters: every still stretch has its own g, so that a new
grip does not spoil the old ones, and an object that is turned in the fingers all the time leaves no stretch at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import roma
import torch

from holdprep.align.tracks import HandTrack, ScaleEstimate, angles_deg, joint_spread_mm, resampled_counts
from holdprep.hand.model import Side

WINDOW = 5  # frames before and after, whose mean turns are compared
MOVING_DEG = 4.0  # between those means: the hand is moving in the object's frame
MOVING_SIGMAS = 3.0  # or so many times what the trackers' noise explains, where that is more
MIN_FRAMES = 8  # of a still stretch
MAX_TURN_DEG = 8.0  # within one still stretch, slow as it may be
MAX_SPREAD_MM = 20.0  # joints in the object's frame: 9-13 mm in static grasps, 37-52 turned in the fingers
MAX_STDERR = 0.05  # a rigid grasp that was hardly turned says nothing about scale
DEPTH_NOISE_RATIO = 3.0  # a hand's depth is that much less certain than its place across the ray
SYSTEMATIC = 0.005  # size of its errors on rendered sequences, beyond its scatter
SLIP_SYSTEMATIC = 0.08  # and, where the hand turns on the object while the object turns, so much of the ratio of the two
MAX_SLIP = 0.3  # of those turns
ROUNDS = 15
MIN_DRIFT_M = 0.0005


def rigid_grasp(tracks: Mapping[Side, HandTrack], seed: int = 0) -> ScaleEstimate:
    """Scale and each stretch's place by iteratively reweighted least squares (Geman-McClure, three times the median residual), depth
    weighed down. Its doubts: no still stretch, joints that wander on the object all the same, too little turn."""
    stretches = [(side, rows) for side, track in tracks.items() for rows in static_stretches(track)]
    if not stretches:
        return ScaleEstimate("rigid_grasp", float("nan"), float("inf"), "the hand never stands still in the object's frame")
    parts = [_part(tracks[side], rows) for side, rows in stretches]
    rows, right = _grasp_equations(parts)
    weight = np.concatenate([part.weight for part in parts])
    robust = np.ones_like(weight)
    for _ in range(ROUNDS):
        normal = np.einsum("f,fra,frb->fab", weight * robust, rows, rows)
        vector = np.einsum("f,fra,fr->fa", weight * robust, rows, right)
        solution = np.linalg.lstsq(normal.sum(axis=0), vector.sum(axis=0), rcond=None)[0]
        residual = np.linalg.norm(right - rows @ solution, axis=1)
        sigma = max(3 * float(np.median(residual)), 1e-6)
        robust = (sigma**2 / (sigma**2 + residual**2)) ** 2
    scale = float(solution[0])
    counts = resampled_counts([len(part.weight) for part in parts], seed)[1:]
    ridge = 1e-12 * np.trace(normal.sum(axis=0)) * np.eye(len(solution))
    resampled = np.linalg.solve(np.tensordot(counts, normal, axes=1) + ridge, np.tensordot(counts, vector, axes=1)[..., None])[:, 0, 0]
    scatter = max(float(np.std(resampled)), _formal_stderr(normal.sum(axis=0) + ridge, weight * robust, residual))
    slip = _slip(parts)
    stderr = float(np.linalg.norm([scatter / abs(scale), SYSTEMATIC, SLIP_SYSTEMATIC * slip]))
    spread_mm = float(np.average([joint_spread_mm(part, scale) for part in parts], weights=[len(part.weight) for part in parts]))
    share = 100 * len(weight) / sum(len(t.weight) for t in tracks.values())
    figures = {"spread_mm": spread_mm, "stretches": float(len(parts)), "still_pct": share, "slip_pct": 100 * slip}
    return ScaleEstimate("rigid_grasp", scale, stderr, _doubt(scale, spread_mm, stderr, slip), figures)


def static_stretches(track: HandTrack) -> list[np.ndarray]:
    """Rows of the track in which the hand keeps its turn in the object's frame, a stretch each; gaps of frames cut, too."""
    R = torch.from_numpy(track.R_obj_hand)
    sums = torch.cat([torch.zeros(1, 3, 3, dtype=R.dtype), R.cumsum(dim=0)])
    at = np.arange(len(R))
    before, after = np.maximum(at - WINDOW, 0), np.minimum(at + WINDOW + 1, len(R))
    first, second, around = sums[at + 1] - sums[before], sums[after] - sums[at], sums[after] - sums[before]
    moved = angles_deg(roma.special_procrustes(first).numpy(), roma.special_procrustes(second).numpy())
    smooth = roma.special_procrustes(around).numpy()
    noise = float(np.median(angles_deg(track.R_obj_hand, smooth)))
    still = moved < max(MOVING_DEG, MOVING_SIGMAS * noise * np.sqrt(2 / WINDOW))
    broken = np.concatenate([[True], ~(still[1:] & still[:-1]) | (np.diff(track.frame) > WINDOW)])
    runs = [rows[still[rows]] for rows in np.split(at, np.flatnonzero(broken)[1:])]
    return [rows for rows in runs if len(rows) >= MIN_FRAMES and _turn_deg(smooth[rows]) <= MAX_TURN_DEG]


@dataclass(frozen=True)
class Grasps:
    """Where a hand stands still on the object: `stretches` of frames with the place (3,) m of its middle in the object's metric frame, and
    `drift_m`, the standard deviation of a coordinate about it."""

    stretches: list[tuple[np.ndarray, np.ndarray]]
    drift_m: float


def static_grasps(track: HandTrack, scale: float) -> Grasps | None:
    """The still stretches under a scale, None without any. Wandering is told across the viewing ray, where keypoints are certain: the median
    squared length of a two-dimensional Gaussian is 2 ln(2) times its variance."""
    middle = track.joints_m.mean(axis=1)
    away = middle - scale * track.t_cam_obj_sfm
    local = np.einsum("fba,fb->fa", track.R_cam_obj, away)
    stretches, across = [], []
    for rows in static_stretches(track):
        place = np.median(local[rows], axis=0)
        left = away[rows] - track.R_cam_obj[rows] @ place
        ray = middle[rows] / np.linalg.norm(middle[rows], axis=1, keepdims=True)
        across.append(np.square(left).sum(axis=1) - np.square((left * ray).sum(axis=1)))
        stretches.append((track.frame[rows], place))
    if not stretches:
        return None
    return Grasps(stretches, max(float(np.sqrt(np.median(np.concatenate(across)) / (2 * np.log(2)))), MIN_DRIFT_M))


def _turn_deg(R: np.ndarray) -> float:
    """Greatest angle of smoothed turns (F, 3, 3) to their mean."""
    return float(angles_deg(R, roma.special_procrustes(torch.from_numpy(R.mean(axis=0))).numpy()).max())


def _part(track: HandTrack, rows: np.ndarray) -> HandTrack:
    return HandTrack(**{name: value[rows] for name, value in vars(track).items()})


def _grasp_equations(parts: list[HandTrack]) -> tuple[np.ndarray, np.ndarray]:
    """Rows (F, 3, 1 + 3 parts) and right sides (F, 3), weighed down along the viewing ray."""
    rows, right = [], []
    for n, part in enumerate(parts):
        hand = part.joints_m.mean(axis=1)
        ray = hand / np.linalg.norm(hand, axis=1, keepdims=True)
        whiten = np.eye(3) - (1 - 1 / DEPTH_NOISE_RATIO) * ray[:, :, None] * ray[:, None]
        row = np.zeros((len(hand), 3, 1 + 3 * len(parts)))
        row[..., :1] = whiten @ part.t_cam_obj_sfm[..., None]
        row[..., 1 + 3 * n : 4 + 3 * n] = whiten @ part.R_cam_obj
        rows.append(row)
        right.append((whiten @ hand[..., None])[..., 0])
    return np.concatenate(rows), np.concatenate(right)


def _formal_stderr(normal: np.ndarray, weight: np.ndarray, residual: np.ndarray) -> float:
    """Least squares' own standard error of the first unknown: a bootstrap of few frames believes too much."""
    freedom = max(3 * weight.sum() ** 2 / np.square(weight).sum() - len(normal), 1.0)
    variance = (weight * residual**2).sum() / freedom
    return float(np.sqrt(variance * np.linalg.inv(normal)[0, 0]))


def _slip(parts: list[HandTrack]) -> float:
    """How far the hand turns on the object by how far the object turns, from the first quarters of all stretches to their last ones."""
    turned = [[_turned_deg(part.R_obj_hand), _turned_deg(part.R_cam_obj)] for part in parts]
    on_object, in_camera = np.sum(turned, axis=0)
    return float(on_object / max(in_camera, 1e-6))


def _turned_deg(R: np.ndarray) -> float:
    quarter = max(3, len(R) // 4)
    first, last = (roma.special_procrustes(torch.from_numpy(r.mean(axis=0))).numpy() for r in (R[:quarter], R[-quarter:]))
    return float(angles_deg(first, last))


def _doubt(scale: float, spread_mm: float, stderr: float, slip: float) -> str:
    if scale <= 0:
        return "its scale is not positive"
    if spread_mm > MAX_SPREAD_MM:
        return f"joints wander {spread_mm:.0f} mm on the object (at most {MAX_SPREAD_MM:.0f})"
    if slip > MAX_SLIP:
        return f"the hand turns on the object by {100 * slip:.0f} % of the object's own turn (at most {100 * MAX_SLIP:.0f})"
    if stderr > MAX_STDERR:
        return f"standard error {100 * stderr:.0f} % (at most {100 * MAX_STDERR:.0f}): the object is hardly turned"
    return ""
