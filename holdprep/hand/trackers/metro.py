"""METRO's network on a clip, and its results in the files of HOLD's fork.

The files hold wrist-relative vertices of right hands, keypoints in 224-pixel crops, and the crops' boxes. The network is for right hands
only: left ones are mirrored before and after. Its camera is orthographic; a hand's distance is the one at which wrist and fingertips
project to the keypoints under a pinhole camera.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import rays
from holdprep.hand import lbs
from holdprep.hand.frames import scatter_to_frames
from holdprep.hand.joints import MANO21_TIP_VERTICES, OPENPOSE_FROM_MANO21, to_mano21
from holdprep.hand.model import HandModel, ManoParams, Side
from holdprep.hand.trackers import crops
from holdprep.hand.trackers.metro_network import COARSE, CROP_PX, Metro
from holdprep.hand.trackers.tracks import VertexTrack
from holdprep.io.safeio import load_npy, load_npz_array

# METRO's own fingertips, from thumb to little finger; its template and its output differ by one vertex.
TEMPLATE_TIPS, OUTPUT_TIPS = (745, 317, 444, 556, 673), (745, 317, 445, 556, 673)
FLIP = np.array([-1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Raw:
    """One hand as in METRO's files, T frames.

    `v3d_ra_m` (T, 778, 3) relative to the wrist, `j2d_crop_px` (T, 21, 2) in OpenPose order in the 224-pixel crop, both NaN where the
    network was not run; `boxes_px` (T, 4) squares of whole pixels, known for every frame.
    """

    v3d_ra_m: np.ndarray
    j2d_crop_px: np.ndarray
    boxes_px: np.ndarray


@dataclass(frozen=True)
class Regressor:
    """METRO's network, the right hand's `model`, and the vertices `kept` (195,) that are its tokens."""

    network: Metro
    model: HandModel
    kept: np.ndarray


def track(
    images: Sequence[np.ndarray],
    boxes_px: Mapping[Side, np.ndarray],
    regressor: Regressor,
    names: Sequence[str],
    *,
    reuse_boxes: bool = False,
    feed: crops.Feed = crops.DEFAULT_FEED,
) -> dict[Side, Raw]:
    """Hands in T BGR images of one size, for boxes (T, 4) of each hand (NaN without a hand); `names` are those of the frames.

    With `reuse_boxes`, frames without a box use the last one. The network runs on its current device, in its current precision. Raises
    HoldprepError where boxes and images do not fit.
    """
    network, model = regressor.network, regressor.model
    height, width = images[0].shape[:2]
    for side, boxes in boxes_px.items():
        crops.check_boxes(boxes, (width, height), names, side)
    squares = {side: crops.doh_squares(boxes) for side, boxes in boxes_px.items()}
    used_boxes = {s: squares[s] if reuse_boxes else np.where(np.isfinite(b), squares[s], np.nan) for s, b in boxes_px.items()}
    todo = crops.jobs(used_boxes)
    device = network.upsample.weight.device
    resting = template(model, regressor.kept).to(device, network.upsample.weight.dtype)
    crop_batches = crops.batches(images, todo, cut, feed, device)
    progress = crops.progress_of(todo, len(names)) if feed.progress else None
    predictions = crops.forward(lambda batch: network(batch, resting), crop_batches, "METRO", progress)
    relative = [about_wrist(p.vertices_m.double().cpu(), p.camera.double().cpu(), model) for p in predictions]
    vertices_m, j2d_px = (torch.cat(x) for x in zip(*relative, strict=True))
    crops.check_finite(vertices_m, "METRO")
    hands = {}
    for side, square in squares.items():
        rows = [i for i, job in enumerate(todo) if job.side == side]
        hands[side] = _raw(side, square, [todo[i].frame for i in rows], vertices_m[rows].numpy(), j2d_px[rows].numpy())
    return hands


def to_camera(found: Mapping[Side, Raw], K: np.ndarray, names: Sequence[str], notes: Sequence[str] = ()) -> VertexTrack:
    """Hands in the frame of camera K (3, 3), wrist and fingertips at METRO's keypoints; frames with a NaN become all NaN."""
    vertices, j2d = {}, {}
    for side, hand in found.items():
        j2d_px = to_mano21(crop_to_image(hand.j2d_crop_px, hand.boxes_px))
        anchors = np.concatenate([np.zeros((len(names), 1, 3)), hand.v3d_ra_m[:, list(MANO21_TIP_VERTICES)]], axis=1)
        transl = np.stack([solve_translation(p, uv, K) for p, uv in zip(anchors, j2d_px[:, [0, 16, 17, 18, 19, 20]], strict=True)])
        vertices[side], j2d[side] = hand.v3d_ra_m + transl[:, None], j2d_px
        lost = np.isnan(vertices[side]).any(axis=(1, 2)) | np.isnan(j2d_px).any(axis=(1, 2))
        vertices[side][lost], j2d[side][lost] = np.nan, np.nan
    return VertexTrack(vertices, j2d, np.asarray(K, dtype=np.float64), tuple(names), tuple(notes))


def cut(image: np.ndarray, box_px: np.ndarray, mirror: bool) -> np.ndarray:
    """(3, 224, 224) RGB, 0..255: a square of whole pixels, resized as by Pillow's bilinear filter; black outside of the image."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = box_px.astype(int)
    part = image[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
    square = cv2.copyMakeBorder(part, max(-y1, 0), max(y2 - height, 0), max(-x1, 0), max(x2 - width, 0), cv2.BORDER_CONSTANT)
    square = cv2.flip(square, 1) if mirror else square
    pixels = torch.from_numpy(np.ascontiguousarray(square[..., ::-1].transpose(2, 0, 1), dtype=np.float32))
    return F.interpolate(pixels[None], size=(CROP_PX, CROP_PX), mode="bilinear", antialias=True)[0].numpy()


def template(model: HandModel, kept: np.ndarray) -> Tensor:
    """(216, 3) m relative to the wrist: joints in OpenPose order and the `kept` vertices of a right hand in its mean pose and shape."""
    zeros = ManoParams(*(torch.zeros(1, n, dtype=model.v_template.dtype) for n in (3, 45, 10, 3)))
    mesh = lbs.forward(model, zeros)
    joints = torch.cat([mesh.joints[0, :16], mesh.vertices[0, list(TEMPLATE_TIPS)]])[list(OPENPOSE_FROM_MANO21)]
    return torch.cat([joints, mesh.vertices[0, torch.as_tensor(kept)]]) - joints[0]


def read_kept(path: Path) -> np.ndarray:
    """(195,) the vertices of 778 that METRO uses, from mano_downsampling.npz of its repository.

    Raises HoldprepError where the file is missing or has another content.
    """
    if not path.is_file():
        raise HoldprepError(
            f"{path} does not exist: hand.sampling is metro/modeling/data/mano_downsampling.npz of https://github.com/microsoft/MeshTransformer"
        )
    steps = load_npz_array(path, "D")
    matrix = steps.ravel()[0].toarray() if steps.dtype == object and hasattr(steps.ravel()[0], "toarray") else np.zeros((0, 0))
    if matrix.shape != (COARSE, 778) or not np.array_equal(np.sort(matrix, axis=1)[:, -2:], np.tile([0, 1], (COARSE, 1))):
        raise HoldprepError(
            f"{path}: its first reduction has shape {matrix.shape}, a choice of {COARSE} of 778 vertices is needed; is it MANO's?"
        )
    return matrix.argmax(axis=1)


def about_wrist(vertices_m: Tensor, camera: Tensor, model: HandModel) -> tuple[Tensor, Tensor]:
    """Vertices (N, 778, 3) relative to the wrist by MANO's regressor, and joints (N, 21, 2) in pixels of the crop, OpenPose order."""
    regressor = model.J_regressor.to(vertices_m)
    vertices_m = vertices_m - (regressor[0] @ vertices_m)[:, None]
    joints = torch.cat([regressor @ vertices_m, vertices_m[:, list(OUTPUT_TIPS)]], dim=1)[:, list(OPENPOSE_FROM_MANO21), :2]
    return vertices_m, (camera[:, None, :1] * (joints + camera[:, None, 1:]) + 1) / 2 * CROP_PX


def _raw(side: Side, squares: np.ndarray, frames: list[int], vertices_m: np.ndarray, j2d_px: np.ndarray) -> Raw:
    """Predictions at their frames; a left hand is mirrored back."""
    if side == "left":
        vertices_m = vertices_m * FLIP
        j2d_px = np.stack([CROP_PX - j2d_px[..., 0], j2d_px[..., 1]], axis=-1)
    v3d_ra, j2d_crop = (scatter_to_frames(x, np.array(frames, int), len(squares)) for x in (vertices_m, j2d_px))
    return Raw(v3d_ra, j2d_crop, squares)


def read(folder: Path, names: Sequence[str], K: np.ndarray | None = None) -> VertexTrack:
    """`folder`/v3d_ra.npy, j2d.crop.npy and boxes.npy: one row for each of the frames `names`, in their order.

    In the frame of the camera `K` (3, 3) wrist and fingertips project to METRO's keypoints; without K, HaMeR's focal length is
    assumed for an image that contains all boxes. Frames with a NaN are NaN throughout. Raises HoldprepError where shapes or counts
    are not as published.
    """
    v3d_ra = _read(folder / "v3d_ra.npy", (len(names), 778, 3))
    j2d_crop = _read(folder / "j2d.crop.npy", (len(names), 21, 2))
    boxes_px = _read(folder / "boxes.npy", (len(names), 4))
    unknown = np.flatnonzero(~np.isfinite(boxes_px).all(axis=1))
    if len(unknown):
        raise HoldprepError(f"{folder / 'boxes.npy'}: {len(unknown)} of {len(names)} boxes are NaN, first {names[unknown[0]]}; rerun METRO")
    notes = []
    if K is None:
        K = crops.assumed_camera(*boxes_px[:, 2:].max(axis=0))
        notes.append(f"METRO: depth is that of an assumed focal length of {K[0, 0]:.0f} px; alignment mode h corrects it")
    track = to_camera({"right": Raw(v3d_ra, j2d_crop, boxes_px)}, K, names, notes)
    if np.isnan(track.vertices_m["right"]).all():
        raise HoldprepError(f"{folder / 'v3d_ra.npy'}: no frame of {len(names)} has a hand; the tracker found none")
    return track


def crop_to_image(j2d_crop: np.ndarray, boxes_px: np.ndarray) -> np.ndarray:
    """Crop pixels (T, N, 2) to full-image pixels, for boxes (T, 4) x1, y1, x2, y2 that were resized to the crop."""
    return boxes_px[:, None, :2] + j2d_crop * (boxes_px[:, None, 2:] - boxes_px[:, None, :2]) / CROP_PX


def solve_translation(points_m: np.ndarray, j2d_px: np.ndarray, K: np.ndarray) -> np.ndarray:
    """(3,) translation (m) of points (N, 3) with which they project to pixels (N, 2) by K (3, 3); NaN for NaN input.

    u (Z + t_z) = X + t_x in normalised coordinates is linear in t. Its residuals are pixels times depth, so that further passes
    divide by the depth.
    """
    if not (np.isfinite(points_m).all() and np.isfinite(j2d_px).all()):
        return np.full(3, np.nan)
    uv = rays(j2d_px, K)[:, :2]
    A = np.concatenate([np.tile(np.eye(2), (len(uv), 1)), -uv.reshape(-1, 1)], axis=1)
    b = (uv * points_m[:, 2:] - points_m[:, :2]).ravel()
    depth = np.ones(len(uv))
    for _ in range(3):
        weight = np.repeat(1 / depth, 2)
        try:
            t = np.linalg.lstsq(A * weight[:, None], b * weight, rcond=None)[0]
        except np.linalg.LinAlgError:  # values beyond all cameras
            return np.full(3, np.nan)
        depth = points_m[:, 2] + t[2]
    return t


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """An array of this shape; METRO writes a row for every frame, so that another number of rows indicates other frames."""
    array = load_npy(path)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise HoldprepError(f"{path} is not an array of numbers as written by METRO's script in HOLD; is it HaMeR's? try hand.format=hamer")
    if array.ndim == len(shape) and array.shape[1:] == shape[1:] and len(array) != shape[0]:
        raise HoldprepError(f"{path} has {len(array)} frames, there are {shape[0]} images; rerun METRO on them")
    if array.shape != shape:
        raise HoldprepError(f"{path} has shape {array.shape}, {shape} is needed; rerun METRO")
    return array.astype(np.float64)
