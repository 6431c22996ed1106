"""Functions shared by stages: hand model, camera, a hand's outlines and quality, reading of an alignment."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from holdprep.config.schema import Config
from holdprep.dataset import hold
from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from holdprep.geometry.lens import Lens
from holdprep.hand import hold_left, lbs
from holdprep.hand.hold_params import params_from_dict
from holdprep.hand.model import SIDES, HandModel, ManoParams, Side, load_hand_model
from holdprep.hand.outline import MaskEdge, Outlines
from holdprep.hand.trackers.tracks import VertexTrack
from holdprep.pipeline import Context
from holdprep.quality.hand_plausibility import frame_noise_px, jitter_px, plausibility
from holdprep.sequence import ENTITIES, Sequence
from holdprep.sequence import colmap as colmap_files
from holdprep.threads import THREADS, in_order

log = logging.getLogger("holdprep")
JITTER_STEP = 10  # jitter is measured on every tenth vertex


def hand_model(cfg: Config, side: Side) -> HandModel:
    """The hand model: MANO if available (hand_model.path or $MANO_DIR), else the stand-in; float64."""
    return load_hand_model(side, cfg.hand_model.path, dtype=torch.float64)


def camera(seq: Sequence, K: np.ndarray) -> tuple[np.ndarray, Lens | None]:
    """Intrinsics (3, 3) and lens from object_pose; if it has not run, `K` of a tracker and no lens."""
    if not seq.has("colmap"):
        return K, None
    return np.asarray(seq.read_npy("colmap", "intrinsic.npy"), np.float64), colmap_files.lens_of(seq)


def hand_outlines(seq: Sequence, side: Side, model: HandModel, lens: Lens | None) -> Outlines | None:
    """The edges of a hand's masks, with the object and the other hand as possible occluders; None without masks of that hand."""
    if not seq.has(f"masks_{side}"):
        return None
    own, hiding = seq.final_masks(side, lens=lens), [seq.final_masks(e, lens=lens) for e in ENTITIES if e != side and seq.has(f"masks_{e}")]

    def edge(t: int) -> MaskEdge | None:
        mask = own[t]
        return MaskEdge.of(mask, np.any([np.zeros_like(mask), *(other[t] for other in hiding)], axis=0))

    return Outlines(list(in_order(edge, range(len(own)), THREADS, len(own))), model.faces.numpy())


def hand_quality(
    model: HandModel,
    params: ManoParams,
    is_valid: np.ndarray,
    K: np.ndarray,
    outlines: Outlines | None,
    agreement: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics over the frames `is_valid` (T,), and curves, of a hand: plausibility, agreement with its mask, jitter.

    `agreement` is `outlines.agreement` of the same hand, where it is known already.
    """
    vertices_m = lbs.forward(model, params).vertices.numpy()
    metrics, curves = plausibility(model, params, is_valid)
    if outlines is not None:
        iou, explained = outlines.agreement(vertices_m, K) if agreement is None else agreement
        curves |= {"mask_iou": iou, "outline_explained_pct": 100 * explained}
        known = {k: curves[k][is_valid & np.isfinite(curves[k])] for k in ("mask_iou", "outline_explained_pct")}
        metrics |= {k: float(np.median(v)) for k, v in known.items() if len(v)}
    px = project(vertices_m[:, ::JITTER_STEP], K)
    metrics["jitter_px"], curves["jitter_px"] = jitter_px(px, is_valid)
    metrics["frame_noise_px"] = frame_noise_px(px, is_valid)
    return {k: v for k, v in metrics.items() if np.isfinite(v)}, curves


def registered_params(fits: Mapping[str, Any], side: Side, model: HandModel, track: VertexTrack) -> ManoParams:
    """Parameters of `read_fits`; of a left hand that HOLD has registered to the tracker's mesh they are converted, with a line in the log."""
    params = params_from_dict(fits[side])
    if side != "left" or "K" in fits or side not in track.vertices_m or len(params.transl) != len(track.names):  # K is this project's
        return params
    if not hold_left.is_of_hold(params, model, torch.as_tensor(track.vertices_m[side])):
        return params
    params, off_mm = hold_left.converted(params, model)
    log.info("%-12s %s", "register", hold_left.note(off_mm))
    return params


def pose_aligned(model: HandModel, hand: hold.AlignedHand) -> lbs.HandMesh:
    """Mesh and joints of an aligned hand, float64."""
    arrays = (hand.global_orient, hand.hand_pose, hand.betas, hand.transl_m)
    return lbs.forward(model, ManoParams(*(torch.as_tensor(x, dtype=torch.float64) for x in arrays)))


def read_aligned(ctx: Context) -> tuple[np.ndarray, dict[Side, hold.AlignedHand], hold.AlignedObject, dict[Side, HandModel]]:
    """K, hands, object and hand models from hold_fit.aligned.npy."""
    frames = len(ctx.seq.frame_names())
    path = ctx.seq.path("fit_aligned")
    fit, cloud = hold.read_aligned(path), colmap_files.read_colmap(ctx.seq)
    models = {side: hand_model(ctx.cfg, side) for side in SIDES if side in fit}
    hands = {}
    for side, model in models.items():
        h = {k: np.asarray(fit[side][k], np.float64) for k in ("hand_rot", "hand_pose", "hand_beta", "hand_transl")}
        betas = h["hand_beta"].reshape(-1, 10).mean(axis=0)
        found = ManoParams(*(torch.as_tensor(x) for x in (h["hand_rot"], h["hand_pose"], betas, h["hand_transl"])))
        if "v3d" in fit[side] and hold_left.is_of_hold(found, model, torch.as_tensor(fit[side]["v3d"])):
            found, off_mm = hold_left.converted(found, model)
            log.info("%-12s %s", "align", hold_left.note(off_mm))
        rot, pose, betas, transl_m = (x.numpy() for x in (found.global_orient, found.hand_pose, found.betas, found.transl))
        hands[side] = hold.AlignedHand(rot, pose, betas, transl_m, hold.wrist_template(model, betas))
    o2w = np.asarray(fit["object"]["o2w_all"], np.float64)
    counts = {len(o2w), *(len(h.transl_m) for h in hands.values())}
    if counts != {frames}:
        raise HoldprepError(f"{path} has {sorted(counts)} frames, images/ has {frames}: run stage=align again")
    scale = float(np.asarray(fit["object"]["obj_scale"]).reshape(-1)[0])
    obj = hold.AlignedObject(o2w[:, :3, :3], o2w[:, :3, 3], scale, cloud["points_cano"], cloud["normalization_mat"])
    return np.asarray(fit["object"]["K"], np.float64), hands, obj, models
