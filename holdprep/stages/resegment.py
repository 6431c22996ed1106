"""Masks, object poses and keypoints -> processed/second_pass/: masks decided again with the object as one rigid shape."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from holdprep.hand.trackers import trackfile
from holdprep.io.atomic import write_bytes_atomic
from holdprep.pipeline import Context, Metrics, Result, records
from holdprep.segmenters.prompts import read_indexed_prompts
from holdprep.segmenters.rigid_shape import PosedMasks, RigidShape, whole_masks
from holdprep.segmenters.second_pass import FirstPass, Recut, recut, typical_excess_pct
from holdprep.sequence import colmap as colmap_files
from holdprep.stages.mask_files import write_masks

MIN_FRAMES = 10  # masks with poses that hold the object's cloud: fewer bound no shape
MIN_WHOLE_PCT = 50.0  # of the frames with poses: if fewer have such masks, the poses are wrong, or the masks
MAX_EXCESS_PCT = 5.0  # of the masks beyond the rigid shape (median), above which poses or masks are wrong: see quality/rules.py
MUCH_PCT = 25.0  # change of a mask, of its area or of the usual one, from which the frame is listed


@dataclass(frozen=True)
class _Left:
    """The masks stay as they are: why, and what was measured."""

    reason: str
    metrics: Metrics


def run(ctx: Context) -> Result:
    side, reason = ctx.cfg.segmenter.second_pass_side(), _not_own(ctx)
    found = _Left(reason, {}) if reason or side is None else _again(ctx, side)
    if isinstance(found, Result):
        return found
    _say(ctx, {}, found.reason)
    return Result({"changed_frames": 0} | found.metrics, {}, [f"the masks stay as they are: {found.reason}"])


def _not_own(ctx: Context) -> str:
    """Why the masks are not this stage's to change: a person's, another tool's, or of a segmenter without a second pass; else empty."""
    segmenter, seq = ctx.cfg.segmenter, ctx.seq
    if segmenter.second_pass_side() is None:
        is_off = getattr(segmenter, "second_pass", None) is False
        return "segmenter.second_pass=false" if is_off else f"segmenter={segmenter.name} has no second pass"
    if not seq.has("masks_object") or not seq.has("colmap"):
        return f"there are no {'object poses' if seq.has('masks_object') else 'masks of the object'}"
    record = records.read(seq, "segment") or {}
    name = ((record.get("settings") or {}).get("segmenter") or {}).get("name")
    if name != segmenter.name:
        return f"they were not made by segmenter={segmenter.name}"
    changed = [e for e in seq.entities() if records.fingerprint(seq.path(f"masks_{e}")) != record["outputs"].get(f"masks_{e}")]
    return f"those of {changed[0]} were changed by hand or by another program" if changed else ""


def _again(ctx: Context, work_side: int) -> Result | _Left:
    """The second pass."""
    seq, cloud = ctx.seq, colmap_files.read_colmap(ctx.seq)
    points, names = colmap_files.points_sfm(cloud), ctx.seq.frame_names()
    frames = np.flatnonzero(cloud.get("registered", np.ones(len(names), bool))).tolist()
    posed = PosedMasks(seq.masks("object"), seq.hand_pixels(), cloud["o2w"], cloud["intrinsic"], colmap_files.lens_of(seq))
    whole = whole_masks(posed, frames, points)
    needed = max(MIN_FRAMES, round(MIN_WHOLE_PCT / 100 * len(frames)))
    metrics: Metrics = {"whole_pct": 100 * len(whole) / max(len(frames), 1)}
    if len(whole) < needed:
        reason = f"{len(whole)} of {len(names)} frames have a pose and a mask of the object that holds its cloud, {needed} are needed"
        return _Left(reason, metrics)
    shape, first = RigidShape(posed, whole, points), _first(ctx)
    metrics["shape_excess_pct"] = excess_pct = typical_excess_pct(first, shape, whole)
    if excess_pct > MAX_EXCESS_PCT:
        reason = f"{excess_pct:.0f} % of a mask (median) is outside of the rigid shape that the others show by their poses, above "
        return _Left(f"{reason}{MAX_EXCESS_PCT:.0f} %: the poses are wrong, or the masks", metrics)
    result = _decide(ctx, first, recut(first, shape, _open_frames(ctx, frames), work_side))
    return replace(result, metrics=result.metrics | metrics)


def _first(ctx: Context) -> FirstPass:
    """What the first pass has made, and the hands' keypoints."""
    seq = ctx.seq
    joints_px = trackfile.read(seq.path("j2d").parent, seq.frame_names()).j2d_px if seq.has("j2d") and seq.has("v3d") else {}
    return FirstPass(seq.images(), {entity: seq.masks(entity) for entity in seq.entities()}, dict(joints_px.items()))


def _open_frames(ctx: Context, frames: list[int]) -> list[int]:
    """Those of the frames whose masks nobody has clicked or drawn."""
    node, seq = ctx.cfg.segmenter.clicked(), ctx.seq
    path = None if node is None else node.prompts_path(seq)
    clicked = set() if path is None or not path.is_file() else set(read_indexed_prompts(path, seq.frame_names(), seq.image_size()))
    return [t for t in frames if t not in clicked]


def _decide(ctx: Context, first: FirstPass, again: Iterable[Recut]) -> Result:
    """Write all frames' masks, and report what has changed."""
    names = ctx.seq.frame_names()
    masks = {entity: np.stack(list(before)) for entity, before in first.masks.items()}
    usual = {entity: max(float(np.median(before.sum(axis=(1, 2)))), 1.0) for entity, before in masks.items()}
    changed = {entity: np.zeros(len(names)) for entity in masks}
    missing, excess, contradicted = np.full(len(names), np.nan), np.full(len(names), np.nan), np.zeros(len(names), bool)
    for frame in again:
        missing[frame.t], excess[frame.t] = frame.before.missing_pct, frame.before.excess_pct
        contradicted[frame.t] = frame.masks is None
        for entity, mask in (frame.masks or {}).items():
            before = masks[entity][frame.t]
            changed[entity][frame.t] = 100 * float((before ^ mask).sum()) / max(float(before.sum()), float(mask.sum()), usual[entity])
            masks[entity][frame.t] = mask
    write_masks(ctx.seq, masks, "again", "again")
    most = np.max(list(changed.values()), axis=0)
    _say(ctx, {names[t]: round(float(most[t]), 2) for t in np.flatnonzero(most).tolist()}, "")
    curves = {f"{entity}.changed_pct": values.tolist() for entity, values in changed.items()}
    return _reported(names, most, contradicted, curves | {"missing_pct": missing.tolist(), "excess_pct": excess.tolist()})


def _reported(names: list[str], most: np.ndarray, contradicted: np.ndarray, curves: dict[str, list[float]]) -> Result:
    """Metrics and notes from the largest change (T,) of a frame's masks, frames (T,) bool whose poses contradict their masks, and curves."""
    means: Metrics = {key: float(np.mean(values)) for key, values in curves.items() if key.endswith("changed_pct")}
    much = [f"{names[t]} ({most[t]:.0f} %)" for t in np.flatnonzero(most > MUCH_PCT).tolist()]
    notes = [
        f"masks changed in {int((most > 0).sum())} of {len(names)} frames, on average by "
        + ", ".join(f"{mean:.1f} % ({key.partition('.')[0]})" for key, mean in means.items())
    ]
    if much:
        notes.append(f"masks that changed by more than {MUCH_PCT:.0f} %: {'; '.join(much)}")
    if contradicted.any():
        notes.append(
            f"masks left as they are, because the object's pose there contradicts them: {', '.join(np.array(names)[contradicted])}"
        )
    counts: Metrics = {
        "changed_frames": int((most > 0).sum()),
        "much_changed_frames": len(much),
        "contradicted_frames": int(contradicted.sum()),
    }
    curves |= {"contradicted": contradicted.astype(float).tolist(), "much_changed": (most > MUCH_PCT).astype(float).tolist()}
    return Result(means | counts, curves, notes)


def _say(ctx: Context, changed_pct: dict[str, float], reason: str) -> None:
    """Write which frames changed, in % of the mask, and why no other did."""
    content = {"changed_pct": changed_pct, "left": reason}
    write_bytes_atomic(ctx.seq.target("second_pass"), json.dumps(content, indent=1).encode())
