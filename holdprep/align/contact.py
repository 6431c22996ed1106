"""Scale from contact: fingertips lie on the object's surface, from outside.

A frame's likelihood of a scale is how well the three nearest fingertips meet the surface under it and none is inside, blurred by how
little the frame knows of the hand's depth: the product over frames then has its maximum where the mean frame has it, not
where one noisy frame happens to touch. It asks nothing of how the object is held.
"""

from collections.abc import Mapping

import numpy as np

from holdprep.align.surface import Surface
from holdprep.align.tracks import HandTrack, ScaleEstimate, parabola_maximum, resampled_counts
from holdprep.hand.model import Side

TOUCHING_TIPS = 3  # fingertips that a grasp needs
SIGMA_TOUCH_M = 0.003  # surface and finger pose together
MAX_SIGMAS = 4.0  # a tip that is farther is not touching
OUTLIER_SHARE = 0.05  # of frames that say nothing
MIN_DEPTH_RATIO = 0.01  # finger poses err too, whatever the keypoints say
SYSTEMATIC = 0.012  # size of its errors on rendered sequences with real SfM, beyond its scatter
RANGE = (-0.35, 0.25)  # log scale searched about the centroid's, which lies high where the palm is behind the object
STEP = 0.01
MAX_FRAMES = 60


def contact(tracks: Mapping[Side, HandTrack], surface: Surface, around: float, seed: int = 0) -> ScaleEstimate:
    """The scale at which fingertips meet the surface, searched about `around`; its doubt is a maximum at the end of the range."""
    log_scales = np.arange(RANGE[0], RANGE[1] + STEP / 2, STEP)
    curves, lengths = [], []
    for track in tracks.values():
        at = np.flatnonzero(track.touching)
        at = at[np.unique(np.linspace(0, len(at) - 1, min(len(at), MAX_FRAMES)).round().astype(int))] if len(at) else at
        if len(at):
            misfit = touch_misfit(tip_distances_m(track, at, surface, around * np.exp(log_scales)))
            curves.append(np.log(_blurred(misfit, track.depth_ratio[at]) + 1e-300) * _relative(track.weight[at])[:, None])
            lengths.append(len(at))
    if not curves:
        return ScaleEstimate("contact", around, float("inf"), "no frame in which hand and object masks touch")
    totals = resampled_counts(lengths, seed) @ np.concatenate(curves)
    best = int(totals[0].argmax())
    found = np.array([parabola_maximum(log_scales, total) for total in totals])
    bend = np.gradient(np.gradient(totals[0], STEP), STEP)[best]
    formal = 1 / np.sqrt(-bend) if bend < 0 else STEP
    stderr = float(np.hypot(max(np.std(found[1:]), formal), SYSTEMATIC))
    scale = float(around * np.exp(found[0]))
    doubt = "its best scale lies at the end of the range searched" if best in (0, len(log_scales) - 1) else ""
    return ScaleEstimate("contact", scale, stderr, doubt, {"gap_mm": 1e3 * _gap_m(tracks, surface, scale)})


def tip_distances_m(track: HandTrack, frames: np.ndarray, surface: Surface, scales: np.ndarray) -> np.ndarray:
    """(F, S, 5) signed distance of each fingertip's deepest point to the surface, in `frames` under `scales` (S,)."""
    tips = track.tips_m[frames][:, None] / scales[:, None, None, None] - track.t_cam_obj_sfm[frames][:, None, None, None]
    local = np.einsum("fba,fsivb->fsiva", track.R_cam_obj[frames], tips)
    return scales[:, None] * surface.distance(local).min(axis=-1)


def touch_misfit(distance_m: np.ndarray) -> np.ndarray:
    """(...) half the squared sigmas by which the three nearest of (..., 5) tips miss the surface and all are inside it, each bounded."""
    sigmas = np.clip(distance_m / SIGMA_TOUCH_M, -MAX_SIGMAS, MAX_SIGMAS)
    missing = np.sort(np.abs(sigmas), axis=-1)[..., :TOUCHING_TIPS]
    return 0.5 * np.square(missing).sum(axis=-1) + 0.5 * np.square(np.minimum(sigmas, 0)).sum(axis=-1)


def _blurred(misfit: np.ndarray, depth_ratio: np.ndarray) -> np.ndarray:
    """(F, S) likelihoods of unit sum, spread by a Gaussian of each frame's depth error and mixed with one that says nothing."""
    likelihood = np.exp(misfit.min(axis=1, keepdims=True) - misfit)
    away = STEP * np.arange(misfit.shape[1])
    width = np.maximum(depth_ratio, MIN_DEPTH_RATIO)[:, None, None]
    spread = np.exp(-0.5 * np.square((away[:, None] - away) / width))
    likelihood = np.einsum("fs,fst->ft", likelihood, spread / spread.sum(axis=1, keepdims=True))
    return (1 - OUTLIER_SHARE) * likelihood / likelihood.sum(axis=1, keepdims=True) + OUTLIER_SHARE / misfit.shape[1]


def _relative(weight: np.ndarray) -> np.ndarray:
    return weight / max(float(weight.max()), 1e-12)


def _gap_m(tracks: Mapping[Side, HandTrack], surface: Surface, scale: float) -> float:
    """Mean distance, inside or outside, of the three nearest tips."""
    touched = [(t, np.flatnonzero(t.touching)) for t in tracks.values() if t.touching.any()]
    nearest = [np.sort(np.abs(tip_distances_m(t, at, surface, np.array([scale]))[:, 0]), axis=1)[:, :TOUCHING_TIPS] for t, at in touched]
    return float(np.concatenate(nearest).mean())
