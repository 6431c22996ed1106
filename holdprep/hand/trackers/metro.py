"""METRO's results as HOLD's fork writes them: wrist-relative right-hand vertices, keypoints in 224-pixel crops, the crops' boxes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from holdprep.errors import HoldprepError
from holdprep.hand.joints import MANO21_TIP_VERTICES, to_mano21
from holdprep.hand.trackers import VertexTrack
from holdprep.safeio import load_npy

CROP_PX = 224
# METRO's camera is weak perspective; a long lens, as HaMeR's 5000 / 256 image sides, is the pinhole next to it.
FOCAL_PER_SIDE = 5000 / 256


def read(folder: Path, names: Sequence[str], K: np.ndarray | None = None) -> VertexTrack:
    """`folder`/v3d_ra.npy, j2d.crop.npy and boxes.npy: one row for each of the frames `names`, in their order.

    The hand is put before the camera `K` (3, 3) so that its wrist and fingertips project to METRO's keypoints; without K a long lens is
    invented whose picture just holds all boxes. Rows with a NaN are NaN throughout.
    Raises HoldprepError where shapes or counts are not as published.
    """
    v3d_ra = _read(folder / "v3d_ra.npy", (len(names), 778, 3))
    j2d_crop = _read(folder / "j2d.crop.npy", (len(names), 21, 2))
    boxes_px = _read(folder / "boxes.npy", (len(names), 4))
    unknown = np.flatnonzero(~np.isfinite(boxes_px).all(axis=1))
    if len(unknown):
        raise HoldprepError(f"{folder / 'boxes.npy'}: {len(unknown)} of {len(names)} boxes are NaN, first {names[unknown[0]]}; rerun METRO")
    notes = []
    if K is None:
        width, height = boxes_px[:, 2:].max(axis=0)
        focal = FOCAL_PER_SIDE * max(width, height)
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        notes.append(f"METRO: depth is that of an invented focal length of {focal:.0f} px; alignment mode h mends it")
    j2d_px = to_mano21(crop_to_image(j2d_crop, boxes_px))
    anchors = np.concatenate([np.zeros((len(names), 1, 3)), v3d_ra[:, list(MANO21_TIP_VERTICES)]], axis=1)
    transl = np.stack([solve_translation(p, uv, K) for p, uv in zip(anchors, j2d_px[:, [0, 16, 17, 18, 19, 20]], strict=True)])
    vertices = v3d_ra + transl[:, None]
    lost = np.isnan(vertices).any(axis=(1, 2)) | np.isnan(j2d_px).any(axis=(1, 2))
    if lost.all():
        raise HoldprepError(f"{folder / 'v3d_ra.npy'}: no frame of {len(names)} has a hand; the tracker found none")
    vertices[lost], j2d_px[lost] = np.nan, np.nan
    return VertexTrack({"right": vertices}, {"right": j2d_px}, np.asarray(K, dtype=np.float64), tuple(names), tuple(notes))


def crop_to_image(j2d_crop: np.ndarray, boxes_px: np.ndarray) -> np.ndarray:
    """Crop pixels (T, N, 2) to full-image pixels, for boxes (T, 4) x1, y1, x2, y2 that were resized to the crop."""
    return boxes_px[:, None, :2] + j2d_crop * (boxes_px[:, None, 2:] - boxes_px[:, None, :2]) / CROP_PX


def solve_translation(points_m: np.ndarray, j2d_px: np.ndarray, K: np.ndarray) -> np.ndarray:
    """(3,) metres to add to points (N, 3) for their projection by K (3, 3) to meet pixels (N, 2); NaN where an input is.

    u (Z + t_z) = X + t_x in normalised coordinates is linear in t. Its residuals are pixels times depth: a second pass divides by it.
    """
    if not (np.isfinite(points_m).all() and np.isfinite(j2d_px).all()):
        return np.full(3, np.nan)
    uv = (np.concatenate([j2d_px, np.ones((len(j2d_px), 1))], axis=1) @ np.linalg.inv(K).T)[:, :2]
    A = np.concatenate([np.tile(np.eye(2), (len(uv), 1)), -uv.reshape(-1, 1)], axis=1)
    b = (uv * points_m[:, 2:] - points_m[:, :2]).ravel()
    depth = np.ones(len(uv))
    for _ in range(3):
        weight = np.repeat(1 / depth, 2)
        t = np.linalg.lstsq(A * weight[:, None], b * weight, rcond=None)[0]
        depth = points_m[:, 2] + t[2]
    return t


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """An array of this shape; METRO writes a row for every frame, so another count means other frames."""
    array = load_npy(path)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise HoldprepError(f"{path} is no array of numbers, as METRO's script in HOLD writes it; is it HaMeR's? try hand.format=hamer")
    if array.ndim == len(shape) and array.shape[1:] == shape[1:] and len(array) != shape[0]:
        raise HoldprepError(f"{path} has {len(array)} frames, there are {shape[0]} images; rerun METRO on them")
    if array.shape != shape:
        raise HoldprepError(f"{path} has shape {array.shape}, {shape} is needed; rerun METRO")
    return array.astype(np.float64)
