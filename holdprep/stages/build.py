"""Aligned sequence -> build/ and <seq>.zip, exactly what HOLD trains on; read back as the trainer does before it counts as done."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from holdprep import safeio
from holdprep.dataset import hold
from holdprep.dataset.trainer import project_build
from holdprep.geometry.cameras import project
from holdprep.hand.model import HandModel, Side
from holdprep.hand.outline import arm_pixels
from holdprep.pipeline import Context, Result
from holdprep.sequence import atomic_dir, write_image
from holdprep.stages.common import pose_aligned, read_aligned
from holdprep.viz.overlay import COLORS, draw_mesh, draw_points, side_view

VIS_FRAMES = 24  # pictures in build/vis


def run(ctx: Context) -> Result:
    seq, shift = ctx.seq, ctx.cfg.build.shift
    names = seq.frame_names()
    K, hands, obj, models = read_aligned(ctx)
    shift_m = hold.normalize_shift(obj, shift)
    vertices = {side: pose_aligned(models[side], hand).vertices.numpy() for side, hand in hands.items()}
    points: dict[str, np.ndarray] = {side: v for side, v in vertices.items()}
    points["object"] = obj.points_cam_m
    report = hold.rays_report(points, shift_m)
    notes = hold.check_rays(report, shift, float(np.median(obj.points_cam_m[..., 2])))
    data = hold.assemble(seq.name, K, hands, obj, shift_m)
    lens = seq.lens()
    labels = _without_arms(seq.label_images(lens), {side: project(v, K) for side, v in vertices.items()}, models)
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
        bad = hold.unusable_frames(present, list(hands))
        (folder / "vis").mkdir()
        for name, picture in _pictures(ctx, points, models, K):
            write_image(folder / "vis" / name, picture)
    if ctx.cfg.build.zip:
        notes.append(f"packed as {seq.pack()}")
    for t in bad[:3]:
        ctx.warn(f"frame {names[t]} shows neither object nor hand: HOLD's trainer crashes on it ({len(bad)} such frames)")
    model_name = next(iter(models.values())).name
    metrics: dict[str, Any] = {
        "frames": len(names),
        "roundtrip_px": roundtrip,
        "object_in_rays_pct": report["object_in_rays_pct"],
        "hand_in_rays_pct": min(report[f"{side}_in_rays_pct"] for side in hands),
        "ray_sphere_radius_m": report["ray_sphere_radius_m"],
        "unusable_frames": len(bad),
        "trainable": model_name == "mano",
        "hand_model": model_name,
    }
    return Result(metrics, {}, notes)


def _without_arms(
    label_images: Iterable[np.ndarray], px: Mapping[Side, np.ndarray], models: Mapping[Side, HandModel]
) -> Iterator[np.ndarray]:
    """Label images (H, W) whose hands end at the wrist: what the posed hands `px` (T, 778, 2) show to be forearm is background."""
    for t, picture in enumerate(label_images):
        labels = picture.copy()
        for side, model in models.items():
            labels[arm_pixels(labels == hold.LABELS[side], px[side][t], model.faces.numpy())] = 0
        yield labels


def _roundtrip(data: dict[str, Any], models: dict[Side, HandModel], points_cam_m: dict[str, np.ndarray], K: np.ndarray) -> float:
    """Largest distance (px) between a point where it was aligned and where the trainer will see it."""
    seen = project_build(data, models)
    return max(float(np.abs(seen[e] - project(points_cam_m[e], K)).max()) for e in seen)


def _pictures(
    ctx: Context, points_cam_m: dict[str, np.ndarray], models: dict[Side, HandModel], K: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Overlays and side views of some frames, evenly over the clip."""
    names, images = ctx.seq.frame_names(), ctx.seq.images(ctx.seq.lens())
    for t in np.unique(np.linspace(0, len(names) - 1, VIS_FRAMES).round().astype(int)):
        picture = draw_points(images[int(t)], project(points_cam_m["object"][t], K), COLORS["object"])
        for side, model in models.items():
            picture = draw_mesh(picture, points_cam_m[side][t], model.faces.numpy(), K, COLORS[side])
        yield f"{names[t]}_overlay.jpg", picture
        yield f"{names[t]}_side.jpg", side_view({e: p[t] for e, p in points_cam_m.items()})
