"""images/ and object masks -> processed/colmap/ (intrinsics, poses, cloud) and processed/colmap_2d/."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from holdprep.geometry.cameras import distort, llff_poses, project
from holdprep.geometry.lens import Lens
from holdprep.geometry.rigid import apply
from holdprep.object import plausibility
from holdprep.object.option import ObjectPoseSource, PoseTask
from holdprep.object.reconstruction import ObjectReconstruction, Observations, RawReconstruction, restore, undistort
from holdprep.pipeline import Context, Metrics, Result
from holdprep.quality.bounds import show
from holdprep.quality.gates import Gate, judge
from holdprep.quality.metrics import longest_gap
from holdprep.sequence import colmap as colmap_files
from holdprep.stages.common import hand_model
from holdprep.threads import THREADS, in_order
from holdprep.viz.overlay import draw_axes, draw_points

LENS_MATTERS_PX = 1.0  # at the corner


def measure(ctx: Context) -> Result:
    """Metrics of an existing processed/colmap/, without those whose files are missing."""
    seq, names = ctx.seq, ctx.seq.frame_names()
    files = colmap_files.read_colmap(seq)
    observations = Observations.none()
    if "observation_px" in files:
        observations = Observations(*(files[f"observation_{k}"] for k in ("frame", "point", "px")))
    registered = files.get("registered", np.ones(len(names), bool))
    raw = RawReconstruction(names, files["intrinsic"], files["o2w"], registered, colmap_files.points_sfm(files), observations)
    found = restore(raw, files.get("origin"), files.get("contested"))
    cloud = _on_masks(ctx, found)
    metrics = {name: value for name, value in _metrics(ctx, found, cloud).items() if name != "models"}
    return Result(
        metrics,
        _curves(found, cloud.outside_pct),
        [f"{found.registered.sum()} of {len(names)} frames registered, focal length {found.focal_px:.0f} px"],
    )


def run(ctx: Context) -> Result:
    cfg: ObjectPoseSource = ctx.cfg.object_pose

    def gates(found: ObjectReconstruction) -> list[Gate]:
        return judge(ctx.stage, _metrics(ctx, found, _on_masks(ctx, found)), ctx.cfg.gates)

    sourced = cfg.find_poses(PoseTask(ctx.seq, ctx.cfg.device, ctx.cfg.seed, gates, ctx.note, partial(hand_model, ctx.cfg)))
    found = sourced.reconstruction
    tried: Metrics = {} if sourced.tried is None else {"tried": sourced.tried}
    result = _result(ctx, found, tried)
    lens = _lens(ctx, found)
    if lens is not None and cfg.undistort:
        result.notes.append(
            f"the lens moves the image's corner by {lens.corner_shift_px():.1f} px{_stderr_words(found, lens)}: in later stages images, masks "
            "and keypoints are undistorted (object_pose.undistort=false leaves them)"
        )
        found = undistort(found, lens)
    _write(ctx, found, lens if cfg.undistort else None)
    return result


def _lens(ctx: Context, found: ObjectReconstruction) -> Lens | None:
    """The lens, if its distortion is significant; beyond the radius where it was observed it is taken as there."""
    if not len(found.distortion):
        return None
    known = found.uncertainty.lens_radius if found.uncertainty is not None else None
    lens = Lens(found.K, float(found.distortion[0]), ctx.seq.image_size(), np.inf if known is None else known)
    return lens if lens.corner_shift_px() > LENS_MATTERS_PX else None


def _stderr_words(found: ObjectReconstruction, lens: Lens) -> str:
    """The standard error of the lens's effect, where it is known."""
    stderr = found.uncertainty.k_stderr if found.uncertainty is not None else np.nan
    return f" (+- {lens.corner_shift_px() * stderr / abs(lens.k):.1f})" if np.isfinite(stderr) else ""


def _write(ctx: Context, found: ObjectReconstruction, lens: Lens | None) -> None:
    seq = ctx.seq
    px = project(apply(found.T_cam_obj, found.trimmed_points_obj), found.K)
    colmap_files.write_colmap(
        seq,
        arrays={
            "intrinsic": found.K,
            "o2w": found.T_cam_obj,
            "normalization_mat": found.normalization,
            "poses": llff_poses(found.T_cam_obj[found.registered], found.K, seq.image_size()),
        },
        clouds={
            "sparse_points.ply": (found.points_obj, found.colors),
            "sparse_points_trim.ply": (found.trimmed_points_obj, found.colors[found.kept_points]),
            "sparse_points_normalized.obj": (apply(found.normalization, found.trimmed_points_obj), None),
        },
        tracks={
            "names": np.array(found.names),
            "points_obj": found.trimmed_points_obj,
            "registered": found.registered,
            "origin": np.array(found.origin),
            "inliers": found.inliers,
            "distortion": found.distortion,
            "lens": np.array(lens.k if lens else 0.0),
            "lens_radius": np.array(lens.radius if lens else np.inf),
            **({} if found.uncertainty is None else {"pose_covariance": found.uncertainty.pose_covariance}),
            **({} if found.contested is None else {"contested": found.contested}),
            **_observations_of_kept_points(found),
        },
    )
    colmap_files.write_colmap_2d(seq, px.astype(np.float32), _overlays(ctx, found, px))


def _observations_of_kept_points(found: ObjectReconstruction) -> dict[str, np.ndarray]:
    seen = Observations(found.observation_frame, found.observation_point, found.observation_px).of_points(found.kept_points)
    return {"observation_frame": seen.frame, "observation_point": seen.point, "observation_px": seen.px}


def _overlays(ctx: Context, found: ObjectReconstruction, px: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    T_cam_centre = found.T_cam_obj.copy()  # axes are drawn at the cloud's median, since the origin of the SfM frame is arbitrary
    T_cam_centre[:, :3, 3] = apply(found.T_cam_obj, np.median(found.trimmed_points_obj, axis=0)[None])[:, 0]
    length = 0.5 * float(np.ptp(found.trimmed_points_obj, axis=0).max())
    colors = found.colors[found.kept_points][:, ::-1]
    images = ctx.seq.images(colmap_files.lens_of(ctx.seq))

    def draw(t: int) -> tuple[str, np.ndarray]:
        return f"{found.names[t]}.jpg", draw_axes(draw_points(images[t], px[t], colors), found.K, T_cam_centre[t], length)

    return in_order(draw, range(len(images)), THREADS, ahead=THREADS)


@dataclass(frozen=True)
class _OnMasks:
    """Percentages (R,) in the registered frames: of the cloud outside of masks and hands, and of the object's masks inside the cloud."""

    outside_pct: np.ndarray
    covered_pct: np.ndarray


def _on_masks(ctx: Context, found: ObjectReconstruction) -> _OnMasks:
    """The cloud compared with the masks, which are read for it."""
    of_object, of_hands = ctx.seq.masks("object"), ctx.seq.hand_pixels()
    points = apply(found.T_cam_obj[found.registered], found.trimmed_points_obj)
    if len(found.distortion):
        points = distort(points, float(found.distortion[0]))

    def judge(frame: tuple[int, np.ndarray]) -> tuple[float, float]:
        t, px = frame
        mask = of_object[t]
        return plausibility.outside_pct(px, mask, of_hands[t]), plausibility.mask_covered_pct(px, mask)

    frames = zip(np.flatnonzero(found.registered).tolist(), project(points, found.K), strict=True)
    shares = np.array(list(in_order(judge, frames, THREADS, ahead=THREADS))).reshape(-1, 2)
    return _OnMasks(shares[:, 0], shares[:, 1])


def _plausibility(ctx: Context, found: ObjectReconstruction, cloud: _OnMasks) -> Metrics:
    """Plausibility metrics, which detect wrong reconstructions even with small reprojection errors."""
    outside = cloud.outside_pct
    return {
        "longest_gap": longest_gap(found.registered),
        **({} if (filled := plausibility.gap_filled_by(found.registered, found.origin)) is None else {"gap_filled_by": filled}),
        "field_of_view_deg": plausibility.field_of_view_deg(found.focal_px, ctx.seq.image_size()),
        "cloud_outside_pct": plausibility.median_or_nan(outside),
        "mask_lost_frames_pct": 100 * float((outside > plausibility.MASK_LOST_PCT).sum()) / max(len(outside), 1),
        "mask_covered_pct": plausibility.median_or_nan(cloud.covered_pct),
        **({} if found.contested is None else {"agreement_pct": 100 * float(1 - found.contested.mean())}),
    }


def _metrics(ctx: Context, found: ObjectReconstruction, cloud: _OnMasks) -> Metrics:
    return {
        **_silhouettes(found),
        "registered_pct": 100 * float(found.registered.mean()),
        "resectioned_frames": found.origin.count("resectioned"),
        "interpolated_frames": found.origin.count("interpolated"),
        "held_frames": found.origin.count("held"),
        **({} if found.silhouettes is not None else {"carried_frames": found.origin.count("hand")}),
        "held_pct": 100 * found.origin.count("held") / len(found.origin),
        **(
            {"reprojection_px": found.reprojection_px, "track_length": float(found.track_length.mean())}
            if len(found.observation_px)
            else {}
        ),
        "focal_px": found.focal_px,
        **_uncertainties(ctx, found),
        "focal_ratio": found.focal_px / max(ctx.seq.image_size()),
        "points": len(found.points_obj),
        "rotation_jumps": len(found.rotation_jumps),
        "models": len(found.models),
        **_plausibility(ctx, found, cloud),
    }


def _silhouettes(found: ObjectReconstruction) -> Metrics:
    """Metrics of poses from silhouettes; none of other poses."""
    evidence = found.silhouettes
    if evidence is None:
        return {}
    return {
        "from_silhouettes": True,
        "silhouette_iou": plausibility.median_or_nan(evidence.iou),
        "hand_frames": found.origin.count("hand"),
        "grasp_departure_deg": evidence.departure_pct90_deg,
        "finger_motion_mm": evidence.finger_motion_mm,
        "free_axes": len(evidence.free_axes_obj),
    }


def _silhouette_notes(found: ObjectReconstruction) -> list[str]:
    """Lines that say what poses from silhouettes rest on; none of other poses."""
    evidence = found.silhouettes
    if evidence is None:
        return []
    lines = [
        "poses and shape are from silhouettes and the hand's motion, not from structure from motion: "
        f"{found.origin.count('silhouettes')} frames from silhouettes, {found.origin.count('hand')} from the hand alone"
    ]
    for x, y, z in evidence.free_axes_obj:
        lines.append(
            f"silhouettes do not determine rotations about the axis ({x:.2f}, {y:.2f}, {z:.2f}) through the object's centre: the object is "
            "symmetric or hidden there, and its rotation about this axis is the hand's"
        )
    return lines


def _uncertainties(ctx: Context, found: ObjectReconstruction) -> Metrics:
    """Standard errors of the focal length (unknown where it is held), of the lens's effect on the corner, and of the rotations (median)."""
    known = found.uncertainty
    if known is None:
        return {}
    metrics: Metrics = {"rotation_stderr_deg": float(np.nanmedian(known.rotation_stderr_deg()))}
    if known.focal_stderr_px:
        ratio = known.focal_stderr_px / found.focal_px
        metrics["focal_stderr_pct"] = 100 * ratio if np.isfinite(ratio) else np.nan
    if (lens := _lens(ctx, found)) is not None and np.isfinite(known.k_stderr):
        shift_px = lens.corner_shift_px()
        metrics |= {"lens_corner_px": shift_px, "lens_corner_stderr_px": shift_px * known.k_stderr / abs(lens.k)}
    return metrics


def _result(ctx: Context, found: ObjectReconstruction, tried: Metrics) -> Result:
    for line in found.warnings:
        ctx.warn(line)
    note = (
        f"{found.registered.sum()} of {len(found.names)} frames registered, {len(found.points_obj)} points, "
        f"{show(found.reprojection_px)} px, focal length {found.focal_px:.0f} px"
    )
    cloud = _on_masks(ctx, found)
    notes = [note, *_silhouette_notes(found), *_lost(found, cloud.outside_pct), *_mappings(found)]
    return Result(_metrics(ctx, found, cloud) | tried, _curves(found, cloud.outside_pct), notes)


def _curves(found: ObjectReconstruction, outside_pct: np.ndarray) -> dict[str, list[float]]:
    outside = np.full(len(found.names), np.nan)
    outside[found.registered] = outside_pct
    curves = {
        "inliers": found.inliers.astype(float).tolist(),
        "registered": found.registered.astype(float).tolist(),
        "cloud_outside_pct": outside.tolist(),
    }
    if found.silhouettes is not None:
        curves |= {"silhouette_iou": found.silhouettes.iou.tolist(), "grasp_departure_deg": found.silhouettes.departure_deg.tolist()}
    if found.uncertainty is not None:
        curves["rotation_stderr_deg"] = found.uncertainty.rotation_stderr_deg().tolist()
    return curves


def _lost(found: ObjectReconstruction, outside_pct: np.ndarray) -> list[str]:
    """The frames whose masks lack a part of the object, as one line."""
    names = [name for name, seen in zip(found.names, found.registered, strict=True) if seen]
    lost = [f"{name} ({pct:.0f} %)" for name, pct in zip(names, outside_pct, strict=True) if pct > plausibility.MASK_LOST_PCT]
    return [f"masks that lack a part of the object by its poses: {'; '.join(lost)}"] if lost else []


def _mappings(found: ObjectReconstruction) -> list[str]:
    """The results of the mappings as one line."""
    results = [
        f"{m.num_registered} frames, {m.num_points} points, focal length {m.focal_px:.0f} px, {m.num_jumps} jumps"
        + (" (kept)" if m.kept else f" (like the kept one in {100 * m.agreement:.0f} %, at {m.relative_cost:.2f} of its cost)")
        for m in found.models
    ]
    return [f"models: {'; '.join(results)}"] if results else []
