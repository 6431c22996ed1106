"""The object's metric scale: estimators, each with a standard error and its own rejection criteria, and their combination.

The object keeps its SfM trajectory, x_cam_m = scale * (R x + t), so that one number determines both its size and its depth.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np

from holdprep.align.contact import contact
from holdprep.align.depth_maps import DepthRatios, depth_maps
from holdprep.align.grasp import rigid_grasp
from holdprep.align.order import DepthOrder, depth_order, log_likelihood
from holdprep.align.posterior import Posterior
from holdprep.align.surface import Surface
from holdprep.align.tracks import HandTrack, ScaleEstimate, resampled_counts
from holdprep.errors import HoldprepError
from holdprep.hand.model import Side

Estimator = Literal["centroid", "rigid_grasp", "contact", "depth_order", "depth_maps"]
Choice = Literal["auto", "centroid", "rigid_grasp", "contact", "depth_order", "depth_maps"]
DISAGREEMENT = 2.0  # standard errors of the difference from the most precise estimate
ESTIMATORS: tuple[Estimator, ...] = ("centroid", "rigid_grasp", "contact", "depth_order")  # that need no further file
# of the log scale, on rendered sequences: too large, since the palm is behind the object and the cloud covers the side in front
CENTROID_MEAN, CENTROID_STD = 0.07, 0.08


def centroid(tracks: Mapping[Side, HandTrack], points_obj: np.ndarray, seed: int = 0) -> ScaleEstimate:
    """HOLD's scale: the object's point centroid is fitted to the hand's joint centroid in L1, which is a weighted median."""
    centroid_obj = points_obj.mean(axis=0)
    hand = np.concatenate([t.joints_m.mean(axis=1) for t in tracks.values()])
    obj = np.concatenate([t.R_cam_obj @ centroid_obj + t.t_cam_obj_sfm for t in tracks.values()])
    weight = np.concatenate([t.weight for t in tracks.values()])
    ratio, leverage = hand / obj, np.abs(obj) * weight[:, None]
    counts = resampled_counts([len(t.weight) for t in tracks.values()], seed)
    order = np.argsort(ratio, axis=None)
    cumulative = np.cumsum((leverage * counts[:, :, None]).reshape(len(counts), -1)[:, order], axis=1)
    medians = ratio.reshape(-1)[order][(cumulative >= 0.5 * cumulative[:, -1:]).argmax(axis=1)]
    if medians[0] <= 0:
        raise HoldprepError(f"hand and object lie on opposite sides of the camera (scale {medians[0]:.3g}): check mode h and object_pose")
    sampling_std = np.std(medians[1:]) / medians[0]
    l1_m = float(np.average(np.abs(hand - medians[0] * obj).mean(axis=1), weights=weight))
    stderr = float(np.hypot(sampling_std, CENTROID_STD))
    return ScaleEstimate("centroid", float(medians[0]), stderr, figures={"gap_mm": 1e3 * l1_m}, bias=CENTROID_MEAN)


def combine(estimates: Mapping[str, ScaleEstimate], orders: Mapping[Side, DepthOrder] | None = None) -> tuple[ScaleEstimate, Posterior]:
    """The median of the accepted estimates' posterior, and the posterior; its standard error includes their disagreement.

    Beside other estimates, the depth order is not used as an estimate but as the likelihood by its rays, which may bound the scale from one
    side only. A single estimate is used as it is, without its bias. Where all are rejected, the first one is used nevertheless.
    Raises HoldprepError where that is not a positive, finite scale.
    """
    rays = {} if len(estimates) == 1 else {side: order for side, order in (orders or {}).items() if order.is_evidence}
    compared = [e for e in estimates.values() if not (rays and e.name == "depth_order")]
    accepted = sorted((e for e in compared if not e.rejection), key=lambda e: e.stderr_ratio)
    if not accepted:
        only = next(iter(estimates.values()))
        if not (only.scale > 0 and np.isfinite(only.stderr_ratio)):
            raise HoldprepError(f"scale by {only.name} failed: {only.rejection}; use align.scale=auto or centroid")
        accepted = [only]
    alone = len(accepted) == 1 and not rays
    if alone:
        accepted = [replace(accepted[0], bias=0.0)]
    likelihood = partial(log_likelihood, rays) if rays else None
    posterior = Posterior.of(accepted, likelihood)
    log_scale, stderr, best = posterior.quantile(0.5), posterior.stderr_ratio, accepted[0]
    scale = best.scale if alone else float(np.exp(log_scale))
    agree = [e for e in accepted if abs(_log(e) - _log(best)) <= DISAGREEMENT * np.hypot(e.stderr_ratio, best.stderr_ratio)]
    used = [e.name for e in accepted] + (["the depth order on rays"] if rays else [])
    notes = [f"scale from {' and '.join(used)}: {scale:.4g} +- {100 * stderr:.1f} %"]
    notes += [
        f"scale by {e.name} {e.scale:.4g} ({100 * (e.scale / scale - 1):+.1f} %, expected {100 * np.expm1(e.bias):+.0f} +- "
        f"{100 * e.stderr_ratio:.1f} %) disagrees and widens the interval"
        for e in accepted
        if e not in agree
    ]
    notes += [f"scale by {e.name} rejected: {e.rejection}" for e in compared if e.rejection]
    sources = {e.name: Posterior.of([e]) for e in accepted}
    if likelihood is not None:
        sources["depth_order"] = Posterior.by(likelihood, log_scale)
    figures = _all_figures(estimates) | _bounds(sources | {"all": posterior}) | {"disagreeing": float(len(accepted) - len(agree))}
    return ScaleEstimate(best.name, scale, stderr, figures=figures, notes=tuple(notes)), posterior


@dataclass(frozen=True)
class Views:
    """What masks and depth maps show of the posed hands, by hand: the depth order on rays, and ratios of depth; empty without them."""

    orders: Mapping[Side, DepthOrder] = field(default_factory=dict)
    ratios: Mapping[Side, DepthRatios] = field(default_factory=dict)


def estimate_scale(choice: Choice, tracks: Mapping[Side, HandTrack], surface: Surface, views: Views, seed: int = 0) -> list[ScaleEstimate]:
    """The scale by one estimator or by each of them (`auto`), by depth maps where there are any.

    Raises HoldprepError where depth maps are chosen and there are none.
    """
    if choice == "depth_maps" and not views.ratios:
        raise HoldprepError("align.scale=depth_maps needs the maps: give align.depth_maps=<folder>")
    estimates: dict[str, ScaleEstimate] = {}
    with_maps: tuple[Estimator, ...] = ("depth_maps",) if views.ratios else ()
    names: tuple[Estimator, ...] = (*ESTIMATORS, *with_maps) if choice == "auto" else (choice,)
    for name in names:
        around = estimates["centroid"].scale if "centroid" in estimates else None
        estimates[name] = estimate(name, tracks, surface, seed, around, views)
    return list(estimates.values())


def estimate(
    name: Estimator,
    tracks: Mapping[Side, HandTrack],
    surface: Surface,
    seed: int = 0,
    around: float | None = None,
    views: Views | None = None,
) -> ScaleEstimate:
    """One estimator's result, accepted or rejected; `contact` and `depth_order` search `around` a scale (the centroid's if None).

    Raises HoldprepError if no frame shows hand and object.
    """
    tracks, views = {side: t for side, t in tracks.items() if len(t.weight)}, views or Views()
    if not tracks:
        raise HoldprepError("no frame shows both a hand and a registered object, so there is no scale: check hand_pose and object_pose")
    if name == "rigid_grasp":
        return rigid_grasp(tracks, seed)
    if name == "centroid":
        return centroid(tracks, surface.points, seed)
    around = around or centroid(tracks, surface.points, seed).scale
    if name == "depth_maps":
        return depth_maps(views.ratios, around, seed)
    return contact(tracks, surface, around, seed) if name == "contact" else depth_order(views.orders, around, seed)


def _log(estimate: ScaleEstimate) -> float:
    return float(np.log(estimate.scale)) - estimate.bias


def _bounds(sources: Mapping[str, Posterior]) -> dict[str, float]:
    """`<source>.low` and `<source>.high`: the scales that each source alone leaves, with a probability of 95 %."""
    return {f"{name}.{side}": bound for name, found in sources.items() for side, bound in zip(("low", "high"), found.bounds, strict=True)}


def _all_figures(estimates: Mapping[str, ScaleEstimate]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, e in estimates.items():
        values = {"scale": e.scale, "stderr_pct": 100 * e.stderr_ratio, **e.figures}
        figures |= {f"{name}.{key}": value for key, value in values.items() if np.isfinite(value)}
    return figures
