"""images/ (and hand masks) -> processed/v3d.npy and j2d.full.npy, the layout that HOLD's registration reads."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from holdprep.config import HamerHand, ImportHand, MediapipeHand, MetroHand
from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import pinhole_K, project
from holdprep.hand import lbs
from holdprep.hand.lifting import lift_keypoints
from holdprep.hand.model import SIDES, HandModel, Side
from holdprep.hand.trackers import (
    KeypointTrack,
    VertexTrack,
    crops,
    hamer,
    hamer_network,
    hawor,
    keypoints,
    meshes,
    metro,
    metro_network,
    wilor,
)
from holdprep.pipeline import Context, Result
from holdprep.quality.metrics import longest_gap
from holdprep.quality.truth import load_truth
from holdprep.stages import hand_boxes
from holdprep.stages.common import hand_model, params_to_dict, wanted_sides
from holdprep.synth import corruption
from holdprep.viz.overlay import COLORS, draw_mesh, draw_skeleton

FOCAL_RATIO = 1.2  # focal length / longest image side of the keypoints' camera, where it is not told


def measure(ctx: Context) -> Result:
    """Of v3d.npy, whoever made it. Raises HoldprepError where it holds no hand that is asked for."""
    track = hamer.read(ctx.seq.path("v3d").parent, ctx.seq.frame_names())
    found = {s: np.isfinite(track.vertices_m[s]).all(axis=(1, 2)) for s in wanted_sides(ctx.cfg) if s in track.vertices_m}
    if not found:
        raise HoldprepError(
            f"{ctx.seq.path('v3d')} holds no hand that hands.which={ctx.cfg.hands.which} asks for: run stage=hand_pose again"
        )
    return _result(found, list(track.notes))


def run(ctx: Context) -> Result:
    node, names = ctx.cfg.hand, ctx.seq.frame_names()
    if isinstance(node, MediapipeHand):
        return _mediapipe(ctx, node)
    if isinstance(node, HamerHand):
        return _hamer(ctx, node)
    if isinstance(node, MetroHand):
        return _metro(ctx, node)
    if isinstance(node, ImportHand):
        folder = node.folder or ctx.seq.path("v3d").parent
        if not folder.exists():
            raise HoldprepError(f"{folder} is not there: hand.folder is where the tracker's files are")
        return _take(ctx, _import(ctx, node, folder), folder)
    path = ctx.seq.path("truth")
    errors = corruption.HandErrors(**node.model_dump(exclude={"name"}))
    return _take(ctx, corruption.hand_track(load_truth(path), names, errors, ctx.cfg.seed), path)


def _import(ctx: Context, node: ImportHand, folder: Path) -> VertexTrack:
    names = ctx.seq.frame_names()
    if node.format == "hamer":
        return hamer.read(folder, names)
    if node.format == "metro":
        return metro.read(folder, names)
    size = ctx.seq.image_size()
    if node.format == "keypoints":
        tracks, notes = keypoints.read(folder, names, size)
        tracks = {s: t for s, t in tracks.items() if s in wanted_sides(ctx.cfg)}
        return _lifted(ctx, tracks, _camera(ctx, node.focal_px), notes)
    models = {side: hand_model(ctx.cfg, side) for side in SIDES}
    if node.format == "meshes":
        return meshes.read(folder, names, size, models, node.focal_px)
    return (wilor if node.format == "wilor" else hawor).read(folder, names, size, models)


def _take(ctx: Context, track: VertexTrack, origin: Path) -> Result:
    """Another's meshes and keypoints, as they are."""
    sides = [s for s in wanted_sides(ctx.cfg) if s in track.vertices_m]
    if not sides:
        raise HoldprepError(
            f"{origin} holds {', '.join(track.vertices_m) or 'no'} hand, hands.which={ctx.cfg.hands.which} asks for another"
        )
    vertices, j2d = {s: track.vertices_m[s] for s in sides}, {s: track.j2d_px[s] for s in sides}
    joints, params = {s: j for s, j in track.joints_m.items() if s in sides}, {s: p for s, p in track.params.items() if s in sides}
    return _keep(ctx, replace(track, vertices_m=vertices, j2d_px=j2d, joints_m=joints, params=params))


def _keep(ctx: Context, track: VertexTrack, boxes_px: Mapping[Side, np.ndarray] | None = None) -> Result:
    """Write a track, its pictures and, where our own tracker made them, its crops."""
    _write(ctx, track)
    _write_overlays(ctx, track)
    for side, boxes in (boxes_px or {}).items():
        suffix = () if len(boxes_px or {}) == 1 else (side,)
        if not suffix:
            ctx.seq.write_npy("boxes", boxes)
        ctx.seq.write_images("crop_image", _crops(ctx, boxes), *suffix)
    return _result({s: np.isfinite(v).all(axis=(1, 2)) for s, v in track.vertices_m.items()}, list(track.notes))


def _lifted(ctx: Context, tracks: Mapping[Side, KeypointTrack], K: np.ndarray, notes: Iterable[str] = ()) -> VertexTrack:
    """Keypoints and the meshes that explain them; a joint that was not seen is the mesh's, of confidence 0."""
    vertices, joints, j2d = {}, {}, {}
    for side, track in tracks.items():
        model = hand_model(ctx.cfg, side)
        mesh = lbs.forward(model, lift_keypoints(model, track, K, ctx.cfg.hands.length_mm))
        vertices[side], joints[side] = mesh.vertices.numpy(), mesh.joints.numpy()
        j2d[side] = np.where(np.isfinite(track.j2d_px), track.j2d_px, project(joints[side], K))
    confidence, keypoints_m = {s: t.confidence for s, t in tracks.items()}, {s: t.j3d_m for s, t in tracks.items()}
    names = tuple(ctx.seq.frame_names())
    return VertexTrack(vertices, j2d, K, names, tuple(notes), joints, confidence=confidence, keypoints_m=keypoints_m)


def _camera(ctx: Context, focal_px: float | None) -> np.ndarray:
    """K (3, 3) of a camera of that focal length, or of a usual one until SfM has measured it."""
    size = ctx.seq.image_size()
    return pinhole_K(focal_px or FOCAL_RATIO * max(size), *size)


def _mediapipe(ctx: Context, node: MediapipeHand) -> Result:
    K = _camera(ctx, node.focal_px)
    tracks = hand_boxes.keypoint_tracks(ctx, K, threads=node.threads, min_presence=node.min_presence, smooth=node.smooth)
    return _keep(ctx, _lifted(ctx, tracks, K), {s: t.boxes_px for s, t in tracks.items()})


def _hamer(ctx: Context, node: HamerHand) -> Result:
    network = hamer_network.load(node.checkpoint)
    bring(network, network.backbone, ctx.cfg.device, node.dtype)
    boxes, notes = hand_boxes.boxes(ctx, node)
    if node.crop == "100doh":
        boxes = {side: hamer.box_of(crops.doh_squares(given)) for side, given in boxes.items()}
    models = {side: hand_model(ctx.cfg, side) for side in dict.fromkeys(("right", *boxes))}
    notes += _standin_note("HaMeR", models["right"])
    track = hamer.track(
        ctx.seq.images(),
        boxes,
        network,
        models,
        ctx.seq.frame_names(),
        focal_px=node.focal_px,
        batch=node.batch,
        threads=node.threads,
        progress=True,
    )
    return _keep(ctx, replace(track, notes=(*track.notes, *notes)), {s: hamer.square(b) for s, b in boxes.items()})


def _metro(ctx: Context, node: MetroHand) -> Result:
    network = metro_network.load(node.checkpoint, node.backbone)
    bring(network, network.backbone, ctx.cfg.device, node.dtype)
    kept = metro.read_kept(node.sampling)
    boxes, notes = hand_boxes.boxes(ctx, node)
    model, names = hand_model(ctx.cfg, "right"), ctx.seq.frame_names()
    found = metro.track(
        ctx.seq.images(),
        boxes,
        network,
        model,
        kept,
        names,
        reuse_boxes=node.crop == "100doh",
        batch=node.batch,
        threads=node.threads,
        progress=True,
    )
    width, height = ctx.seq.image_size()
    K = crops.long_lens(width, height, node.focal_px)
    result = _keep(ctx, metro.place(found, K, names, notes + _standin_note("METRO", model)), {s: h.boxes_px for s, h in found.items()})
    if "right" in found:  # METRO's own files know no left hand
        ctx.seq.write_npy("v3d_metro", found["right"].v3d_ra_m.astype(np.float32))
        ctx.seq.write_npy("j2d_metro", found["right"].j2d_crop_px.astype(np.float32))
        ctx.seq.write_npy("boxes", found["right"].boxes_px)
    return result


def _standin_note(tracker: str, model: HandModel) -> list[str]:
    told = f"{tracker} was trained on MANO: with the stand-in hand its results are near, not exact; set hand_model.path"
    return [told] if model.name == "standin" else []


def bring(network: nn.Module, backbone: nn.Module, device: str, dtype: str) -> None:
    """A network to where it runs, its backbone to the precision asked for (`auto`: bfloat16 on CUDA)."""
    if device == "cuda" and not torch.cuda.is_available():
        raise HoldprepError("device=cuda: torch sees no CUDA device here; set device=cpu, or install a CUDA build of torch")
    automatic = "bfloat16" if device == "cuda" else "float32"
    network.to(device)
    backbone.to(getattr(torch, automatic if dtype == "auto" else dtype))


def _write(ctx: Context, track: VertexTrack) -> None:
    """v3d.npy and j2d.full.npy as the reference writes them, with the frames' paths as the key to their rows.

    Beyond the reference: `params.<side>`, MANO parameters of a tracker that has them, `keypoints.<side>`, 3D keypoints from the wrist of one
    whose meshes are derived from them, and `confidence.<side>` of keypoints.
    """
    im_paths = [str(f) for f in ctx.seq.images().files]
    empty = np.full((len(im_paths), 778, 3), np.nan, np.float32)
    v3d: dict[str, Any] = {"im_paths": im_paths, "K": track.K.astype(np.float32)}
    seen: dict[str, Any] = {"im_paths": im_paths}
    for side in SIDES:
        v3d[f"v3d.{side}"] = track.vertices_m.get(side, empty).astype(np.float32)
        v3d[f"j3d.{side}"] = track.joints_m.get(side, empty[:, :21]).astype(np.float32)
        seen[f"j2d.{side}"] = track.j2d_px.get(side, empty[:, :21, :2]).astype(np.float32)
        if side in track.params:
            v3d[f"params.{side}"] = params_to_dict(track.params[side])
        if side in track.keypoints_m:
            v3d[f"keypoints.{side}"] = track.keypoints_m[side].astype(np.float32)
        if side in track.j2d_px and side in track.confidence:
            seen[f"confidence.{side}"] = track.confidence[side].astype(np.float32)
    ctx.seq.write_npy("v3d", v3d)
    ctx.seq.write_npy("j2d", seen)


def _write_overlays(ctx: Context, track: VertexTrack) -> None:
    """2d_keypoints/ and hpe_vis/: what the tracker saw, and its meshes under its own camera."""
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


def _result(found: dict[Side, np.ndarray], notes: list[str]) -> Result:
    metrics: dict[str, Any] = {}
    for side, valid in found.items():
        metrics[f"{side}.detected_pct"] = 100 * float(valid.mean())
        metrics[f"{side}.longest_gap"] = longest_gap(valid)
        notes.append(f"{side} hand in {int(valid.sum())} of {len(valid)} frames")
    return Result(metrics, {f"{s}.detected": v.astype(float).tolist() for s, v in found.items()}, notes)
