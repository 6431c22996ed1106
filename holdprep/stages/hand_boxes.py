"""Where the hands are: which hands a sequence has, MediaPipe's tracks of them, and the boxes that crop-based trackers start from."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from holdprep.config import NetworkHand
from holdprep.errors import HoldprepError
from holdprep.hand.model import SIDES, Side
from holdprep.hand.trackers import KeypointTrack, crops, mediapipe
from holdprep.pipeline import Context
from holdprep.safeio import load_npy
from holdprep.stages.common import wanted_sides

MIN_PRESENCE = 0.5  # of MediaPipe, where it only says where hands are


def keypoint_tracks(
    ctx: Context, K: np.ndarray | None, *, threads: int, min_presence: float = MIN_PRESENCE, smooth: bool = True
) -> dict[Side, KeypointTrack]:
    """MediaPipe's tracks of the hands asked for. Raises HoldprepError where one that must be there is not found."""
    seq, with_masks = ctx.seq, _with_masks(ctx)
    tracks: dict[Side, KeypointTrack] = {}
    hiding = seq.masks("object") if seq.has("masks_object") else None
    for side in (s for s in wanted_sides(ctx.cfg) if s in with_masks or not with_masks):
        masks = seq.masks(side) if side in with_masks else None
        track = mediapipe.track_hand(
            seq.images(), side, masks, hiding, K=K, min_presence=min_presence, steady=smooth, threads=threads, progress=True
        )
        if track.found.any():
            tracks[side] = track
        elif ctx.cfg.hands.which != "auto" or side in with_masks:
            raise HoldprepError(
                f"no {side} hand found in {len(track.found)} frames: check its masks and side, or hand=import with another tracker's files"
            )
    if not tracks:
        frames = len(seq.frame_names())
        raise HoldprepError(
            f"no hand found in {frames} frames of {seq.path('images')}: is one in the picture? try segment first, or hand=import"
        )
    return tracks if with_masks or ctx.cfg.hands.which == "both" else mediapipe.distinct(tracks)


def boxes(ctx: Context, node: NetworkHand) -> tuple[dict[Side, np.ndarray], list[str]]:
    """Boxes (T, 4) in pixels of the hands asked for, NaN where a hand is not seen, and remarks.

    Raises HoldprepError where nothing tells where hands are, or a hand has no box in any frame.
    """
    if node.boxes == "mediapipe":
        return {s: crops.keypoint_boxes(t.j2d_px) for s, t in keypoint_tracks(ctx, None, threads=node.threads).items()}, []
    found = _mask_boxes(ctx) if node.boxes == "masks" else _file_boxes(ctx, node.boxes_file)
    notes = []
    for side, given in found.items():
        crops.check_boxes(given, ctx.seq.image_size(), ctx.seq.frame_names(), side)
        seen = int(np.isfinite(given).all(axis=1).sum())
        if not seen:
            lacking = (
                f"all its masks are empty or below {crops.MIN_BOX_PX} px" if node.boxes == "masks" else f"{node.boxes_file} has only NaN"
            )
            raise HoldprepError(f"no {side} hand in {len(given)} frames: {lacking}; check them, or hands.which")
        notes += [f"{side} hand: nothing to see in {len(given) - seen} of {len(given)} frames"] if seen < len(given) else []
    return found, notes


def _with_masks(ctx: Context) -> list[Side]:
    return [s for s in SIDES if ctx.seq.has(f"masks_{s}")]


def _mask_boxes(ctx: Context) -> dict[Side, np.ndarray]:
    sides = [s for s in wanted_sides(ctx.cfg) if s in _with_masks(ctx)]
    if not sides:
        raise HoldprepError(
            f"no hand masks of {ctx.seq.name} for hands.which={ctx.cfg.hands.which}, which say where to look: run segment, or set hand.boxes=mediapipe"
        )
    return {s: crops.mask_boxes(ctx.seq.masks(s), ctx.seq.image_size(), ctx.seq.frame_names(), s) for s in sides}


def _file_boxes(ctx: Context, path: Path | None) -> dict[Side, np.ndarray]:
    """Boxes of a .npy: a dict by side, or an array for the one hand that is asked for or has masks."""
    if path is None:
        raise HoldprepError("hand.boxes=file needs hand.boxes_file=<.npy of x1, y1, x2, y2 for each frame>")
    content = load_npy(path)
    if not isinstance(content, Mapping):
        sides = [s for s in wanted_sides(ctx.cfg) if s in _with_masks(ctx)] or list(wanted_sides(ctx.cfg))
        if len(sides) != 1:
            raise HoldprepError(f"{path} holds boxes of one hand, but which? set hands.which=right or left, or give a dict of both")
        content = {sides[0]: content}
    try:
        return {s: np.asarray(content[s], dtype=np.float64) for s in wanted_sides(ctx.cfg) if s in content}
    except (ValueError, TypeError) as error:
        raise HoldprepError(f"{path} holds no boxes, but {error}: (frames, 4) numbers are needed") from error
