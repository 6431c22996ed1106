"""processed/v3d.npy -> MANO parameters with one shape per hand (hold_fit.init.npy), gaps filled and marked (hold_fit.slerp.npy)."""

import math
from typing import Any

import numpy as np
import torch
import trimesh

from holdprep.config import AdamRegistration, DirectRegistration, LmRegistration
from holdprep.errors import HoldprepError
from holdprep.hand import adam, direct, infill, lbs, registration
from holdprep.hand.model import SIDES, HandModel, ManoParams, Side
from holdprep.hand.priors import LIMIT_SIGMA, beyond_limits
from holdprep.hand.targets import Targets, vertex_trust
from holdprep.hand.trackers import VertexTrack, hamer
from holdprep.pipeline import Context, Result
from holdprep.quality.metrics import longest_gap
from holdprep.stages.common import hand_model, params_from_dict, params_to_dict, wanted_sides


def run(ctx: Context) -> Result:
    names = ctx.seq.frame_names()
    track = hamer.read(ctx.seq.path("v3d").parent, names)
    sides = [s for s in wanted_sides(ctx.cfg) if s in track.vertices_m and np.isfinite(track.vertices_m[s]).any()]
    if not sides:
        raise HoldprepError(
            f"{ctx.seq.path('v3d')} holds no hand that hands.which={ctx.cfg.hands.which} asks for: run stage=hand_pose again"
        )
    result = Result(metrics={"frames": len(names)}, notes=list(track.notes))
    initial, filled = {}, {}
    for side in sides:
        model = hand_model(ctx.cfg, side)
        fit, coarse = _fit(ctx, side, model, track)
        is_valid = fit.is_valid & ~infill.outliers(model, fit.params, fit.error_m, fit.is_valid, z=ctx.cfg.registration.outlier_z)
        complete = infill.infill(fit.params, is_valid)
        initial[side] = params_to_dict(fit.params)
        filled[side] = params_to_dict(complete) | {"is_valid": is_valid.numpy().astype(np.float32)}
        _report(result, side, model, fit, is_valid)
        result.metrics["hand_model"] = model.name
        if ctx.cfg.registration.save_mesh:
            _write_meshes(ctx, side, model, fit, coarse, track.vertices_m[side])
    ctx.seq.write_npy("fit_init", initial)
    ctx.seq.write_npy("fit_slerp", filled)
    return result


def measure(ctx: Context) -> Result:
    """Of hold_fit.slerp.npy, whoever made it: its distance to the tracker's meshes in the frames that are not marked as filled."""
    names = ctx.seq.frame_names()
    track, fits = hamer.read(ctx.seq.path("v3d").parent, names), ctx.seq.read_npy("fit_slerp")
    result = Result(metrics={"frames": len(names)})
    for side in (s for s in SIDES if s in fits):
        model = hand_model(ctx.cfg, side)
        params = params_from_dict(fits[side])
        if len(params.transl) != len(names) or side not in track.vertices_m:
            path = ctx.seq.path("fit_slerp")
            raise HoldprepError(
                f"{path} has {len(params.transl)} frames of the {side} hand, images/ has {len(names)}: run stage=register again"
            )
        marked = torch.as_tensor(np.asarray(fits[side].get("is_valid", np.ones(len(names))))) > 0
        rescaled = ctx.cfg.hands.length_mm is not None
        error_m = registration.error_of(model, params, torch.as_tensor(track.vertices_m[side]), rescaled=rescaled)
        is_valid = marked & torch.isfinite(error_m)
        if not bool(is_valid.any()):
            raise HoldprepError(
                f"{ctx.seq.path('fit_slerp')} has no frame of the {side} hand that the tracker has: run stage=register again"
            )
        _report(result, side, model, registration.Registration(params, is_valid, error_m), is_valid)
        result.metrics["hand_model"] = model.name
    return result


def _fit(ctx: Context, side: Side, model: HandModel, track: VertexTrack) -> tuple[registration.Registration, ManoParams | None]:
    """The fit, and that of a coarse part where there is one."""
    cfg, length_mm = ctx.cfg.registration, ctx.cfg.hands.length_mm
    vertices_m = torch.as_tensor(track.vertices_m[side])
    if length_mm is not None and not isinstance(cfg, LmRegistration):
        raise HoldprepError(f"registration={cfg.method} keeps the tracker's hand size: hands.length_mm needs registration=lm")
    if isinstance(cfg, AdamRegistration):
        schedule = adam.Schedule(cfg.max_iterations, cfg.shape_loss)
        prefix = f"register/{side}"
        return adam.register_adam(model, vertices_m, schedule, logger=ctx.runlog.logger, prefix=prefix, device=ctx.cfg.device)
    if isinstance(cfg, DirectRegistration):
        if side not in track.params:
            path = ctx.seq.path("v3d")
            raise HoldprepError(f"{path} has no MANO parameters of the {side} hand (hand=hamer writes them): use registration=lm")
        return direct.take(model, track.params[side], vertices_m, cfg.shared_shape), None
    options = registration.Options(
        shared_shape=cfg.shared_shape,
        robust=cfg.robust,
        robust_m=cfg.robust_mm / 1e3,
        hand_length_m=None if length_mm is None else length_mm / 1e3,
        smooth_turn=None if cfg.smooth_deg is None else math.radians(cfg.smooth_deg),
        max_iterations=cfg.max_iterations,
    )
    trust = None
    if side in track.confidence:
        trust = vertex_trust(model, torch.as_tensor(track.confidence[side]))
    targets = Targets(vertices_m=vertices_m, vertex_trust=trust)

    def log(step: int, losses: dict[str, float]) -> None:
        ctx.log_losses(step, {f"{side}/{k}": v for k, v in losses.items()})

    return registration.register(model, targets, options, device=ctx.cfg.device, on_iteration=log), None


def _report(result: Result, side: Side, model: HandModel, fit: registration.Registration, is_valid: torch.Tensor) -> None:
    error_mm = 1e3 * fit.error_m
    metrics: dict[str, Any] = {
        f"{side}.error_mm": float(error_mm[is_valid].mean()),
        f"{side}.error_max_mm": float(error_mm[is_valid].max()),
        f"{side}.valid_pct": 100 * float(is_valid.double().mean()),
        f"{side}.infilled_frames": int((~is_valid).sum()),
        f"{side}.outlier_frames": int((fit.is_valid & ~is_valid).sum()),
        f"{side}.longest_gap": longest_gap(is_valid.numpy()),
        f"{side}.beyond_limits_pct": 100 * _beyond_limits(model, fit, is_valid),
    }
    result.metrics |= metrics
    result.curves[f"{side}.error_mm"] = error_mm.tolist()
    result.curves[f"{side}.is_valid"] = is_valid.double().tolist()
    result.notes += fit.notes
    result.notes.append(
        f"{side} hand: {metrics[f'{side}.error_mm']:.2f} mm from its target, "
        f"{metrics[f'{side}.infilled_frames']} of {len(is_valid)} frames infilled (longest gap {metrics[f'{side}.longest_gap']})"
    )


def _beyond_limits(model: HandModel, fit: registration.Registration, is_valid: torch.Tensor) -> float:
    """Share of valid frames in which a joint turns farther than joints do."""
    rotations = lbs.to_state(model.to(torch.float64), fit.params).rotations[is_valid]
    return float((beyond_limits(model.side, rotations).abs() > LIMIT_SIGMA).flatten(1).any(dim=1).double().mean())


def _write_meshes(
    ctx: Context, side: Side, model: HandModel, fit: registration.Registration, coarse: ManoParams | None, target_m: np.ndarray
) -> None:
    """HOLD's mesh_fit_vis: the target and the fit of every frame that has one; the coarse one where the method has one."""
    meshes = {"target": target_m, "fine": lbs.forward(model, fit.params).vertices.numpy()}
    if coarse is not None:
        meshes["coarse"] = lbs.forward(model, coarse).vertices.numpy()
    faces = model.faces.numpy()
    for t in np.flatnonzero(fit.is_valid.numpy()):
        for kind, vertices in meshes.items():
            ctx.seq.write_mesh("fit_meshes", f"{t:04d}_{side}_{kind}.ply", trimesh.Trimesh(vertices[t], faces, process=False))
