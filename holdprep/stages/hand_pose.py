"""images/ (and hand masks) -> processed/v3d.npy and j2d.full.npy, the layout of HOLD's registration."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import cv2
import numpy as np

from holdprep.errors import HoldprepError
from holdprep.hand.model import Side
from holdprep.hand.trackers import trackfile
from holdprep.hand.trackers.option import HandTask, HandTracker
from holdprep.hand.trackers.tracks import VertexTrack
from holdprep.pipeline import Context, Result
from holdprep.quality.metrics import longest_gap
from holdprep.stages.common import hand_model
from holdprep.viz.overlay import COLORS, draw_mesh, draw_skeleton


def measure(ctx: Context) -> Result:
    """Metrics of an existing v3d.npy. Raises HoldprepError where it holds no requested hand."""
    track = trackfile.read(ctx.seq.path("v3d").parent, ctx.seq.frame_names())
    found = {s: track.found(s) for s in ctx.cfg.hands.sides if s in track.vertices_m}
    if not found:
        raise HoldprepError(f"{ctx.seq.path('v3d')} holds no hand of hands.which={ctx.cfg.hands.which}: run stage=hand_pose again")
    return _result(found, list(track.notes))


def run(ctx: Context) -> Result:
    cfg, seq = ctx.cfg, ctx.seq
    tracker: HandTracker = cfg.hand
    tracked = tracker.track(HandTask(seq, cfg.device, cfg.seed, cfg.hands, partial(hand_model, cfg)))
    track = tracked.track
    trackfile.write(seq.target("v3d").parent, track, [str(file) for file in seq.images().files])
    _write_overlays(ctx, track)
    _write_crops(ctx, tracked.boxes_px)
    for artefact, array in tracked.files.items():
        seq.write_npy(artefact, array)
    return _result({side: track.found(side) for side in track.vertices_m}, list(track.notes))


def _write_crops(ctx: Context, boxes_px: Mapping[Side, np.ndarray]) -> None:
    """Write crop_image/ of the hands that have boxes, and boxes.npy if there is one hand only."""
    for side, boxes in boxes_px.items():
        suffix = () if len(boxes_px) == 1 else (side,)
        if not suffix:
            ctx.seq.write_npy("boxes", boxes)
        ctx.seq.write_images("crop_image", _crops(ctx, boxes), *suffix)


def _write_overlays(ctx: Context, track: VertexTrack) -> None:
    """Write 2d_keypoints/ and hpe_vis/: the tracker's keypoints, and its meshes under its own camera."""
    faces = {side: hand_model(ctx.cfg, side).faces.numpy() for side in track.vertices_m}

    def frames() -> Iterator[tuple[int, str, np.ndarray]]:
        for t, (name, image) in enumerate(zip(ctx.seq.frame_names(), ctx.seq.images(), strict=True)):
            yield t, f"{name}.jpg", image

    def skeletons() -> Iterator[tuple[str, np.ndarray]]:
        for t, name, image in frames():
            for side, joints in track.j2d_px.items():
                image = draw_skeleton(image, joints[t], track.confidence[side][t] if side in track.confidence else None)
            yield name, image

    def meshes() -> Iterator[tuple[str, np.ndarray]]:
        for t, name, image in frames():
            for side, vertices in track.vertices_m.items():
                image = draw_mesh(image, vertices[t], faces[side], track.K, COLORS[side])
            yield name, image

    ctx.seq.write_images("keypoints_vis", skeletons())
    ctx.seq.write_images("hpe_vis", meshes())


def _crops(ctx: Context, boxes_px: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    for name, image, box in zip(ctx.seq.frame_names(), ctx.seq.images(), boxes_px, strict=True):
        if np.isfinite(box).all():
            size = max(round(float(box[2] - box[0])), 1)
            centre = (float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2)
            yield f"{name}.jpg", cv2.getRectSubPix(image, (size, size), centre)


def _result(found: Mapping[Side, np.ndarray], notes: list[str]) -> Result:
    metrics: dict[str, Any] = {}
    for side, valid in found.items():
        metrics[f"{side}.detected_pct"] = 100 * float(valid.mean())
        metrics[f"{side}.longest_gap"] = longest_gap(valid)
        notes.append(f"{side} hand in {int(valid.sum())} of {len(valid)} frames")
    return Result(metrics, {f"{s}.detected": v.astype(float).tolist() for s, v in found.items()}, notes)
