"""Estimators of the object's metric scale, each with a standard error and its own doubts, and `auto`, which weighs them.

The object keeps its SfM trajectory, x_cam_m = scale * (R x + t), so that one number decides both its size and its depth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import roma
import torch
from scipy.spatial import cKDTree

from holdprep.errors import HoldprepError
from holdprep.hand.model import Side

Estimator = Literal["centroid", "rigid_grasp", "contact"]
Choice = Literal["auto", "centroid", "rigid_grasp", "contact"]
ESTIMATORS: tuple[Estimator, ...] = ("centroid", "rigid_grasp", "contact")

# What an estimator is off by beyond its scatter, as a fraction: the size of its errors on rendered sequences with known truth.
SYSTEMATIC = {"centroid": 0.05, "rigid_grasp": 0.005, "contact": 0.03}
MAX_SPREAD_MM = 20.0  # joints in the object's frame: 9-13 mm in static grasps, 28 with regrasps, 37-52 turned in the fingers
MAX_TURN_DEG = 15.0  # of the hand in the object's frame; unlike the spread it does not depend on the scale
MAX_STDERR = 0.05  # a rigid grasp that was hardly turned says nothing about scale
TOUCHING_TIPS = 3  # fingertips that a grasp needs
DEPTH_NOISE_RATIO = 3.0  # a hand's depth is that much less certain than its place across the ray
CONTACT_FRAMES = 48
CONTACT_RANGE = 0.25
BOOTSTRAP_ROUNDS = 60
BOOTSTRAP_BLOCKS = 20


@dataclass(frozen=True)
class HandTrack:
    """A posed hand in the frames (F,) that show hand and object together; numpy float64, metres, camera frame.

    `joints_m` (F, 21, 3), `tips_m` (F, 5, V, 3) skin around the fingertips, `R_cam_hand` (F, 3, 3), `weight` (F,).
    `R_cam_obj` (F, 3, 3), `t_cam_obj_sfm` (F, 3): the object's pose in the unit of SfM; `touching` (F,) frames where they may touch.
    """

    joints_m: np.ndarray
    tips_m: np.ndarray
    R_cam_hand: np.ndarray
    weight: np.ndarray
    R_cam_obj: np.ndarray
    t_cam_obj_sfm: np.ndarray
    touching: np.ndarray


@dataclass(frozen=True)
class ScaleEstimate:
    """`scale` in metres per unit of SfM, its standard error as a fraction of it, and whether it deserves belief (`doubt` says why not)."""

    name: str
    scale: float
    stderr_ratio: float
    doubt: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def centroid(tracks: Mapping[Side, HandTrack], points_obj: np.ndarray, seed: int = 0) -> ScaleEstimate:
    """HOLD's: the scale that brings the object's point centroid to the hand's joint centroid in L1, which is a weighted median."""
    middle = points_obj.mean(axis=0)
    hand = np.concatenate([t.joints_m.mean(axis=1) for t in tracks.values()])
    obj = np.concatenate([t.R_cam_obj @ middle + t.t_cam_obj_sfm for t in tracks.values()])
    weight = np.concatenate([t.weight for t in tracks.values()])
    ratio, leverage = hand / obj, np.abs(obj) * weight[:, None]
    counts = _resampled_counts([len(t.weight) for t in tracks.values()], seed)
    order = np.argsort(ratio, axis=None)
    cumulative = np.cumsum((leverage * counts[:, :, None]).reshape(len(counts), -1)[:, order], axis=1)
    medians = ratio.reshape(-1)[order][(cumulative >= 0.5 * cumulative[:, -1:]).argmax(axis=1)]
    if medians[0] <= 0:
        raise HoldprepError(f"hand and object lie on opposite sides of the camera (scale {medians[0]:.3g}): look at mode h and object_pose")
    scatter = np.std(medians[1:]) / medians[0]
    l1_m = float(np.average(np.abs(hand - medians[0] * obj).mean(axis=1), weights=weight))
    return ScaleEstimate("centroid", float(medians[0]), float(np.hypot(scatter, SYSTEMATIC["centroid"])), figures={"gap_mm": 1e3 * l1_m})


def rigid_grasp(tracks: Mapping[Side, HandTrack], seed: int = 0, rounds: int = 15) -> ScaleEstimate:
    """The hand stands still in the object's frame: h_i = s t_i + R_i g is linear in the scale s and each hand's place g.

    Iteratively reweighted least squares (Geman-McClure, width three times the median residual), depth weighed down. Its doubt is
    the joints' spread and the hand's turn in the object's frame: where the object is turned in the fingers the equation is false.
    """
    rows, right = _grasp_equations(list(tracks.values()))
    weight = np.concatenate([t.weight for t in tracks.values()])
    robust = np.ones_like(weight)
    for _ in range(rounds):
        normal = np.einsum("f,fra,frb->fab", weight * robust, rows, rows)
        vector = np.einsum("f,fra,fr->fa", weight * robust, rows, right)
        solution = np.linalg.lstsq(normal.sum(axis=0), vector.sum(axis=0), rcond=None)[0]
        residual = np.linalg.norm(right - rows @ solution, axis=1)
        sigma = max(3 * float(np.median(residual)), 1e-6)
        robust = (sigma**2 / (sigma**2 + residual**2)) ** 2
    scale = float(solution[0])
    counts = _resampled_counts([len(t.weight) for t in tracks.values()], seed)[1:]
    ridge = 1e-12 * np.trace(normal.sum(axis=0)) * np.eye(len(solution))
    resampled = np.linalg.solve(np.tensordot(counts, normal, axes=1) + ridge, np.tensordot(counts, vector, axes=1)[..., None])[:, 0, 0]
    scatter = max(float(np.std(resampled)), _formal_stderr(normal.sum(axis=0) + ridge, weight * robust, residual))
    stderr = float(np.hypot(scatter / abs(scale), SYSTEMATIC["rigid_grasp"]))
    spread_mm = max(joint_spread_mm(t, scale) for t in tracks.values())
    turn_deg = max(relative_turn_deg(t) for t in tracks.values())
    figures = {"spread_mm": spread_mm, "turn_deg": turn_deg}
    return ScaleEstimate("rigid_grasp", scale, stderr, _doubt(scale, spread_mm, turn_deg, stderr), figures)


def contact(tracks: Mapping[Side, HandTrack], points_obj: np.ndarray, around: float, seed: int = 0) -> ScaleEstimate:
    """The scale at which the cloud's surface meets the three nearest fingertips, searched within 25 % of `around`.

    Distances are unsigned, from the skin around each fingertip to the nearest cloud point; frames are sampled evenly.
    """
    tree = cKDTree(points_obj)
    scales = around * np.exp(np.linspace(np.log(1 - CONTACT_RANGE), np.log(1 + CONTACT_RANGE), 25))
    gaps, lengths = [], []
    for track in tracks.values():
        at = np.flatnonzero(track.touching)
        at = at[np.unique(np.linspace(0, len(at) - 1, min(len(at), CONTACT_FRAMES)).round().astype(int))] if len(at) else at
        gaps.append(np.stack([tip_gaps_m(track, at, tree, s) for s in scales], axis=1))
        lengths.append(len(at))
    gap_m = np.concatenate(gaps)
    if len(gap_m) == 0:
        return ScaleEstimate("contact", around, float("inf"), "no frame in which hand and object masks touch")
    totals = _resampled_counts([n for n in lengths if n], seed) @ gap_m
    found = np.array([_parabola_minimum(np.log(scales), total) for total in totals])
    best = int(totals[0].argmin())
    doubt = "its best scale lies at the end of the range searched" if best in (0, len(scales) - 1) else ""
    stderr = float(np.hypot(np.std(found[1:]), SYSTEMATIC["contact"]))
    return ScaleEstimate("contact", float(np.exp(found[0])), stderr, doubt, {"gap_mm": 1e3 * float(gap_m[:, best].mean())})


def choose(estimates: Mapping[str, ScaleEstimate]) -> ScaleEstimate:
    """The rigid grasp where its own test passes, else contact, else the centroid; fused with those that agree with it.

    Two estimates agree within two standard errors of their difference. Where contact and centroid disagree, half the disagreement
    becomes the standard error. A single estimate is taken with its doubts, unless it is no scale at all (HoldprepError).
    """
    believed = [estimates[n] for n in ("rigid_grasp", "contact", "centroid") if n in estimates and not estimates[n].doubt]
    if not believed:
        only = next(iter(estimates.values()))
        if only.scale <= 0 or not np.isfinite(only.stderr_ratio):
            raise HoldprepError(f"scale by {only.name} failed: {only.doubt}; use align.scale=auto or centroid")
        believed = [only]
    best = believed[0]
    agree = [e for e in believed if _distance(e, best) <= 2 * np.hypot(e.stderr_ratio, best.stderr_ratio)]
    precision = np.array([e.stderr_ratio**-2 for e in agree])
    scale = float(np.exp(np.average([np.log(e.scale) for e in agree], weights=precision)))
    stderr = float(precision.sum() ** -0.5)
    differ = [e for e in believed if e not in agree]
    if best.name != "rigid_grasp" and differ:
        stderr = max(stderr, 0.5 * max(_distance(e, best) for e in differ))
    notes = [f"scale from {' and '.join(e.name for e in agree)}: {scale:.4g} +- {100 * stderr:.1f} %"]
    notes += [f"scale by {e.name} {e.scale:.4g} ({100 * (e.scale / scale - 1):+.1f} %) disagrees and was left out" for e in differ]
    notes += [f"scale by {e.name} not believed: {e.doubt}" for e in estimates.values() if e.doubt]
    return ScaleEstimate(best.name, scale, stderr, figures=_all_figures(estimates), notes=tuple(notes))


def estimate(
    name: Estimator, tracks: Mapping[Side, HandTrack], points_obj: np.ndarray, seed: int = 0, around: float | None = None
) -> ScaleEstimate:
    """One estimator by name, doubts included; `contact` searches `around` a scale (the centroid's if None).

    Raises HoldprepError if no frame shows hand and object.
    """
    if not tracks or all(len(t.weight) == 0 for t in tracks.values()):
        raise HoldprepError("no frame shows both a hand and a registered object, so no scale: look at hand_pose and object_pose")
    tracks = {side: t for side, t in tracks.items() if len(t.weight)}
    if name == "rigid_grasp":
        return rigid_grasp(tracks, seed)
    if name == "contact":
        return contact(tracks, points_obj, around or centroid(tracks, points_obj, seed).scale, seed)
    return centroid(tracks, points_obj, seed)


def joint_spread_mm(track: HandTrack, scale: float) -> float:
    """How far joints wander in the object's frame: mean over joints of the median distance to their median place (mm)."""
    local = np.einsum("fba,fjb->fja", track.R_cam_obj, track.joints_m - scale * track.t_cam_obj_sfm[:, None])
    away = np.linalg.norm(local - np.median(local, axis=0), axis=-1)
    return 1e3 * float(np.median(away, axis=0).mean())


def relative_turn_deg(track: HandTrack) -> float:
    """Median angle between the hand's rotation in the object's frame and its mean there (degrees); free of any scale."""
    R_obj_hand = torch.from_numpy(np.swapaxes(track.R_cam_obj, 1, 2) @ track.R_cam_hand)
    mean = roma.special_procrustes(R_obj_hand.mean(dim=0))
    return float(np.degrees(roma.rotmat_geodesic_distance(R_obj_hand, mean.expand_as(R_obj_hand)).median()))


def tip_gaps_m(track: HandTrack, frames: np.ndarray, tree: cKDTree, scale: float) -> np.ndarray:
    """Mean distance (F,) m of the three nearest fingertips to the cloud in `frames`."""
    tips = track.tips_m[frames] / scale - track.t_cam_obj_sfm[frames][:, None, None]
    local = np.einsum("fba,fivb->fiva", track.R_cam_obj[frames], tips)
    distance = scale * tree.query(local.reshape(-1, 3))[0].reshape(local.shape[:-1]).min(axis=2)
    return np.sort(distance, axis=1)[:, :TOUCHING_TIPS].mean(axis=1)


def _grasp_equations(tracks: Sequence[HandTrack]) -> tuple[np.ndarray, np.ndarray]:
    """Rows (F, 3, 1 + 3 hands) and right sides (F, 3), weighed down along the viewing ray."""
    rows, right = [], []
    for n, track in enumerate(tracks):
        hand = track.joints_m.mean(axis=1)
        ray = hand / np.linalg.norm(hand, axis=1, keepdims=True)
        whiten = np.eye(3) - (1 - 1 / DEPTH_NOISE_RATIO) * ray[:, :, None] * ray[:, None]
        row = np.zeros((len(hand), 3, 1 + 3 * len(tracks)))
        row[..., :1] = whiten @ track.t_cam_obj_sfm[..., None]
        row[..., 1 + 3 * n : 4 + 3 * n] = whiten @ track.R_cam_obj
        rows.append(row)
        right.append((whiten @ hand[..., None])[..., 0])
    return np.concatenate(rows), np.concatenate(right)


def _formal_stderr(normal: np.ndarray, weight: np.ndarray, residual: np.ndarray) -> float:
    """Least squares' own standard error of the first unknown: a bootstrap of few frames believes too much."""
    freedom = max(3 * weight.sum() ** 2 / np.square(weight).sum() - len(normal), 1.0)
    variance = (weight * residual**2).sum() / freedom
    return float(np.sqrt(variance * np.linalg.inv(normal)[0, 0]))


def _doubt(scale: float, spread_mm: float, turn_deg: float, stderr: float) -> str:
    if scale <= 0:
        return "its scale is not positive"
    if turn_deg > MAX_TURN_DEG:
        return f"the object turns {turn_deg:.0f} degrees in the hand (at most {MAX_TURN_DEG:.0f})"
    if spread_mm > MAX_SPREAD_MM:
        return f"joints wander {spread_mm:.0f} mm on the object (at most {MAX_SPREAD_MM:.0f})"
    if stderr > MAX_STDERR:
        return f"standard error {100 * stderr:.0f} % (at most {100 * MAX_STDERR:.0f}): the object is hardly turned"
    return ""


def _distance(a: ScaleEstimate, b: ScaleEstimate) -> float:
    return abs(float(np.log(a.scale / b.scale)))


def _all_figures(estimates: Mapping[str, ScaleEstimate]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, e in estimates.items():
        figures |= {f"{name}.scale": e.scale, f"{name}.stderr_pct": 100 * e.stderr_ratio} | {f"{name}.{k}": v for k, v in e.figures.items()}
    return figures


def _parabola_minimum(x: np.ndarray, y: np.ndarray) -> float:
    """Minimum of y over the even grid x, refined by a parabola through the best point and its neighbours."""
    i = int(np.clip(y.argmin(), 1, len(x) - 2))
    left, middle, right = y[i - 1 : i + 2]
    bend = left - 2 * middle + right
    shift = 0.5 * (left - right) / bend if bend > 0 else 0.0
    return float(x[i] + np.clip(shift, -1, 1) * (x[1] - x[0]))


def _resampled_counts(lengths: Sequence[int], seed: int) -> np.ndarray:
    """How often each frame counts, (1 + rounds, F): once in the first row, then a block bootstrap (neighbouring frames err alike)."""
    rng = np.random.default_rng(seed)
    parts = []
    for length in lengths:
        block = np.arange(length) * min(BOOTSTRAP_BLOCKS, length) // length
        blocks = block[-1] + 1
        drawn = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=BOOTSTRAP_ROUNDS)
        parts.append(np.concatenate([np.ones((1, length)), drawn[:, block]]))
    return np.concatenate(parts, axis=1)
