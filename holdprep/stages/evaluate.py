"""Comparison of the sequence with ground truth: a table on the screen, all metrics in metrics.json."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from holdprep.config.schema import Config
from holdprep.errors import MissingArtefact
from holdprep.geometry.rigid import from_rt
from holdprep.hand import lbs
from holdprep.hand.hold_params import params_from_dict, read_fits
from holdprep.hand.model import SIDES, Side
from holdprep.pipeline import Context, Result
from holdprep.quality import truth as ground_truth
from holdprep.quality.bounds import show
from holdprep.quality.evaluation import Estimate, HandEstimate, evaluate
from holdprep.sequence import ENTITIES, Sequence
from holdprep.sequence import colmap as colmap_files
from holdprep.stages.common import hand_model, pose_aligned, read_aligned


def run(ctx: Context) -> Result:
    truth = _truth(ctx)
    seq = ctx.seq
    masks = {e: seq.masks(e, "truth_masks") for e in ENTITIES if seq.has(f"truth_masks_{e}")} if ctx.cfg.evaluate.truth is None else {}
    found = evaluate(_estimate(ctx), truth, masks)
    width = max(map(len, found.metrics))
    notes = [*found.notes, *(f"{name:{width}s} {show(value)}" for name, value in found.metrics.items())]
    return Result(dict(found.metrics), found.curves, notes)


def truth_path(cfg: Config, seq: Sequence) -> Path:
    """The path of the ground truth in evaluate.truth, or the synthetic sequence's own."""
    return cfg.evaluate.truth or seq.path("truth")


def _truth(ctx: Context) -> ground_truth.GroundTruth:
    cfg, path = ctx.cfg.evaluate, truth_path(ctx.cfg, ctx.seq)
    if not path.exists():
        raise MissingArtefact(
            f"no ground truth at {path}: set evaluate.truth and evaluate.format, or make a sequence with source=synthetic"
        )
    # the data sets' parameters are those of MANO's model
    models = {side: model for side in SIDES if (model := hand_model(ctx.cfg, side)).name == "mano"}
    if cfg.format == "ho3d":
        return ground_truth.read_ho3d(path, models, cfg.ycb)
    if cfg.format == "arctic":
        return ground_truth.read_arctic(path, cfg.view, cfg.image_size or ctx.seq.image_size(), cfg.first, models)
    return ground_truth.load_truth(path)


def _estimate(ctx: Context) -> Estimate:
    """The estimate: the alignment, or without one the results of registration and SfM in their own frames."""
    seq = ctx.seq
    estimate = Estimate(
        seq.frame_names(), image_size=seq.image_size(), masks={e: list(seq.final_masks(e)) for e in seq.entities()}, is_metric=False
    )
    if seq.has("colmap"):
        cloud = colmap_files.read_colmap(seq)
        points = colmap_files.points_sfm(cloud)
        estimate = replace(estimate, K=cloud["intrinsic"], T_cam_obj=cloud["o2w"], object_points=points, registered=cloud.get("registered"))
    if not seq.has("fit_aligned"):
        return replace(estimate, hands=_registered_hands(ctx))
    K, hands, obj, models = read_aligned(ctx)
    posed = {side: pose_aligned(models[side], hand) for side, hand in hands.items()}
    valid = _valid(ctx)
    return replace(
        estimate,
        K=K,
        T_cam_obj=from_rt(obj.R_cam_obj, obj.transl_m),
        object_points=obj.points_sfm,
        obj_scale=obj.obj_scale,
        is_metric=True,
        hands={s: HandEstimate(m.vertices.numpy(), m.joints.numpy(), valid.get(s), models[s].faces.numpy()) for s, m in posed.items()},
    )


def _registered_hands(ctx: Context) -> dict[Side, HandEstimate]:
    if not ctx.seq.has("fit_slerp"):
        return {}
    fits, valid = read_fits(ctx.seq.path("fit_slerp")), _valid(ctx)
    found: dict[Side, HandEstimate] = {}
    for side in (s for s in SIDES if s in fits):
        model = hand_model(ctx.cfg, side)
        mesh = lbs.forward(model, params_from_dict(fits[side]))
        found[side] = HandEstimate(mesh.vertices.numpy(), mesh.joints.numpy(), valid.get(side), model.faces.numpy())
    return found


def _valid(ctx: Context) -> dict[Side, np.ndarray]:
    """(T,) valid frames of each hand, where registration has recorded them."""
    fits = read_fits(ctx.seq.path("fit_slerp")) if ctx.seq.has("fit_slerp") else {}
    return {side: np.asarray(fits[side]["is_valid"]) > 0 for side in SIDES if side in fits and "is_valid" in fits[side]}
