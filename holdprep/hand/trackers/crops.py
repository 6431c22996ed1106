"""Boxes of a hand in each frame, and the crops that are the input of a network."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from holdprep.errors import HoldprepError
from holdprep.hand.model import Side
from holdprep.threads import in_order

MIN_BOX_PX = 8  # smaller hands are not used
MIN_PART = 0.02  # of the area of a mask's largest part: smaller parts are ignored
DOH_SCALE, DOH_REUSED_SCALE, DOH_SIDES_PX = 1.5, 2.5, (256, 700)
FOCAL_PER_SIDE = 5000 / 256
# ImageNet's, which all backbones here were trained on; RGB, 0..1
IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Job(NamedTuple):
    """One crop: the hand of `side` in a frame, with its box x1, y1, x2, y2 in pixels. Left hands are mirrored to right ones."""

    frame: int
    side: Side
    box_px: np.ndarray


@dataclass(frozen=True)
class Feed:
    """Settings of a network's input: `batch` crops at a time, images read and cropped by `threads`, with or without a progress bar."""

    batch: int = 32
    threads: int = 4
    progress: bool = False


DEFAULT_FEED = Feed()
Output = TypeVar("Output")
Cut = Callable[[np.ndarray, np.ndarray, bool], np.ndarray]  # image, box, mirrored -> (3, H, W) float32 RGB, 0..255


def mask_boxes(masks: Sequence[np.ndarray], image_size: tuple[int, int], names: Sequence[str], side: Side) -> np.ndarray:
    """(T, 4) boxes x1, y1, x2, y2 (centres of the outermost pixels) of masks (T of (H, W) bool); NaN without a hand.

    Small parts of a mask are ignored; a hand of less than MIN_BOX_PX is ignored.
    Raises HoldprepError for a mask whose size differs from that of the image (width, height).
    """
    boxes = np.full((len(masks), 4), np.nan)
    for t, (name, mask) in enumerate(zip(names, masks, strict=True)):
        if mask.shape[::-1] != image_size:
            sizes = f"{mask.shape[1]} x {mask.shape[0]}, its image {image_size[0]} x {image_size[1]}"
            raise HoldprepError(f"{side} hand's mask of frame {name} is {sizes}; masks must have the size of their images")
        box = _mask_box(mask)
        if box is not None:
            boxes[t] = box
    return boxes


def holds_hand(mask: np.ndarray) -> bool:
    """Whether a mask (H, W) shows a hand of at least MIN_BOX_PX."""
    return _mask_box(mask) is not None


def _mask_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    parts = stats[1:][stats[1:, cv2.CC_STAT_AREA] >= MIN_PART * stats[1:, cv2.CC_STAT_AREA].max(initial=0)]
    if not len(parts):
        return None
    low, high = parts[:, :2].min(axis=0), (parts[:, :2] + parts[:, 2:4]).max(axis=0) - 1
    return (*low, *high) if (high - low).max() >= MIN_BOX_PX and (high - low).min() > 0 else None


def keypoint_boxes(j2d_px: np.ndarray) -> np.ndarray:
    """(T, 4) bounding boxes of keypoints (T, J, 2); NaN where these are NaN."""
    return np.concatenate([j2d_px.min(axis=1), j2d_px.max(axis=1)], axis=1)


def doh_squares(boxes_px: np.ndarray) -> np.ndarray:
    """(T, 4) squares of whole pixels around boxes (T, 4), at least one known, by the rule of HOLD's fork of METRO for 100DOH's boxes.

    The side is DOH_SCALE times the longer side, clamped; where a box is NaN, the last known one (before the first: the first) is used with
    DOH_REUSED_SCALE.
    """
    known = np.flatnonzero(np.isfinite(boxes_px).all(axis=1))
    last = known[np.clip(np.searchsorted(known, np.arange(len(boxes_px)), side="right") - 1, 0, None)]
    box = boxes_px[last]
    scale = np.where(last == np.arange(len(boxes_px)), DOH_SCALE, DOH_REUSED_SCALE)
    side = np.round(np.clip(scale * (box[:, 2:] - box[:, :2]).max(axis=1), *DOH_SIDES_PX))[:, None]
    low = np.round((box[:, :2] + box[:, 2:] - side) / 2)
    return np.concatenate([low, low + side], axis=1)


def check_boxes(boxes_px: np.ndarray, image_size: tuple[int, int], names: Sequence[str], hand: str) -> None:
    """Raise HoldprepError for the first box (T, 4) that is empty, too small or outside the image (width, height); NaN means no box.

    `hand` begins the message: the side, after the file of the boxes where they are of one.
    """
    width, height = image_size
    if boxes_px.shape != (len(names), 4):
        raise HoldprepError(f"{hand} hand: boxes have shape {boxes_px.shape}, ({len(names)}, 4) is needed: x1, y1, x2, y2 for each frame")
    for name, (x1, y1, x2, y2) in zip(names, boxes_px, strict=True):
        text = f"{hand} hand's box in frame {name} is ({x1:.0f}, {y1:.0f}, {x2:.0f}, {y2:.0f})"
        if x2 <= x1 or y2 <= y1:
            raise HoldprepError(f"{text}, which is empty; x1 < x2 and y1 < y2 are needed, NaN where there is no hand")
        if max(x2 - x1, y2 - y1) < MIN_BOX_PX:
            raise HoldprepError(f"{text}, less than {MIN_BOX_PX} px; are the boxes in pixels of images/, not in 0..1?")
        if x2 < 0 or y2 < 0 or x1 > width - 1 or y1 > height - 1:
            raise HoldprepError(f"{text}, outside the image of {width} x {height}; are the boxes in pixels of images/?")


def jobs(boxes_px: Mapping[Side, np.ndarray]) -> list[Job]:
    """Jobs of all hands that have a box, ordered by frame."""
    found = [Job(int(t), side, boxes[t]) for side, boxes in boxes_px.items() for t in np.flatnonzero(np.isfinite(boxes).all(axis=1))]
    return sorted(found, key=lambda job: job.frame)


def progress_of(todo: Sequence[Job], frames: int) -> tuple[int, int]:
    """Numbers for a progress bar: crops, and frames of the clip without a crop."""
    return len(todo), frames - len({job.frame for job in todo})


def forward(network: Callable[[Tensor], Output], crop_batches: Iterable[Tensor], name: str, bar: tuple[int, int] | None) -> list[Output]:
    """A network's outputs for batches of crops; with `bar` = (crops, frames without a hand), a progress bar is shown.

    Raises HoldprepError where a batch does not fit into the device's memory.
    """
    found: list[Output] = []
    total, lost = bar or (0, 0)
    note = {"frames without a hand": lost} if lost else None
    with torch.inference_mode(), tqdm(total=total, desc=name, unit="crop", disable=True if bar is None else None, postfix=note) as shown:
        for batch in crop_batches:
            try:
                found.append(network(batch))
            except torch.OutOfMemoryError as error:
                raise HoldprepError(f"{name}: {len(batch)} crops at once do not fit into the GPU's memory; set hand.batch lower") from error
            shown.update(len(batch))
    return found


def check_finite(values: Tensor, name: str) -> None:
    """Raise HoldprepError where some of N predictions (N, ...) are not finite, which indicates an overflow of half precision."""
    bad = int((~torch.isfinite(values.flatten(1)).all(dim=1)).sum())
    if bad:
        raise HoldprepError(
            f"{name}: {bad} of {len(values)} crops gave NaN or infinity; set hand.dtype=bfloat16 or float32, or get the weights again"
        )


def assumed_camera(width: float, height: float, focal_px: float | None = None) -> np.ndarray:
    """(3, 3) intrinsics that HaMeR assumes: focal length 5000 / 256 times the longer side, if not given; centre (w / 2, h / 2)."""
    focal = focal_px or FOCAL_PER_SIDE * max(width, height)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def batches(images: Sequence[np.ndarray], todo: Sequence[Job], cut: Cut, feed: Feed, device: torch.device) -> Iterator[Tensor]:
    """Crops (N, 3, H, W) in the order of `todo`, normalised as ImageNet's, on `device`; N is `feed.batch` except in the last batch."""
    mean, std = (255 * torch.tensor(x, device=device)[:, None, None] for x in (IMAGE_MEAN, IMAGE_STD))
    crops = _cut_ahead(images, todo, cut, feed.threads, ahead=2 * feed.batch)
    while batch := list(islice(crops, feed.batch)):
        raw = torch.from_numpy(np.stack(batch))
        raw = raw.pin_memory() if device.type == "cuda" else raw
        yield (raw.to(device, non_blocking=True) - mean) / std


def _cut_ahead(images: Sequence[np.ndarray], todo: Sequence[Job], cut: Cut, threads: int, ahead: int) -> Iterator[np.ndarray]:
    """All crops in order; up to `ahead` frames are read before they are requested. A frame is read once for both its hands."""

    def of_frame(group: list[Job]) -> list[np.ndarray]:
        image = images[group[0].frame]
        return [cut(image, job.box_px, job.side == "left") for job in group]

    for crops in in_order(of_frame, (list(group) for _, group in groupby(todo, key=lambda job: job.frame)), threads, ahead):
        yield from crops
