"""HaMeR's network on a clip. Files of its script in HOLD are read by `trackfile`.

Pre- and postprocessing are as published: the crop, the mirrored left hand, the assumed focal length of 5000 / 256 longer image sides
and the principal point (w / 2, h / 2), half a pixel from this project's convention.
"""

from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from holdprep.geometry.cameras import project
from holdprep.hand import lbs
from holdprep.hand.frames import scatter_to_frames
from holdprep.hand.model import SIDES, HandModel, ManoParams, Side
from holdprep.hand.trackers import conversion, crops
from holdprep.hand.trackers.hamer_network import CROP_HEIGHT, CROP_WIDTH, Hamer, Prediction
from holdprep.hand.trackers.tracks import VertexTrack

RESCALE = 2.0  # crop by bounding box of the hand's keypoints


def track(
    images: Sequence[np.ndarray],
    boxes_px: Mapping[Side, np.ndarray],
    network: Hamer,
    models: Mapping[Side, HandModel],
    names: Sequence[str],
    *,
    focal_px: float | None = None,
    feed: crops.Feed = crops.DEFAULT_FEED,
) -> VertexTrack:
    """Hands in T BGR images of one size, for boxes (T, 4) of each hand (NaN without a hand); `names` are those of the frames.

    `models` are the hand models of both sides (the network predicts parameters of the right one). `focal_px` replaces HaMeR's assumed
    focal length if it is known. The network runs on its current device, in its current precision.
    Raises HoldprepError where boxes and images do not fit.
    """
    height, width = images[0].shape[:2]
    for side, boxes in boxes_px.items():
        crops.check_boxes(boxes, (width, height), names, side)
    todo = crops.jobs(boxes_px)
    device = network.head.position.device
    crop_batches = crops.batches(images, todo, cut, feed, device)
    found = predict(network, crop_batches, crops.progress_of(todo, len(names)) if feed.progress else None)
    K = crops.assumed_camera(width, height, focal_px)
    vertices, joints, j2d, params, notes = {}, {}, {}, {}, []
    for side in (s for s in SIDES if any(job.side == s for job in todo)):
        rows = [i for i, job in enumerate(todo) if job.side == side]
        as_right = _right_hand(found, rows, np.stack([todo[i].box_px for i in rows]), K, side, models["right"])
        hand, mesh, note = conversion.to_side(as_right, side, models)
        notes += note
        at = np.array([todo[i].frame for i in rows])
        vertices[side], joints[side] = (scatter_to_frames(x.numpy(), at, len(names)) for x in (mesh.vertices, mesh.joints))
        j2d[side] = project(joints[side], K)
        params[side] = ManoParams(
            *(torch.as_tensor(scatter_to_frames(getattr(hand, k).numpy(), at, len(names))) for k in conversion.PARAM_SHAPES)
        )
    return VertexTrack(vertices, j2d, K, tuple(names), tuple(notes), joints, params)


def predict(network: Hamer, crop_batches: Iterable[Tensor], bar: tuple[int, int] | None = None) -> Prediction:
    """The network on batches of crops, float64 on the CPU; `bar` as in `crops.forward`."""
    parts = crops.forward(network, crop_batches, "HaMeR", bar)
    found = Prediction(*(torch.cat([getattr(p, k) for p in parts]).double().cpu() for k in ("rotations", "betas", "camera")))
    crops.check_finite(torch.cat([found.rotations.flatten(1), found.betas, found.camera], dim=1), "HaMeR")
    return found


def cut(image: np.ndarray, box_px: np.ndarray, mirror: bool) -> np.ndarray:
    """(3, 256, 192) RGB, 0..255: the central columns of a square of 256 pixels around the box; black outside of the image.

    Before a strong reduction, the visible part is blurred as by skimage's `gaussian`.
    """
    side_px, center = crop_side(box_px), (box_px[:2] + box_px[2:]) / 2
    scale = CROP_HEIGHT / side_px
    reduction = 1 / scale / 2
    sigma = (reduction - 1) / 2 if reduction > 1.1 else 0.0
    part, corner = _visible_part(image, center, side_px, sigma)
    x, y = center - corner
    if mirror:
        part, x = cv2.flip(part, 1), part.shape[1] - 1 - x
    M = np.array([[scale, 0, CROP_WIDTH / 2 - scale * x], [0, scale, CROP_HEIGHT / 2 - scale * y]])
    patch = cv2.warpAffine(part, M, (CROP_WIDTH, CROP_HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return np.ascontiguousarray(patch[..., ::-1].transpose(2, 0, 1), dtype=np.float32)


def crop_side(box_px: np.ndarray) -> float:
    """Side in pixels of the square crop: the box, enlarged to a width : height of 3 : 4 and then by RESCALE, has it as its longer side."""
    width, height = box_px[2:] - box_px[:2]
    return RESCALE * float(max(height, width * CROP_HEIGHT / CROP_WIDTH))


def square(boxes_px: np.ndarray) -> np.ndarray:
    """(T, 4) square crops of boxes (T, 4); NaN where these are NaN."""
    center, half = (boxes_px[:, :2] + boxes_px[:, 2:]) / 2, np.array([[crop_side(box) / 2] for box in boxes_px])
    return np.concatenate([center - half, center + half], axis=1)


def boxes_of_squares(squares_px: np.ndarray) -> np.ndarray:
    """(T, 4) boxes whose crops are the squares (T, 4)."""
    center, side = (squares_px[:, :2] + squares_px[:, 2:]) / 2, squares_px[:, 2:] - squares_px[:, :2]
    half = side / (2 * RESCALE) * [CROP_WIDTH / CROP_HEIGHT, 1.0]
    return np.concatenate([center - half, center + half], axis=1)


def _visible_part(image: np.ndarray, center: np.ndarray, side_px: float, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """The part of the image inside a crop, blurred if sigma > 0 (float32 then), and the position of its corner (2,)."""
    radius = int(4 * sigma + 0.5)
    reach = side_px / 2 + radius + 2
    size = np.array(image.shape[1::-1])
    low = np.clip(np.floor(center - reach), 0, size - 1).astype(int)
    high = np.clip(np.ceil(center + reach) + 1, low + 1, size).astype(int)
    part = image[low[1] : high[1], low[0] : high[0]]
    if sigma > 0:
        width = 2 * radius + 1
        part = cv2.GaussianBlur(part.astype(np.float32), (width, width), sigma, borderType=cv2.BORDER_REPLICATE)
    return part, low


def _right_hand(found: Prediction, rows: list[int], boxes_px: np.ndarray, K: np.ndarray, side: Side, model: HandModel) -> ManoParams:
    """Predictions as parameters of right hands under K; a left hand is mirrored, negating x gives its position."""
    scale, shift_m = found.camera[rows, 0].numpy(), found.camera[rows, 1:].numpy()
    focal, center = K[0, 0], K[:2, 2]
    size = np.array([crop_side(box) for box in boxes_px]) * scale + 1e-9
    off_axis_m = 2 * ((boxes_px[:, :2] + boxes_px[:, 2:]) / 2 - center) / size[:, None]
    if side == "left":
        off_axis_m[:, 0] *= -1
    transl = torch.as_tensor(np.concatenate([off_axis_m + shift_m, (2 * focal / size)[:, None]], axis=1))
    return lbs.to_params(model, lbs.HandState(found.rotations[rows], found.betas[rows], transl))
