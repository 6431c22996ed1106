"""Clicks as a person makes them: coarse outlines of the true masks on a few key frames."""

from pathlib import Path

import cv2
import numpy as np

from holdprep.segmenters.prompts import EntityPrompt, write_prompts
from holdprep.sequence import ENTITIES, Sequence

CORNERS = 12  # clicks an outline at most
SMALLEST = 0.05  # of an entity's largest part: smaller ones get no outline


def write_clicks(folder: Path, key_frames: int) -> None:
    """prompts.yaml of a rendered sequence: polygons of at most 12 corners a part, on `key_frames` frames evenly over the clip."""
    seq = Sequence(folder.parent, folder.name)
    names = seq.frame_names()
    at = np.linspace(0, len(names) - 1, 2 * key_frames + 1).round().astype(int)[1::2]
    truth = {e: seq.masks(e, "truth_masks") for e in ENTITIES if seq.has(f"truth_masks_{e}")}
    prompts = {names[t]: {e: outline(masks[t]) for e, masks in truth.items()} for t in at}
    write_prompts(folder / "prompts.yaml", prompts, seq.image_size())


def outline(mask: np.ndarray) -> EntityPrompt:
    """A mask (H, W) as a person outlines it."""
    parts, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max((cv2.contourArea(p) for p in parts), default=0.0)
    polygons = tuple(_coarse(p) for p in parts if largest and cv2.contourArea(p) >= SMALLEST * largest)
    return EntityPrompt(polygons=polygons) if polygons else EntityPrompt(absent=True)


def _coarse(contour: np.ndarray) -> np.ndarray:
    for share in np.geomspace(0.005, 0.1, 30):
        polygon = cv2.approxPolyDP(contour, share * cv2.arcLength(contour, True), True)[:, 0]
        if len(polygon) <= CORNERS:
            break
    return polygon.astype(float)
