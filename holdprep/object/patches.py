"""Points placed exactly: the patch about each point, as its best view shows it, is sought in every frame that should see it.

SIFT finds a point again within some 0.3 px, each frame for itself. A patch, turned as the model says and moved until it fits, lands
within 0.1 px, on the same spot of the surface in every frame, and in the many frames where SIFT missed it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pycolmap
from scipy.spatial import cKDTree

from holdprep.geometry.rigid import apply, invert
from holdprep.object.colmap import Crop, Features, Model, read_crop, read_mask
from holdprep.object.evidence import camera_of

_RADIUS_PX = 6  # half a patch's width, in pixels of the full image as all lengths here
_PLANE_POINTS = 12  # the nearest of the cloud tell which way the surface faces
_MIN_COSINE = 0.35  # seen flatter than this a surface shows too little
_MIN_CONTRAST = 3.0  # grey levels; less is the picture's noise
_MIN_LIKENESS = 0.85  # correlation with the best view
_MAX_SHIFT_PX = 3.0  # from where the model has it
_MAX_SIGMA_PX = 0.2  # what likeness and texture leave open along the weaker direction
_STEPS, _STILL_PX = 8, 0.05
_FEW = 60  # patches; a frame in which fewer were found keeps its features beside them
# Patches sought in a frame: 250 leave a real cube's focal length 0.6 % off (rms over settings of 83 to 165 frames), 600 leave 0.4 %. In a
# long video a frame needs fewer: they add up.
_PER_FRAME, _AT_LEAST, _IN_ALL = 600, 200, 150_000

_GRID = np.stack(np.meshgrid(*2 * [np.arange(-_RADIUS_PX, _RADIUS_PX + 1.0)]), axis=-1).reshape(-1, 2)  # (S, 2)
_BELL = np.exp(-((_GRID / (0.7 * _RADIUS_PX)) ** 2).sum(axis=1) / 2)
_WEIGHT = (_BELL / _BELL.sum()).astype(np.float32)  # (S,)
_NUM_EFFECTIVE = 1 / float((_WEIGHT**2).sum())  # independent pixels in a patch


@dataclass(frozen=True)
class Located:
    """Where M of the model's points are seen in one frame."""

    points: np.ndarray  # (M,) indices
    px: np.ndarray  # (M, 2), full image


@dataclass(frozen=True)
class _Patches:
    """What each of N points looks like in its best view: brightness of weighted mean 0 and variance 1 over the grid, and its slope per pixel."""

    frame: np.ndarray  # (N,) index of that view, -1 where no patch can be cut out
    normal: np.ndarray  # (N, 3) of the surface, of unit length
    tangents: np.ndarray  # (N, 3, 2) two directions along it
    widening: np.ndarray  # (N, 2, 2) pixels per tangent
    value: np.ndarray  # (N, S)
    slope: np.ndarray  # (N, S, 2)


def locate(
    names: Sequence[str], model: Model, features: Features, principal_px: tuple[float, float], folder: Path, crop: Crop
) -> dict[str, Located]:
    """Every frame's patches, found within 3 px of where the model has them; `folder` holds the crops and masks it was made from.

    Points are taken at random, the same ones every time, until each frame has some 600 (of long videos fewer) to look for or none is left.
    """
    posed, camera = [name for name in names if name in model.poses], camera_of(model, principal_px)
    patches = _cut_out(posed, model, features, camera, folder, crop)
    visible = np.stack([_visible(model.poses[name], model.points, patches, camera, read_mask(folder, name), crop) for name in posed])
    sought = visible & _enough(visible)
    found = {
        name: _search(model, name, np.flatnonzero(seen), patches, camera, read_crop(folder, name), crop)
        for name, seen in zip(posed, sought, strict=True)
    }
    return {name: each if len(each.points) >= _FEW else _joined(each, name, model, features) for name, each in found.items()}


def _joined(located: Located, name: str, model: Model, features: Features) -> Located:
    """With the keypoints of the points that have no patch in this frame."""
    index = model.point_of_keypoint[name]
    own = np.flatnonzero((index >= 0) & ~np.isin(index, located.points))
    return Located(np.append(located.points, index[own]), np.concatenate([located.px, features.keypoints_px[name][own]]))


def _cut_out(names: Sequence[str], model: Model, features: Features, camera: pycolmap.Camera, folder: Path, crop: Crop) -> _Patches:
    """Each point's patch from the view that faces its surface most squarely, among those that SIFT saw it in."""
    total = len(model.points)
    frame, keypoint = np.full(total, -1), np.zeros(total, int)
    normal = _normals(names, model)
    squarely = np.full(total, -np.inf)
    for t, name in enumerate(names):
        index = model.point_of_keypoint[name]
        own = np.flatnonzero(index >= 0)
        cosine = _cosines(model.poses[name], model.points, normal)[index[own]]
        better = cosine > squarely[index[own]]
        frame[index[own[better]]], keypoint[index[own[better]]], squarely[index[own[better]]] = t, own[better], cosine[better]
    tangents = np.linalg.svd(normal[:, None])[2][:, 1:].transpose(0, 2, 1)
    patches = _Patches(
        frame,
        normal,
        tangents,
        np.zeros((total, 2, 2)),
        np.zeros((total, len(_GRID)), np.float32),
        np.zeros((total, len(_GRID), 2), np.float32),
    )
    for t, name in enumerate(names):
        at = np.flatnonzero(frame == t)
        px, picture = features.keypoints_px[name][keypoint[at]], read_crop(folder, name)
        around = [_sample(picture, px[:, None] + _GRID + shift, crop) for shift in ([0, 0], [0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5])]
        value = around[0] - (around[0] * _WEIGHT).sum(axis=1, keepdims=True)
        contrast = np.sqrt((value**2 * _WEIGHT).sum(axis=1))
        frame[at[contrast < _MIN_CONTRAST]] = -1
        scale = np.maximum(contrast, _MIN_CONTRAST)[:, None]
        patches.widening[at] = _widening(model.poses[name], model.points[at], tangents[at], camera)
        patches.value[at] = value / scale
        patches.slope[at] = np.stack([around[1] - around[2], around[3] - around[4]], axis=2) / scale[..., None]
    return patches


def _normals(names: Sequence[str], model: Model) -> np.ndarray:
    """(N, 3) the least principal axis of each point's neighbours, towards the cameras that saw the point."""
    towards = np.zeros_like(model.points)
    for name in names:
        seen = model.point_of_keypoint[name]
        seen = seen[seen >= 0]
        towards[seen] += invert(model.poses[name])[:3, 3] - model.points[seen]
    nearest = cKDTree(model.points).query(model.points, k=min(_PLANE_POINTS, len(model.points)))[1]
    around = model.points[nearest] - model.points[nearest].mean(axis=1, keepdims=True)
    normal = np.linalg.eigh(np.einsum("nka,nkb->nab", around, around))[1][..., 0]
    return normal * np.where((normal * towards).sum(axis=1, keepdims=True) < 0, -1.0, 1.0)


def _cosines(T_cam_obj: np.ndarray, xyz: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """(N,) cosine of the angle between the surface's normals and the lines of sight."""
    sight = invert(T_cam_obj)[:3, 3] - xyz
    return (sight * normal).sum(axis=1) / np.linalg.norm(sight, axis=1)


def _visible(
    T_cam_obj: np.ndarray, xyz: np.ndarray, patches: _Patches, camera: pycolmap.Camera, mask: np.ndarray, crop: Crop
) -> np.ndarray:
    """(N,) bool: the points whose patches this frame should show, on the mask by most of their width."""
    cam = apply(T_cam_obj, xyz)
    facing = (patches.frame >= 0) & (cam[:, 2] > 0) & (_cosines(T_cam_obj, xyz, patches.normal) > _MIN_COSINE)
    px = np.asarray(camera.img_from_cam(np.where(facing[:, None], cam, [0.0, 0.0, 1.0])))
    x, y = np.round(crop.to_window(px)).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 5)[np.where(inside, y, 0), np.where(inside, x, 0)]
    return np.asarray(facing & inside & (depth > 0.7 * _RADIUS_PX * crop.upsample))


def _enough(visible: np.ndarray) -> np.ndarray:
    """(N,) bool: points that together give each of the frames of `visible` (T, N) its fill, where there are as many."""
    fill = np.clip(_IN_ALL / len(visible), _AT_LEAST, _PER_FRAME)
    count, taken = np.zeros(len(visible), int), np.zeros(visible.shape[1], bool)
    for point in np.random.default_rng(0).permutation(visible.shape[1]):
        if (count[visible[:, point]] < fill).any():
            taken[point] = True
            count += visible[:, point]
    return taken


def _search(
    model: Model, name: str, points: np.ndarray, patches: _Patches, camera: pycolmap.Camera, picture: np.ndarray, crop: Crop
) -> Located:
    """Gauss-Newton over each patch's shift, its brightness scaled and offset freely (Baker and Matthews, 2004, on the patch's side)."""
    T, xyz = model.poses[name], model.points[points]
    widening = _widening(T, xyz, patches.tangents[points], camera) @ np.linalg.inv(patches.widening[points])
    grid = np.einsum("nij,sj->nsi", widening, _GRID)
    start = np.asarray(camera.img_from_cam(apply(T, xyz)))
    value = patches.value[points]
    slope = np.einsum("nsj,nji->nsi", patches.slope[points], np.linalg.inv(widening))
    slope = slope - (slope * _WEIGHT[:, None]).sum(axis=1, keepdims=True)
    slope = slope - (slope * (value * _WEIGHT)[..., None]).sum(axis=1, keepdims=True) * value[..., None]
    information = np.einsum("nsi,nsj,s->nij", slope, slope, _WEIGHT)
    weakest = np.linalg.eigvalsh(information)[:, 0]
    solve = np.linalg.pinv(information, hermitian=True)
    shift, step, likeness = np.zeros((len(points), 2)), np.zeros((len(points), 2)), np.zeros(len(points))
    for _ in range(_STEPS):
        seen = _sample(picture, (start + shift)[:, None] + grid, crop)
        seen = seen - (seen * _WEIGHT).sum(axis=1, keepdims=True)
        gain = (seen * value * _WEIGHT).sum(axis=1)
        likeness = gain / np.maximum(np.sqrt((seen**2 * _WEIGHT).sum(axis=1)), 1e-6)
        rest = value - seen / np.maximum(gain, 0.1 * _MIN_CONTRAST)[:, None]
        step = (solve @ np.einsum("nsi,ns,s->ni", slope, rest, _WEIGHT)[..., None])[..., 0]
        step = step / np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1.0)
        shift = shift + step
    sigma = np.sqrt(np.maximum(1 - likeness**2, 0) / np.maximum(likeness, 1e-6) ** 2 / np.maximum(weakest, 1e-12) / _NUM_EFFECTIVE)
    still, near = (np.linalg.norm(x, axis=1) for x in (step, shift))
    good = (likeness > _MIN_LIKENESS) & (sigma < _MAX_SIGMA_PX) & (still < _STILL_PX) & (near < _MAX_SHIFT_PX)
    return Located(points[good], (start + shift)[good])


def _widening(T_cam_obj: np.ndarray, xyz: np.ndarray, tangents: np.ndarray, camera: pycolmap.Camera) -> np.ndarray:
    """(N, 2, 2) change of the pixel of points (N, 3) along their tangents (N, 3, 2), per unit of length."""
    small = 1e-4 * np.linalg.norm(apply(T_cam_obj, xyz), axis=1, keepdims=True)
    there, back = ([camera.img_from_cam(apply(T_cam_obj, xyz + sign * small * tangents[..., i])) for i in range(2)] for sign in (1.0, -1.0))
    return np.stack([(a - b) / (2 * small) for a, b in zip(there, back, strict=True)], axis=2)


def _sample(picture: np.ndarray, px: np.ndarray, crop: Crop) -> np.ndarray:
    """(N, S) float32 brightness of an enlarged crop at pixels (N, S, 2) of the full image."""
    at = crop.to_window(px).astype(np.float32)
    picture, found = picture.astype(np.float32), np.zeros(at.shape[:2], np.float32)
    for part in (slice(i, i + 4096) for i in range(0, len(at), 4096)):  # OpenCV takes no more than 32767 rows
        found[part] = cv2.remap(picture, at[part, :, 0], at[part, :, 1], cv2.INTER_LINEAR)
    return found
