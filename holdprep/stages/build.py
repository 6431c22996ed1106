"""Aligned sequence -> build/ and <seq>.zip in the format of HOLD's trainer, verified by reading them as the trainer does."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from holdprep.dataset import hold
from holdprep.dataset.trainer import project_build
from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from holdprep.hand.hold_params import read_fits
from holdprep.hand.model import HandModel, Side
from holdprep.hand.outline import arm_pixels
from holdprep.io import safeio
from holdprep.io.atomic import atomic_dir
from holdprep.pipeline import Context, Metrics, Result
from holdprep.sequence import colmap as colmap_files
from holdprep.sequence import image_files, packing, read_image, write_image
from holdprep.stages.common import pose_aligned, read_aligned
from holdprep.viz.overlay import draw_scene, side_view

VIS_FRAMES = 24  # images in build/vis


def run(ctx: Context) -> Result:
    seq, shift = ctx.seq, ctx.cfg.build.shift
    K, hands, obj, models = read_aligned(ctx)
    shift_m = hold.normalize_shift(obj, shift)
    points = _points(hands, obj, models)
    report = hold.rays_report(points, shift_m)
    notes = hold.check_rays(report, shift, float(np.median(obj.points_cam_m[..., 2])))
    data = hold.assemble(seq.name, K, hands, obj, shift_m)
    lens = colmap_files.lens_of(seq)
    px: dict[Side, np.ndarray] = {side: project(points[side], K) for side in models}
    labels = _without_arms(seq.label_images(lens), px, models)
    present = []  # labels of each frame
    with atomic_dir(seq.target("build")) as folder:
        safeio.save_npy(folder / "data.npy", data)
        roundtrip = _roundtrip(safeio.load_npy(folder / "data.npy"), models, points, K)
        (folder / "corres.txt").write_text("".join(f"{f.name}\n" for f in seq.images().files))
        for kind, pictures in (("image", seq.images(lens)), ("mask", labels)):
            (folder / kind).mkdir()
            for t, picture in enumerate(pictures):
                write_image(folder / kind / f"{t:04d}.png", picture)
                if kind == "mask":
                    present.append(np.unique(picture))
        (folder / "vis").mkdir()
        for name, picture in _pictures(ctx, points, models, K):
            write_image(folder / "vis" / name, picture)
    if ctx.cfg.build.zip:
        notes.append(f"packed as {packing.pack(seq)}")
    return Result(_metrics(ctx, present, report, roundtrip, models), {}, notes)


def measure(ctx: Context) -> Result:
    """Metrics of an existing build, read as by the trainer, with respect to the alignment."""
    folder = ctx.seq.path("build")
    K, hands, obj, models = read_aligned(ctx)
    points = _points(hands, obj, models)
    data, masks = safeio.load_npy(folder / "data.npy"), image_files(folder / "mask") if (folder / "mask").is_dir() else []
    frames = len(ctx.seq.frame_names())
    if len(masks) != frames:
        raise HoldprepError(f"{folder / 'mask'} holds {len(masks)} masks, images/ {frames} frames: run stage=build force=true")
    try:
        roundtrip, shift_m = _roundtrip(data, models, points, K), np.asarray(data["normalize_shift"], np.float64)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise HoldprepError(f"{folder / 'data.npy'} cannot be read by HOLD's trainer ({error}): run stage=build force=true") from error
    labels = [np.unique(read_image(file, cv2.IMREAD_UNCHANGED)) for file in masks]
    return Result(_metrics(ctx, labels, hold.rays_report(points, shift_m), roundtrip, models))


def _points(hands: Mapping[Side, hold.AlignedHand], obj: hold.AlignedObject, models: Mapping[Side, HandModel]) -> dict[str, np.ndarray]:
    """Points (T, N, 3) m in the camera frame, by entity."""
    points: dict[str, np.ndarray] = {side: pose_aligned(models[side], hand).vertices.numpy() for side, hand in hands.items()}
    return points | {"object": obj.points_cam_m}


def _metrics(
    ctx: Context, labels: Sequence[np.ndarray], report: Mapping[str, float], roundtrip_px: float, models: Mapping[Side, HandModel]
) -> Metrics:
    names, bad = ctx.seq.frame_names(), hold.unusable_frames(labels, list(models))
    for t in bad[:3]:
        ctx.warn(f"frame {names[t]} shows neither object nor hand: HOLD's trainer crashes on it ({len(bad)} such frames)")
    model_name = next(iter(models.values())).name
    return {
        "frames": len(names),
        "roundtrip_px": roundtrip_px,
        "object_in_rays_pct": report["object_in_rays_pct"],
        "hand_in_rays_pct": min(report[f"{side}_in_rays_pct"] for side in models),
        "ray_sphere_radius_m": report["ray_sphere_radius_m"],
        "unusable_frames": len(bad),
        "trainable": model_name == "mano",
        "hand_model": model_name,
    }


def _without_arms(
    label_images: Iterable[np.ndarray], px: Mapping[Side, np.ndarray], models: Mapping[Side, HandModel]
) -> Iterator[np.ndarray]:
    """Label images (H, W) with the forearms set to background, given the posed hands `px` (T, 778, 2)."""
    for t, picture in enumerate(label_images):
        labels = picture.copy()
        for side, model in models.items():
            labels[arm_pixels(labels == hold.LABELS[side], px[side][t], model.faces.numpy())] = 0
        yield labels


def _roundtrip(data: dict[str, Any], models: dict[Side, HandModel], points_cam_m: dict[str, np.ndarray], K: np.ndarray) -> float:
    """Largest distance (px) between the projections of a point by the alignment and by the trainer."""
    seen = project_build(data, models)
    return max(float(np.abs(seen[e] - project(points_cam_m[e], K)).max()) for e in seen)


def _pictures(
    ctx: Context, points_cam_m: dict[str, np.ndarray], models: dict[Side, HandModel], K: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Overlays and side views of some frames, evenly spaced."""
    names, images = ctx.seq.frame_names(), ctx.seq.images(colmap_files.lens_of(ctx.seq))
    fits = read_fits(ctx.seq.path("fit_slerp")) if ctx.seq.has("fit_slerp") else {}
    marks: dict[str, Any] = {side: fits.get(side, {}).get("is_valid") for side in models}
    marks |= {"object": colmap_files.read_colmap(ctx.seq).get("registered")}
    seen = {entity: np.ones(len(names), bool) if mark is None else np.asarray(mark) > 0 for entity, mark in marks.items()}
    for t in np.unique(np.linspace(0, len(names) - 1, VIS_FRAMES).round().astype(int)):
        meshes = {side: (points_cam_m[side][t], model.faces.numpy()) for side, model in models.items()}
        unmeasured = [entity for entity in seen if t < len(seen[entity]) and not seen[entity][t]]
        yield f"{names[t]}_overlay.jpg", draw_scene(images[int(t)], project(points_cam_m["object"][t], K), meshes, K, unmeasured)
        yield f"{names[t]}_side.jpg", side_view({e: p[t] for e, p in points_cam_m.items()})
