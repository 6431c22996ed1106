"""Registered hands and SfM's object in one metric camera frame -> mano_fit_ckpt/<mode>/last.ckpt, hold_fit.aligned.npy after mode ho."""

from dataclasses import replace

import numpy as np
import torch

from holdprep.align.problem import BEFORE, Alignment, EntityMasks, HandObservation, Mode, Problem, Tracks, Weights, contact_frames
from holdprep.align.run import Options, align, evaluated
from holdprep.align.size import MeasuredSizes
from holdprep.align.state import load_state, save_state
from holdprep.config.schema import Config
from holdprep.dataset import hold
from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from holdprep.hand import lbs
from holdprep.hand.hold_params import read_fits
from holdprep.hand.model import SIDES, HandModel, ManoParams, Side
from holdprep.hand.trackers import trackfile
from holdprep.io import safeio
from holdprep.object.reconstruction import frame_weights
from holdprep.pipeline import Context, Result
from holdprep.quality.metrics import touching_frames
from holdprep.sequence import Sequence
from holdprep.sequence import colmap as colmap_files
from holdprep.stages.common import hand_model, hand_outlines, hand_quality, read_aligned, registered_params
from holdprep.stages.measured import is_measured, with_measured
from holdprep.viz.overlay import draw_scene

ORDER_FRAMES = 60  # evenly spaced, whose masks are used for the depth order and the object's silhouettes
ALIGNED_QUALITY = ("mask_iou", "outline_explained_pct", "jitter_px", "frame_noise_px", "beyond_limits_pct", "self_penetration_mm")
OVERLAYS = 4  # pictures for loggers that show them
Meshes = dict[Side, tuple[np.ndarray, np.ndarray]]  # vertices (T, 778, 3) and joints (T, 21, 3), metres in the camera frame


def run(ctx: Context, mode: Mode) -> Result:
    cfg, seq = ctx.cfg, ctx.seq
    models = {side: hand_model(cfg, side) for side in SIDES if side in read_fits(seq.path("fit_slerp"))}
    scales, notes = mode == "o" and cfg.align.estimates_scale, list[str]()
    problem, cloud = load_problem(seq, models, with_outlines=mode != "o" or (scales and is_measured(seq, cfg.object)))
    if scales:
        problem, notes = with_measured(problem, seq, cfg.object, cfg.align.maps)
    elif mode == "o" and is_measured(seq, cfg.object):
        ctx.warn(f"align={cfg.align.method} finds the scale by its own objective: the object's measured sizes are not used (align=lm does)")
    before = BEFORE[mode]
    initial = None if before is None else load_state(seq.path(f"ckpt_{before}"), models)
    found = align(mode, problem, options_of(cfg), initial, ctx.training())
    if mode == "ho":
        meshes = {side: lbs.forward(models[side], params) for side, params in found.hands.items()}
        arrays = {side: (m.vertices.numpy(), m.joints.numpy()) for side, m in meshes.items()}
        found = _with_quality(found, problem)
        _write_aligned(ctx, found, arrays, problem, cloud)
        ctx.runlog.pictures("align/ho/overlays", lambda: _overlays(ctx, arrays, problem, found))
    with safeio.atomic_path(seq.target(f"ckpt_{mode}")) as temporary:
        save_state(temporary, found)
    return Result(dict(found.metrics), dict(found.curves), [*notes, *found.notes])


def measure(ctx: Context, mode: Mode) -> Result:
    """Metrics of an existing alignment: mode ho from hold_fit.aligned.npy, modes h and o from their states."""
    seq = ctx.seq
    fits = hold.read_aligned(seq.path("fit_aligned")) if mode == "ho" else read_fits(seq.path("fit_slerp"))
    models = {side: hand_model(ctx.cfg, side) for side in SIDES if side in fits}
    problem, _ = load_problem(seq, models, with_outlines=mode == "ho")
    found = _aligned(ctx) if mode == "ho" else load_state(seq.path(f"ckpt_{mode}"), models)
    found = evaluated(problem, found)
    if mode == "ho":
        found = _with_quality(found, problem)
    return Result(dict(found.metrics), dict(found.curves), list(found.notes))


def _aligned(ctx: Context) -> Alignment:
    """hold_fit.aligned.npy as an alignment; the standard error of the scale is unknown."""
    K, hands, obj, _ = read_aligned(ctx)
    params = {
        side: ManoParams(*(torch.as_tensor(x, dtype=torch.float64) for x in (h.global_orient, h.hand_pose, h.betas, h.transl_m)))
        for side, h in hands.items()
    }
    R, t = torch.as_tensor(obj.R_cam_obj), torch.as_tensor(obj.transl_m)
    return Alignment("ho", "lm", params, obj.obj_scale, float("nan"), R, t, torch.as_tensor(K))


def options_of(cfg: Config) -> Options:
    """Options from `align`, `weights` and `seed`. HOLD's methods have their own free unknowns and scale."""
    weights = Weights.from_dict(cfg.weights.model_dump())
    measured = MeasuredSizes(cfg.hands.length_mm is not None, cfg.object.diameter_mm, cfg.object.size_mm)
    own = {"max_iterations": cfg.align.max_iterations, "measured": measured} | cfg.align.freedom()
    return Options(cfg.align.method, weights, seed=cfg.seed, **own)


def load_problem(seq: Sequence, models: dict[Side, HandModel], with_outlines: bool = True) -> tuple[Problem, dict[str, np.ndarray]]:
    """The alignment problem from the sequence's artefacts, with frames matched by name; and the contents of colmap/.

    Mode o uses the outlines of the hands' masks only where it fits the hands again, to a measured object.
    """
    names = seq.frame_names()
    cloud = colmap_files.read_colmap(seq)
    fits = read_fits(seq.path("fit_slerp"))
    track = trackfile.read(seq.path("j2d").parent, names)
    lens = colmap_files.lens_of(seq)
    object_masks = seq.final_masks("object", lens=lens) if seq.has("masks_object") else None
    hands: dict[Side, HandObservation] = {}
    for side, model in models.items():
        if side not in track.j2d_px:
            raise HoldprepError(
                f"{seq.path('j2d')} has no {side} hand, but {seq.path('fit_slerp')} has:  run stage=hand_pose and stage=register again"
            )
        params = registered_params(fits, side, model, track)
        if len(params.transl) != len(names):
            raise HoldprepError(
                f"{seq.path('fit_slerp')} has {len(params.transl)} frames, images/ has {len(names)}: run stage=register again"
            )
        weight = np.asarray(fits[side].get("is_valid", np.ones(len(names))), dtype=np.float64)[:, None]
        weight = weight * track.confidence.get(side, np.ones((len(names), 21)))
        touching = None
        if object_masks is not None and seq.has(f"masks_{side}"):
            touching = torch.as_tensor(touching_frames(seq.final_masks(side, lens=lens), object_masks))
        seen_px = track.j2d_px[side] if lens is None else lens.points(track.j2d_px[side])
        outlines = hand_outlines(seq, side, model, lens) if with_outlines else None
        hands[side] = HandObservation(model, params, torch.as_tensor(seen_px), torch.as_tensor(weight), touching, outlines)
    registered = cloud.get("registered", np.ones(len(names), bool))
    tracks = None
    if len(cloud.get("observation_px", ())):  # imported poses may come without any
        tracks = Tracks(*(torch.as_tensor(cloud[f"observation_{k}"]) for k in ("frame", "point", "px")))
    problem = Problem(
        K=torch.as_tensor(cloud["intrinsic"]),
        image_size=seq.image_size(),
        hands=hands,
        points_obj=torch.as_tensor(colmap_files.points_sfm(cloud)),
        T_cam_obj=torch.as_tensor(cloud["o2w"]),
        obj_weight=torch.as_tensor(frame_weights(registered, cloud.get("pose_covariance"))),
        tracks=tracks,
    )
    return replace(problem, masks=_order_masks(seq, problem)), cloud


def _order_masks(seq: Sequence, problem: Problem) -> EntityMasks | None:
    """The masks of some frames in which hand and object touch; None without masks of the object and every hand of the problem."""
    if not all(seq.has(f"masks_{entity}") for entity in (*problem.hands, "object")):
        return None
    touching = torch.stack([contact_frames(problem, side) for side in problem.hands]).any(dim=0).numpy()
    at = np.flatnonzero(touching)
    at = at[np.unique(np.linspace(0, len(at) - 1, min(len(at), ORDER_FRAMES)).round().astype(int))] if len(at) else at
    if len(at) == 0:
        return None
    lens = colmap_files.lens_of(seq)
    some = {entity: np.stack([masks[t] for t in at]) for entity in seq.entities() if (masks := seq.final_masks(entity, lens=lens))}
    obj = some.pop("object")
    all_hands = np.any(list(some.values()), axis=0) if len(some) > len(problem.hands) else None
    return EntityMasks(at, {side: some[side] for side in problem.hands}, obj, all_hands=all_hands)


def _with_quality(found: Alignment, problem: Problem) -> Alignment:
    """The alignment with the metrics of `hand_quality`, except those of the shape, which registration reports."""
    metrics, curves = dict(found.metrics), dict(found.curves)
    for side, hand in problem.hands.items():
        own, own_curves = hand_quality(hand.model, found.hands[side], _seen(problem, side), found.K.numpy(), hand.outlines)
        metrics |= {f"{side}.{name}": value for name, value in own.items() if name in ALIGNED_QUALITY}
        curves |= {f"{side}.{name}": values.tolist() for name, values in own_curves.items()}
    return replace(found, metrics=metrics, curves=curves)


def _write_aligned(ctx: Context, found: Alignment, arrays: Meshes, problem: Problem, cloud: dict[str, np.ndarray]) -> None:
    """Write hold_fit.aligned.npy in HOLD's layout."""
    hands, models = {}, {side: hand.model for side, hand in problem.hands.items()}
    for side, p in found.hands.items():
        betas = p.betas.numpy()
        wrist = hold.wrist_template(models[side], betas)
        hands[side] = hold.AlignedHand(p.global_orient.numpy(), p.hand_pose.numpy(), betas, p.transl.numpy(), wrist)
    obj = hold.AlignedObject(
        found.R_cam_obj.numpy(), found.transl_cam_obj_m.numpy(), found.obj_scale, cloud["points_cano"], cloud["normalization_mat"]
    )
    K = found.K.numpy()
    paths = [str(f) for f in ctx.seq.images().files]
    ctx.seq.write_npy("fit_aligned", hold.hold_fit_aligned(K, paths, hands, arrays, obj))


def _seen(problem: Problem, side: Side) -> np.ndarray:
    """(T,) bool, frames in which the hand's keypoints have weight."""
    return np.asarray(problem.hands[side].weight.reshape(problem.num_frames, -1).sum(dim=1) > 0)


def _overlays(ctx: Context, meshes_m: Meshes, problem: Problem, found: Alignment) -> dict[str, np.ndarray]:
    """Some frames with the hands and the object's cloud, by name."""
    names, images, K = ctx.seq.frame_names(), ctx.seq.images(colmap_files.lens_of(ctx.seq)), found.K.numpy()
    drawn = {}
    for t in np.unique(np.linspace(0, len(names) - 1, OVERLAYS).round().astype(int)).tolist():
        points = found.obj_scale * problem.points_obj.numpy() @ found.R_cam_obj[t].numpy().T + found.transl_cam_obj_m[t].numpy()
        meshes = {side: (vertices[t], problem.hands[side].model.faces.numpy()) for side, (vertices, _) in meshes_m.items()}
        unmeasured = [side for side in meshes if not _seen(problem, side)[t]] + ([] if problem.obj_weight[t] > 0 else ["object"])
        drawn[names[t]] = draw_scene(images[t], project(points, K), meshes, K, unmeasured)
    return drawn
