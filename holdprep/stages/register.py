"""processed/v3d.npy -> MANO parameters with one shape per hand (hold_fit.init.npy), gaps filled and marked (hold_fit.slerp.npy)."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import trimesh

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import between_cameras
from holdprep.geometry.lens import Lens
from holdprep.hand import infill, lbs, registration
from holdprep.hand.hold_params import params_to_dict, read_fits
from holdprep.hand.model import SIDES, HandModel, ManoParams, Side
from holdprep.hand.outline import Outlines
from holdprep.hand.registration_option import HandToRegister, RegistrationMethod
from holdprep.hand.targets import Targets, vertex_trust
from holdprep.hand.trackers import trackfile
from holdprep.hand.trackers.tracks import VertexTrack
from holdprep.hand.validity import valid_frames
from holdprep.optimisation import one_thread
from holdprep.pipeline import Context, Result
from holdprep.quality.metrics import longest_gap
from holdprep.stages.common import camera, hand_model, hand_outlines, hand_quality, registered_params


@one_thread()
def run(ctx: Context) -> Result:
    names = ctx.seq.frame_names()
    track = trackfile.read(ctx.seq.path("v3d").parent, names)
    sides = [s for s in ctx.cfg.hands.sides if s in track.vertices_m and np.isfinite(track.vertices_m[s]).any()]
    if not sides:
        raise HoldprepError(f"{ctx.seq.path('v3d')} holds no hand of hands.which={ctx.cfg.hands.which}: run stage=hand_pose again")
    result = Result(metrics={"frames": len(names)}, notes=list(track.notes))
    method: RegistrationMethod = ctx.cfg.registration
    K, lens = camera(ctx.seq, track.K) if method.uses_measured_camera else (track.K, None)
    initial, filled = {}, {}
    for side in sides:
        model = hand_model(ctx.cfg, side)
        outlines = hand_outlines(ctx.seq, side, model, lens)
        targets = _targets(side, model, track, K, lens)
        length_mm, source = ctx.cfg.hands.length_mm, ctx.seq.path("v3d")
        hand = HandToRegister(model, track, source, targets, outlines, length_mm, ctx.training())
        fit, coarse = method.fit(hand)
        agreement = _agreement(outlines, lbs.forward(model, fit.params).vertices.numpy(), K)
        is_valid = valid_frames(model, fit, *agreement, z=ctx.cfg.registration.outlier_z)
        complete = infill.infill(fit.params, is_valid)
        initial[side] = params_to_dict(fit.params)
        filled[side] = params_to_dict(complete) | {"is_valid": is_valid.numpy().astype(np.float32)}
        _report(result, side, fit, is_valid, hand_quality(model, fit.params, is_valid.numpy(), K, outlines, agreement))
        result.metrics["hand_model"] = model.name
        if side == "left":
            result.notes.append(
                "left hand: its shape is for this project and HOLD's trainer; HOLD's own alignment negates x of the directions"
            )
        if ctx.cfg.registration.save_mesh:
            _write_meshes(ctx, side, model, fit, coarse, track.vertices_m[side])
    ctx.seq.write_npy("fit_init", initial)
    ctx.seq.write_npy("fit_slerp", filled | {"K": K})
    return result


def measure(ctx: Context) -> Result:
    """Metrics of an existing hold_fit.slerp.npy in its valid frames, under its own camera if it has one, else the tracker's."""
    names, path = ctx.seq.frame_names(), ctx.seq.path("fit_slerp")
    track, fits = trackfile.read(ctx.seq.path("v3d").parent, names), read_fits(ctx.seq.path("fit_slerp"))
    result = Result(metrics={"frames": len(names)})
    (known_K, lens), K = camera(ctx.seq, track.K), np.asarray(fits.get("K", track.K), np.float64)
    if not np.allclose(K, known_K):  # the lens of another camera is unknown
        lens = None
    for side in (s for s in SIDES if s in fits):
        model = hand_model(ctx.cfg, side)
        params = registered_params(fits, side, model, track)
        if len(params.transl) != len(names):
            raise HoldprepError(
                f"{path} has {len(params.transl)} frames of the {side} hand, images/ has {len(names)}: run stage=register again"
            )
        if side not in track.vertices_m:
            raise HoldprepError(
                f"{path} has a {side} hand, but {ctx.seq.path('v3d')} has not: run stage=hand_pose and stage=register again"
            )
        is_rescaled = ctx.cfg.hands.length_mm is not None
        error_m = registration.error_of(model, params, _targets(side, model, track, K, lens), rescaled=is_rescaled)
        marked = torch.as_tensor(np.asarray(fits[side].get("is_valid", np.ones(len(names))))) > 0
        is_valid = marked & torch.isfinite(error_m)
        if not bool(is_valid.any()):
            raise HoldprepError(f"{path} has no frame of the {side} hand that the tracker has: run stage=register again")
        fit = registration.Registration(params, is_valid, error_m)
        outlines = hand_outlines(ctx.seq, side, model, lens)
        _report(result, side, fit, is_valid, hand_quality(model, params, is_valid.numpy(), K, outlines))
        result.metrics["hand_model"] = model.name
    return result


def _targets(side: Side, model: HandModel, track: VertexTrack, K: np.ndarray, lens: Lens | None) -> Targets:
    """Targets from the tracker: keypoints of a keypoint tracker, else meshes; their position is given by the 2D keypoints.

    3D points are under the tracker's own camera, and are rotated to the measured one (`K`, `lens`).
    """
    j2d_px = track.j2d_px[side] if lens is None else lens.points(track.j2d_px[side])
    centre_px = (np.min(j2d_px, axis=1) + np.max(j2d_px, axis=1)) / 2
    to_camera = between_cameras(centre_px, track.K, K).swapaxes(1, 2)
    confidence = torch.as_tensor(track.confidence[side]) if side in track.confidence else None
    seen = Targets(j2d_px=torch.as_tensor(j2d_px), K=torch.as_tensor(K), confidence=confidence, relative=True)
    if side not in track.keypoints_m:
        trust = None if confidence is None else vertex_trust(model, confidence)
        return replace(seen, vertices_m=torch.as_tensor(track.vertices_m[side] @ to_camera), vertex_trust=trust)
    keypoints_m = track.keypoints_m[side] @ to_camera
    if np.isnan(keypoints_m).all():
        return seen
    return replace(seen, j3d_m=torch.as_tensor(keypoints_m), j3d_sigma_m=track.keypoints_sigma_m.get(side))


def _agreement(outlines: Outlines | None, vertices_m: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU with the mask and explained share of its edge, (T,) each; NaN without masks."""
    nothing = np.full(len(vertices_m), np.nan)
    return (nothing, nothing) if outlines is None else outlines.agreement(vertices_m, K)


def _report(
    result: Result,
    side: Side,
    fit: registration.Registration,
    is_valid: torch.Tensor,
    quality: tuple[dict[str, float], dict[str, np.ndarray]],
) -> None:
    """Add one hand's metrics, curves and notes to the result; `quality` as `hand_quality` returns it."""
    error_mm = 1e3 * fit.error_m
    metrics: dict[str, Any] = {
        f"{side}.error_mm": float(error_mm[is_valid].mean()),
        f"{side}.error_max_mm": float(error_mm[is_valid].max()),
        f"{side}.valid_pct": 100 * float(is_valid.double().mean()),
        f"{side}.infilled_frames": int((~is_valid).sum()),
        f"{side}.outlier_frames": int((fit.is_valid & ~is_valid).sum()),
        f"{side}.longest_gap": longest_gap(is_valid.numpy()),
    }
    result.metrics |= metrics | {f"{side}.{name}": value for name, value in quality[0].items()}
    curves = quality[1] | {"error_mm": error_mm.numpy(), "is_valid": is_valid.double().numpy()}
    result.curves |= {f"{side}.{name}": values.tolist() for name, values in curves.items()}
    result.notes += fit.notes
    result.notes.append(
        f"{side} hand: {metrics[f'{side}.error_mm']:.2f} mm from the tracker's measurements, "
        f"{metrics[f'{side}.infilled_frames']} of {len(is_valid)} frames infilled (longest gap {metrics[f'{side}.longest_gap']})"
    )


def _write_meshes(
    ctx: Context, side: Side, model: HandModel, fit: registration.Registration, coarse: ManoParams | None, target_m: np.ndarray
) -> None:
    """Write HOLD's mesh_fit_vis: target, fit and, if the method has one, the coarse fit of every valid frame."""
    meshes = {"target": target_m, "fine": lbs.forward(model, fit.params).vertices.numpy()}
    if coarse is not None:
        meshes["coarse"] = lbs.forward(model, coarse).vertices.numpy()
    faces = model.faces.numpy()
    for t in np.flatnonzero(fit.is_valid.numpy()):
        for kind, vertices in meshes.items():
            ctx.seq.write_mesh("fit_meshes", f"{t:04d}_{side}_{kind}.ply", trimesh.Trimesh(vertices[t], faces, process=False))
