"""images/ (and hand masks) -> processed/v3d.npy and j2d.full.npy, the layout that HOLD's registration reads."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from holdprep.config import Config, ImportHand, MediapipeHand, TruthHand
from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import pinhole_K
from holdprep.hand import lbs
from holdprep.hand.lifting import lift_keypoints
from holdprep.hand.model import SIDES, Side
from holdprep.hand.trackers import KeypointTrack, VertexTrack, hamer, mediapipe, metro
from holdprep.pipeline import Context, Result
from holdprep.quality.metrics import longest_gap
from holdprep.quality.truth import load_truth
from holdprep.sequence import Sequence
from holdprep.stages.common import hand_model, wanted_sides
from holdprep.synth import corruption
from holdprep.viz.overlay import COLORS, draw_mesh, draw_skeleton

READERS = {"hamer": hamer.read, "metro": metro.read}


def files(cfg: Config, seq: Sequence) -> dict[str, Path | None]:
    """The folder of an imported tracker's files, or the ground truth."""
    if isinstance(cfg.hand, TruthHand):
        return {"truth": seq.path("truth")}
    return {"tracker": cfg.hand.folder} if isinstance(cfg.hand, ImportHand) else {}


def run(ctx: Context) -> Result:
    node, names = ctx.cfg.hand, ctx.seq.frame_names()
    if isinstance(node, MediapipeHand):
        return _mediapipe(ctx, node)
    if isinstance(node, ImportHand):
        folder = node.folder or ctx.seq.path("v3d").parent
        return _take(ctx, READERS[node.format](folder, names), folder)
    path = ctx.seq.path("truth")
    errors = corruption.HandErrors(**node.model_dump(exclude={"name"}))
    return _take(ctx, corruption.hand_track(load_truth(path), names, errors, ctx.cfg.seed), path)


def _take(ctx: Context, track: VertexTrack, origin: Path) -> Result:
    """Another's meshes and keypoints, as they are."""
    names = ctx.seq.frame_names()
    sides = [s for s in wanted_sides(ctx.cfg) if s in track.vertices_m]
    if not sides:
        raise HoldprepError(
            f"{origin} holds {', '.join(track.vertices_m) or 'no'} hand, hands.which={ctx.cfg.hands.which} asks for another"
        )
    vertices = {s: track.vertices_m[s] for s in sides}
    j2d = {s: track.j2d_px[s] for s in sides}
    _write(ctx, names, vertices, {}, j2d, {}, track.K)
    _write_overlays(ctx, j2d, vertices, track.K)
    return _result({s: np.isfinite(vertices[s]).all(axis=(1, 2)) for s in sides}, list(track.notes))


def _mediapipe(ctx: Context, node: MediapipeHand) -> Result:
    seq, names = ctx.seq, ctx.seq.frame_names()
    with_masks = [s for s in SIDES if seq.has(f"masks_{s}")]
    sides = [s for s in wanted_sides(ctx.cfg) if s in with_masks or not with_masks]
    width, height = seq.image_size()
    K = pinhole_K(node.focal_ratio * max(width, height), width, height)
    tracks: dict[Side, KeypointTrack] = {}
    for side in sides:
        masks = seq.masks(side) if side in with_masks else None
        track = mediapipe.track_hand(seq.images(), side, masks, K=K, min_presence=node.min_presence, progress=True)
        if track.found.any():
            tracks[side] = track
        elif ctx.cfg.hands.which != "auto" or side in with_masks:
            raise HoldprepError(
                f"no {side} hand found in {len(names)} frames: check its masks and side, or hand=import with another tracker's files"
            )
    if not tracks:
        raise HoldprepError(
            f"no hand found in {len(names)} frames of {seq.path('images')}: is one in the picture? try segment first, or hand=import"
        )
    vertices, joints = {}, {}
    for side, track in tracks.items():
        model = hand_model(ctx.cfg, side)
        params = lift_keypoints(model, track, K, ctx.cfg.hands.length_mm)
        mesh = lbs.forward(model, params)
        vertices[side], joints[side] = mesh.vertices.numpy(), mesh.joints.numpy()
    j2d = {s: t.j2d_px for s, t in tracks.items()}
    _write(ctx, names, vertices, joints, j2d, {s: t.confidence for s, t in tracks.items()}, K)
    _write_overlays(ctx, j2d, vertices, K)
    for side, track in tracks.items():
        suffix = () if len(tracks) == 1 else (side,)
        if not suffix:
            seq.write_npy("boxes", track.boxes_px)
        seq.write_images("crop_image", _crops(ctx, track), *suffix)
    return _result({s: t.found for s, t in tracks.items()}, [])


def _write(ctx: Context, names: list[str], vertices: dict, joints: dict, j2d: dict, confidence: dict, K: np.ndarray) -> None:
    """v3d.npy and j2d.full.npy as the reference writes them, with the frames' paths as the key to their rows."""
    im_paths = [str(f) for f in ctx.seq.images().files]
    empty = np.full((len(names), 778, 3), np.nan, np.float32)
    v3d: dict[str, Any] = {"im_paths": im_paths, "K": K.astype(np.float32)}
    keypoints: dict[str, Any] = {"im_paths": im_paths}
    for side in SIDES:
        v3d[f"v3d.{side}"] = vertices.get(side, empty).astype(np.float32)
        v3d[f"j3d.{side}"] = joints.get(side, empty[:, :21]).astype(np.float32)
        keypoints[f"j2d.{side}"] = j2d.get(side, empty[:, :21, :2]).astype(np.float32)
        if side in confidence:
            keypoints[f"confidence.{side}"] = confidence[side].astype(np.float32)
    ctx.seq.write_npy("v3d", v3d)
    ctx.seq.write_npy("j2d", keypoints)


def _write_overlays(ctx: Context, j2d_px: dict[Side, np.ndarray], vertices_m: dict[Side, np.ndarray], K: np.ndarray) -> None:
    """2d_keypoints/ and hpe_vis/: what the tracker saw, and its meshes under its own camera."""
    faces = {side: hand_model(ctx.cfg, side).faces.numpy() for side in vertices_m}

    def frames() -> Iterator[tuple[int, str, np.ndarray]]:
        for t, (name, image) in enumerate(zip(ctx.seq.frame_names(), ctx.seq.images(), strict=True)):
            yield t, f"{name}.jpg", image

    def skeletons() -> Iterator[tuple[str, np.ndarray]]:
        for t, name, image in frames():
            for joints in j2d_px.values():
                image = draw_skeleton(image, joints[t])
            yield name, image

    def meshes() -> Iterator[tuple[str, np.ndarray]]:
        for t, name, image in frames():
            for side, vertices in vertices_m.items():
                image = draw_mesh(image, vertices[t], faces[side], K, COLORS[side])
            yield name, image

    ctx.seq.write_images("keypoints_vis", skeletons())
    ctx.seq.write_images("hpe_vis", meshes())


def _crops(ctx: Context, track: KeypointTrack) -> Iterator[tuple[str, np.ndarray]]:
    for name, image, box in zip(ctx.seq.frame_names(), ctx.seq.images(), track.boxes_px, strict=True):
        if np.isfinite(box).all():
            size = max(round(float(box[2] - box[0])), 1)
            centre = (float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2)
            yield f"{name}.jpg", cv2.getRectSubPix(image, (size, size), centre)


def _result(found: dict[Side, np.ndarray], notes: list[str]) -> Result:
    metrics: dict[str, Any] = {}
    for side, valid in found.items():
        metrics[f"{side}.detected_pct"] = 100 * float(valid.mean())
        metrics[f"{side}.longest_gap"] = longest_gap(valid)
        notes.append(f"{side} hand in {int(valid.sum())} of {len(valid)} frames")
    return Result(metrics, {f"{s}.detected": v.astype(float).tolist() for s, v in found.items()}, notes)
