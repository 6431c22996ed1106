"""Scale from a rigid grasp: a static hand in the object's frame gives h_i = s t_i + R_i g, linear in scale s and position g.

The clip is split where the hand rotates in the object's frame; this rotation does not depend on the scale. Every static stretch
has its own g, so that a change of grip does not affect the other stretches. A clip in which the object rotates in the fingers
all the time has no static stretch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import roma
import torch

from holdprep.align.tracks import HandTrack, ScaleEstimate, angles_deg, joint_deviation_mm, resampled_counts
from holdprep.hand.model import Side

WINDOW = 5  # frames before and after, whose mean rotations are compared
MOVING_DEG = 4.0  # angle between these means above which the hand moves in the object's frame
MOVING_SIGMAS = 3.0  # or this many standard deviations of the trackers' noise, where that is larger
MIN_FRAMES = 8  # of a static stretch
MAX_ROTATION_DEG = 8.0  # within one static stretch, at any speed
MAX_DEVIATION_MM = 20.0  # of joints in the object's frame: 9-13 mm in static grasps, 37-52 where the object rotates in the fingers
MAX_STDERR = 0.05  # with too little rotation of the object, a rigid grasp does not determine the scale
DEPTH_NOISE_RATIO = 3.0  # standard error of a hand's depth by that of its position across the ray
SYSTEMATIC = 0.005  # systematic error on rendered sequences, as a fraction of the scale
SLIP_SYSTEMATIC = 0.08  # further systematic error per unit of slip, see `_slip`
MAX_SLIP = 0.3  # rotation of the hand on the object by rotation of the object
ROUNDS = 15
MIN_DRIFT_M = 0.0005


def rigid_grasp(tracks: Mapping[Side, HandTrack], seed: int = 0) -> ScaleEstimate:
    """Scale and one position per stretch by iteratively reweighted least squares, with less weight along the viewing ray.

    The weights are Geman-McClure's, of a width of three median residuals. The estimate is rejected without a static stretch, where the
    joints move on the object nevertheless, and where the object rotates too little.
    """
    stretches = [(side, rows) for side, track in tracks.items() for rows in static_stretches(track)]
    if not stretches:
        return ScaleEstimate("rigid_grasp", float("nan"), float("inf"), "the hand is never static in the object's frame")
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
    sampling_std = max(float(np.std(resampled)), _formal_stderr(normal.sum(axis=0) + ridge, weight * robust, residual))
    slip = _slip(parts)
    stderr = float(np.linalg.norm([sampling_std / abs(scale), SYSTEMATIC, SLIP_SYSTEMATIC * slip]))
    deviation_mm = float(np.average([joint_deviation_mm(part, scale) for part in parts], weights=[len(part.weight) for part in parts]))
    share = 100 * len(weight) / sum(len(t.weight) for t in tracks.values())
    figures = {"spread_mm": deviation_mm, "stretches": float(len(parts)), "still_pct": share, "slip_pct": 100 * slip}
    return ScaleEstimate("rigid_grasp", scale, stderr, _rejection(scale, deviation_mm, stderr, slip), figures)


def static_stretches(track: HandTrack) -> list[np.ndarray]:
    """Rows of the track in which the hand's rotation in the object's frame is constant, one array per stretch; gaps of frames split too."""
    R = torch.from_numpy(track.R_obj_hand)
    sums = torch.cat([torch.zeros(1, 3, 3, dtype=R.dtype), R.cumsum(dim=0)])
    at = np.arange(len(R))
    before, after = np.maximum(at - WINDOW, 0), np.minimum(at + WINDOW + 1, len(R))
    first, second, around = sums[at + 1] - sums[before], sums[after] - sums[at], sums[after] - sums[before]
    moved = angles_deg(roma.special_procrustes(first).numpy(), roma.special_procrustes(second).numpy())
    smooth = roma.special_procrustes(around).numpy()
    noise = float(np.median(angles_deg(track.R_obj_hand, smooth)))
    static = moved < max(MOVING_DEG, MOVING_SIGMAS * noise * np.sqrt(2 / WINDOW))
    broken = np.concatenate([[True], ~(static[1:] & static[:-1]) | (np.diff(track.frame) > WINDOW)])
    runs = [rows[static[rows]] for rows in np.split(at, np.flatnonzero(broken)[1:])]
    return [rows for rows in runs if len(rows) >= MIN_FRAMES and _rotation_range_deg(smooth[rows]) <= MAX_ROTATION_DEG]


@dataclass(frozen=True)
class Grasps:
    """Static stretches of a hand on the object.

    `stretches` are pairs of frame numbers and the position (3,) m of the hand's centroid in the object's metric frame; `drift_m` is
    the standard deviation of one coordinate about it.
    """

    stretches: list[tuple[np.ndarray, np.ndarray]]
    drift_m: float


def static_grasps(track: HandTrack, scale: float) -> Grasps | None:
    """The static stretches under a scale; None if there are none.

    The drift is measured across the viewing ray, where keypoints are accurate: the median squared length of a two-dimensional Gaussian
    is 2 ln(2) times its variance.
    """
    centroid = track.joints_m.mean(axis=1)
    away = centroid - scale * track.t_cam_obj_sfm
    local = np.einsum("fba,fb->fa", track.R_cam_obj, away)
    stretches, across = [], []
    for rows in static_stretches(track):
        position = np.median(local[rows], axis=0)
        left = away[rows] - track.R_cam_obj[rows] @ position
        ray = centroid[rows] / np.linalg.norm(centroid[rows], axis=1, keepdims=True)
        across.append(np.square(left).sum(axis=1) - np.square((left * ray).sum(axis=1)))
        stretches.append((track.frame[rows], position))
    if not stretches:
        return None
    return Grasps(stretches, max(float(np.sqrt(np.median(np.concatenate(across)) / (2 * np.log(2)))), MIN_DRIFT_M))


def _rotation_range_deg(R: np.ndarray) -> float:
    """Largest angle (degrees) between smoothed rotations (F, 3, 3) and their mean."""
    return float(angles_deg(R, roma.special_procrustes(torch.from_numpy(R.mean(axis=0))).numpy()).max())


def _part(track: HandTrack, rows: np.ndarray) -> HandTrack:
    return HandTrack(**{name: value[rows] for name, value in vars(track).items()})


def _grasp_equations(parts: list[HandTrack]) -> tuple[np.ndarray, np.ndarray]:
    """Rows (F, 3, 1 + 3 parts) and right sides (F, 3) of the linear system, with less weight along the viewing ray."""
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
    """Standard error of the first unknown by least squares; a bootstrap of few frames underestimates it."""
    freedom = max(3 * weight.sum() ** 2 / np.square(weight).sum() - len(normal), 1.0)
    variance = (weight * residual**2).sum() / freedom
    return float(np.sqrt(variance * np.linalg.inv(normal)[0, 0]))


def _slip(parts: list[HandTrack]) -> float:
    """Rotation of the hand on the object by rotation of the object, each summed over stretches, from first to last quarter."""
    angles = [[_rotation_deg(part.R_obj_hand), _rotation_deg(part.R_cam_obj)] for part in parts]
    on_object, in_camera = np.sum(angles, axis=0)
    return float(on_object / max(in_camera, 1e-6))


def _rotation_deg(R: np.ndarray) -> float:
    quarter = max(3, len(R) // 4)
    first, last = (roma.special_procrustes(torch.from_numpy(r.mean(axis=0))).numpy() for r in (R[:quarter], R[-quarter:]))
    return float(angles_deg(first, last))


def _rejection(scale: float, deviation_mm: float, stderr: float, slip: float) -> str:
    if scale <= 0:
        return "its scale is not positive"
    if deviation_mm > MAX_DEVIATION_MM:
        return f"joints move {deviation_mm:.0f} mm on the object (at most {MAX_DEVIATION_MM:.0f})"
    if slip > MAX_SLIP:
        return f"the hand rotates on the object by {100 * slip:.0f} % of the object's rotation (at most {100 * MAX_SLIP:.0f})"
    if stderr > MAX_STDERR:
        return f"standard error {100 * stderr:.0f} % (at most {100 * MAX_STDERR:.0f}): the object hardly rotates"
    return ""
