"""Scale from contact: fingertips lie on the object's surface, from outside.

A frame's likelihood of a scale measures how close the three nearest fingertips are to the surface and whether any is inside. It is
blurred by the frame's standard error of the hand's depth, so that the product over frames has its maximum at the scale of the
average frame and not at that of one noisy frame. No assumption is made on how the object is held. Fingertips that do not reach the surface
at the best scale have wrong depths: their distance, as a fraction of the depth, is part of the standard error.
"""

from collections.abc import Mapping

import numpy as np

from holdprep.align.surface import Surface
from holdprep.align.tracks import HandTrack, ScaleEstimate, parabola_maximum, resampled_counts
from holdprep.hand.model import Side

TOUCHING_TIPS = 3  # fingertips that a grasp needs
SIGMA_TOUCH_M = 0.003  # surface and finger pose together
MAX_SIGMAS = 4.0  # a tip at a larger distance does not touch
OUTLIER_SHARE = 0.05  # of frames without information
MIN_DEPTH_RATIO = 0.01  # finger poses have errors even where the keypoints fit
SYSTEMATIC = 0.02  # systematic error on rendered sequences with real SfM and other hands, as a fraction of the scale
RANGE = (-0.35, 0.25)  # of log scales about the centroid's, which is too large where the palm is behind the object
STEP = 0.01
MAX_FRAMES = 60


def contact(tracks: Mapping[Side, HandTrack], surface: Surface, around: float, seed: int = 0) -> ScaleEstimate:
    """The scale at which fingertips touch the surface, searched about `around`; rejected where the maximum is at an end of the range."""
    log_scales = np.arange(RANGE[0], RANGE[1] + STEP / 2, STEP)
    curves, lengths = [], []
    for track in tracks.values():
        at = np.flatnonzero(track.touching)
        at = at[np.unique(np.linspace(0, len(at) - 1, min(len(at), MAX_FRAMES)).round().astype(int))] if len(at) else at
        if len(at):
            is_known = surface.known(deepest_points(track, at, surface, np.array([around]))[1])
            misfit = touch_misfit(deepest_points(track, at, surface, around * np.exp(log_scales))[0], is_known)
            curves.append(np.log(_blurred(misfit, track.depth_ratio[at]) + 1e-300) * _relative(track.weight[at])[:, None])
            lengths.append(len(at))
    if not curves:
        return ScaleEstimate("contact", around, float("inf"), "no frame in which hand and object masks touch")
    totals = resampled_counts(lengths, seed) @ np.concatenate(curves)
    best = int(totals[0].argmax())
    maxima = np.array([parabola_maximum(log_scales, total) for total in totals])
    curvature = np.gradient(np.gradient(totals[0], STEP), STEP)[best]
    formal = 1 / np.sqrt(-curvature) if curvature < 0 else STEP
    scale = float(around * np.exp(maxima[0]))
    gap_m = _gap_m(tracks, surface, scale)
    depth_m = float(np.median(np.concatenate([t.joints_m[..., 2].mean(axis=1) for t in tracks.values()])))
    stderr = float(np.linalg.norm([max(np.std(maxima[1:]), formal), SYSTEMATIC, gap_m / depth_m]))
    rejection = "its best scale lies at the end of the range searched" if best in (0, len(log_scales) - 1) else ""
    return ScaleEstimate("contact", scale, stderr, rejection, {"touch_mm": 1e3 * gap_m})


def deepest_points(track: HandTrack, frames: np.ndarray, surface: Surface, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each fingertip's deepest point in `frames` under `scales` (S,): signed distances (F, S, 5) m to the surface, and points (F, S, 5, 3).

    Points are in the cloud's frame and unit.
    """
    tips = track.tips_m[frames][:, None] / scales[:, None, None, None] - track.t_cam_obj_sfm[frames][:, None, None, None]
    local = np.einsum("fba,fsivb->fsiva", track.R_cam_obj[frames], tips)
    distance = surface.distance(local)
    deepest = distance.argmin(axis=-1)[..., None]
    points = np.take_along_axis(local, deepest[..., None], axis=-2)[..., 0, :]
    return scales[:, None] * np.take_along_axis(distance, deepest, axis=-1)[..., 0], points


def touch_misfit(distance_m: np.ndarray, is_known: np.ndarray) -> np.ndarray:
    """(...) half the sum of squared distances, in standard deviations and each bounded, for tips (..., 5).

    Summed are the absolute distances of the three nearest tips next to a known surface, and the depths of all tips that are inside: a
    guess of the surface bounds fingers from inside only.
    """
    sigmas = np.clip(distance_m / SIGMA_TOUCH_M, -MAX_SIGMAS, MAX_SIGMAS)
    missing = np.sort(np.where(is_known, np.abs(sigmas), np.inf), axis=-1)[..., :TOUCHING_TIPS]
    missing = np.where(np.isfinite(missing), missing, 0.0)
    return 0.5 * np.square(missing).sum(axis=-1) + 0.5 * np.square(np.minimum(sigmas, 0)).sum(axis=-1)


def _blurred(misfit: np.ndarray, depth_ratio: np.ndarray) -> np.ndarray:
    """(F, S) likelihoods of unit sum, blurred by a Gaussian of each frame's depth error and mixed with a uniform distribution."""
    likelihood = np.exp(misfit.min(axis=1, keepdims=True) - misfit)
    away = STEP * np.arange(misfit.shape[1])
    width = np.maximum(depth_ratio, MIN_DEPTH_RATIO)[:, None, None]
    kernel = np.exp(-0.5 * np.square((away[:, None] - away) / width))
    likelihood = np.einsum("fs,fst->ft", likelihood, kernel / kernel.sum(axis=1, keepdims=True))
    return (1 - OUTLIER_SHARE) * likelihood / likelihood.sum(axis=1, keepdims=True) + OUTLIER_SHARE / misfit.shape[1]


def _relative(weight: np.ndarray) -> np.ndarray:
    return weight / max(float(weight.max()), 1e-12)


def touching_tips(track: HandTrack, frames: np.ndarray, surface: Surface, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Of the three tips nearest to the surface in `frames` (F,): distances (F, 3) m, and whether the surface is known there."""
    distance_m, points = (of_scales[:, 0] for of_scales in deepest_points(track, frames, surface, np.array([scale])))
    nearest = np.argsort(np.abs(distance_m), axis=1)[:, :TOUCHING_TIPS]
    chosen = np.take_along_axis(points, nearest[..., None], axis=1)
    return np.abs(np.take_along_axis(distance_m, nearest, axis=1)), surface.known(chosen)


def _gap_m(tracks: Mapping[Side, HandTrack], surface: Surface, scale: float) -> float:
    """Mean absolute distance (m) of the three nearest tips to the surface."""
    touched = [(t, np.flatnonzero(t.touching)) for t in tracks.values() if t.touching.any()]
    return float(np.concatenate([touching_tips(t, at, surface, scale)[0] for t, at in touched]).mean())
