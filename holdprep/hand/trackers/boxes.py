"""Positions of the hands of a sequence: MediaPipe's keypoint tracks, and boxes for crop-based trackers."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from holdprep.errors import HoldprepError
from holdprep.hand.model import Side
from holdprep.hand.trackers import crops, mediapipe
from holdprep.hand.trackers.network_option import NetworkHand
from holdprep.hand.trackers.option import HandTask
from holdprep.hand.trackers.tracks import KeypointTrack
from holdprep.io.safeio import load_npy


def keypoint_tracks(task: HandTask, K: np.ndarray | None, settings: mediapipe.Settings) -> dict[Side, KeypointTrack]:
    """MediaPipe's tracks of the requested hands. Raises HoldprepError where a required hand is not found."""
    seq, with_masks = task.seq, task.masked_sides
    tracks: dict[Side, KeypointTrack] = {}
    hiding = seq.masks("object") if seq.has("masks_object") else None
    for side in (s for s in task.sides if s in with_masks or not with_masks):
        masks = seq.masks(side) if side in with_masks else None
        track = mediapipe.track_hand(seq.images(), side, masks, hiding, K=K, settings=settings)
        if track.found.any():
            tracks[side] = track
        elif task.hands.which != "auto" or side in with_masks:
            raise HoldprepError(
                f"no {side} hand found in {len(track.found)} frames: check its masks and side, or hand=import with another tracker's files"
            )
    if not tracks:
        frames = len(seq.frame_names())
        raise HoldprepError(
            f"no hand found in {frames} frames of {seq.path('images')}: is there one in the images? run segment first, or hand=import"
        )
    return tracks if with_masks or task.hands.which == "both" else mediapipe.distinct(tracks)


def hand_boxes(task: HandTask, node: NetworkHand) -> tuple[dict[Side, np.ndarray], list[str]]:
    """Boxes (T, 4) in pixels of the requested hands, NaN where a hand is not visible, and notes.

    Raises HoldprepError without any source of boxes, or where a hand has no box in any frame.
    """
    if node.boxes == "mediapipe":
        tracks = keypoint_tracks(task, None, mediapipe.Settings(threads=node.threads, progress=True))
        return {side: crops.keypoint_boxes(track.j2d_px) for side, track in tracks.items()}, []
    found = _mask_boxes(task) if node.boxes == "masks" else _file_boxes(task, node.boxes_file)
    notes = []
    source = f"{node.boxes_file}: " if node.boxes == "file" else ""
    for side, boxes in found.items():
        crops.check_boxes(boxes, task.seq.image_size(), task.seq.frame_names(), f"{source}{side}")
        seen = int(np.isfinite(boxes).all(axis=1).sum())
        if not seen:
            lacking = (
                f"all its masks are empty or below {crops.MIN_BOX_PX} px" if node.boxes == "masks" else f"{node.boxes_file} has only NaN"
            )
            raise HoldprepError(f"no {side} hand in {len(boxes)} frames: {lacking}; check them, or hands.which")
        notes += [f"{side} hand: not visible in {len(boxes) - seen} of {len(boxes)} frames"] if seen < len(boxes) else []
    return found, notes


def _mask_boxes(task: HandTask) -> dict[Side, np.ndarray]:
    """Boxes of the masks of the requested hands."""
    seq, sides = task.seq, [s for s in task.sides if s in task.masked_sides]
    if not sides:
        raise HoldprepError(f"no hand masks of {seq.name} for hands.which={task.hands.which}: run segment, or set hand.boxes=mediapipe")
    return {s: crops.mask_boxes(seq.masks(s), seq.image_size(), seq.frame_names(), s) for s in sides}


def _file_boxes(task: HandTask, path: Path | None) -> dict[Side, np.ndarray]:
    """Boxes from a .npy file: a dict by side, or an array for the only hand that is requested or has masks."""
    if path is None:
        raise HoldprepError("hand.boxes=file needs hand.boxes_file=<.npy of x1, y1, x2, y2 for each frame>")
    content = load_npy(path)
    if not isinstance(content, Mapping):
        sides = [s for s in task.sides if s in task.masked_sides] or list(task.sides)
        if len(sides) != 1:
            raise HoldprepError(f"{path} holds boxes of one hand without its side: set hands.which=right or left, or give a dict of both")
        content = {sides[0]: content}
    try:
        return {s: np.asarray(content[s], dtype=np.float64) for s in task.sides if s in content}
    except (ValueError, TypeError) as error:
        raise HoldprepError(f"{path} holds no boxes ({error}): (frames, 4) numbers are needed") from error
