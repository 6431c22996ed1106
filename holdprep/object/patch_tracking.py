"""Patch tracking: the patch around each point in its best view is aligned in every frame where it is visible.

SIFT locates a point to about 0.3 px, independently per frame. A patch, warped by the model's poses and aligned by
Gauss-Newton, is located to within 0.1 px at the same surface point in every frame, including the many frames in which
SIFT did not detect it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pycolmap
from scipy.spatial import cKDTree

from holdprep.geometry.rigid import apply, invert
from holdprep.object.colmap import Crop, Features, Model, read_crop, read_mask
from holdprep.object.workspace import Workspace
from holdprep.threads import in_order

# Lengths are in pixels of the full image.
_RADIUS_PX = 6  # half the width of a patch
_NORMAL_NEIGHBOURS = 12  # nearest points of the cloud, from which surface normals are estimated
_MIN_COSINE = 0.35  # between normal and line of sight, for a point to be visible
_MIN_CONTRAST = 3.0  # standard deviation in grey levels; less is image noise
_MIN_CORRELATION = 0.85  # with the template
_MAX_SHIFT_PX = 3.0  # from the predicted position
_MAX_SIGMA_PX = 0.2  # position uncertainty along the weaker direction
_ITERATIONS, _CONVERGED_PX = 8, 0.05  # of Gauss-Newton; length of the last step
_SETTLED_PX = 0.005  # length of a step after which a patch is left where it is
_MIN_PATCHES = 60  # a frame with fewer also keeps its SIFT observations
# Patches per frame: with 250 a real cube's focal length is 0.6 % off (rms over settings of 83 to 165 frames), with 600 0.4 %.
# Long videos need fewer per frame, as the total counts.
_MAX_PER_FRAME, _MIN_PER_FRAME, _MAX_TOTAL = 600, 200, 150_000

_GRID = np.stack(np.meshgrid(*2 * [np.arange(-_RADIUS_PX, _RADIUS_PX + 1.0)]), axis=-1).reshape(-1, 2)  # (S, 2)
_GAUSSIAN = np.exp(-((_GRID / (0.7 * _RADIUS_PX)) ** 2).sum(axis=1) / 2)
_WEIGHT = (_GAUSSIAN / _GAUSSIAN.sum()).astype(np.float32)  # (S,)
_NUM_EFFECTIVE = 1 / float((_WEIGHT**2).sum())  # independent pixels in a patch


@dataclass(frozen=True)
class PatchObservations:
    """Observations of M model points in one frame."""

    points: np.ndarray  # (M,) indices
    px: np.ndarray  # (M, 2), full image


@dataclass(frozen=True)
class _Templates:
    """Patches of N points in their best views, with brightness normalised to weighted mean 0 and variance 1."""

    frame: np.ndarray  # (N,) index of the best view, -1 for points without a template
    normal: np.ndarray  # (N, 3) unit surface normals
    tangents: np.ndarray  # (N, 3, 2) two orthonormal directions in the surface
    jacobian: np.ndarray  # (N, 2, 2) pixels per unit of length along the tangents, in the best view
    value: np.ndarray  # (N, S)
    gradient: np.ndarray  # (N, S, 2) of the value, per pixel


def track_patches(workspace: Workspace, model: Model, features: Features) -> dict[str, PatchObservations]:
    """Observations by frame name, within 3 px of where the model predicts the points.

    Points are sampled in a fixed random order until each frame has about 600 of them (fewer in long videos).
    """
    folder, crop = workspace.folder, workspace.crop
    posed, camera = [name for name in workspace.names if name in model.poses], model.camera(workspace.principal_px)
    templates = _extract_templates(workspace, posed, model, features)

    def visible_in(name: str) -> np.ndarray:
        return _visible(model, name, templates, camera, read_mask(folder, name), crop)

    def align(frame: tuple[str, np.ndarray]) -> PatchObservations:
        return _align(model, frame[0], np.flatnonzero(frame[1]), templates, camera, read_crop(folder, frame[0]), crop)

    threads = workspace.num_threads
    visible = np.stack(list(in_order(visible_in, posed, threads, ahead=threads)))
    frames = zip(posed, visible & _select_points(visible), strict=True)
    found = dict(zip(posed, in_order(align, frames, threads, ahead=threads), strict=True))
    for name, each in found.items():
        if len(each.points) < _MIN_PATCHES:
            found[name] = _add_keypoints(each, name, model, features)
    return found


def _add_keypoints(observations: PatchObservations, name: str, model: Model, features: Features) -> PatchObservations:
    """Add the keypoints of those points that were not tracked in this frame."""
    index = model.point_of_keypoint[name]
    own = np.flatnonzero((index >= 0) & ~np.isin(index, observations.points))
    px = np.concatenate([observations.px, features.keypoints_px[name][own]])
    return PatchObservations(np.append(observations.points, index[own]), px)


def _extract_templates(workspace: Workspace, names: Sequence[str], model: Model, features: Features) -> _Templates:
    """Each point's template, from the most frontal of the views in which SIFT observed it."""
    crop, camera = workspace.crop, model.camera(workspace.principal_px)
    total = len(model.points)
    frame, keypoint = np.full(total, -1), np.zeros(total, int)
    normal = _surface_normals(names, model)
    best_cosine = np.full(total, -np.inf)
    for t, name in enumerate(names):
        index = model.point_of_keypoint[name]
        own = np.flatnonzero(index >= 0)
        cosine = _cosines(model.poses[name], model.points, normal)[index[own]]
        better = cosine > best_cosine[index[own]]
        at = index[own[better]]
        frame[at], keypoint[at], best_cosine[at] = t, own[better], cosine[better]
    tangents = np.linalg.svd(normal[:, None])[2][:, 1:].transpose(0, 2, 1)
    templates = _Templates(
        frame,
        normal,
        tangents,
        np.zeros((total, 2, 2)),
        np.zeros((total, len(_GRID)), np.float32),
        np.zeros((total, len(_GRID), 2), np.float32),
    )

    def extract(t: int) -> None:
        name, at = names[t], np.flatnonzero(frame == t)
        px, image = features.keypoints_px[name][keypoint[at]], read_crop(workspace.folder, name)
        offsets = ([0, 0], [0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5])
        samples = [_sample(image, px[:, None] + _GRID + offset, crop) for offset in offsets]
        value = samples[0] - (samples[0] * _WEIGHT).sum(axis=1, keepdims=True)
        contrast = np.sqrt((value**2 * _WEIGHT).sum(axis=1))
        frame[at[contrast < _MIN_CONTRAST]] = -1
        scale = np.maximum(contrast, _MIN_CONTRAST)[:, None]
        templates.jacobian[at] = _projection_jacobian(model.poses[name], model.points[at], tangents[at], camera)
        templates.value[at] = value / scale
        gradient = np.stack([samples[1] - samples[2], samples[3] - samples[4]], axis=2)
        templates.gradient[at] = gradient / scale[..., None]

    for _ in in_order(extract, range(len(names)), workspace.num_threads, ahead=workspace.num_threads):
        pass
    return templates


def _surface_normals(names: Sequence[str], model: Model) -> np.ndarray:
    """(N, 3) smallest principal axis of each point's neighbourhood, oriented towards the observing cameras."""
    towards = np.zeros_like(model.points)
    for name in names:
        index = model.point_of_keypoint[name]
        index = index[index >= 0]
        towards[index] += invert(model.poses[name])[:3, 3] - model.points[index]
    nearest = cKDTree(model.points).query(model.points, k=min(_NORMAL_NEIGHBOURS, len(model.points)))[1]
    centred = model.points[nearest] - model.points[nearest].mean(axis=1, keepdims=True)
    normal = np.linalg.eigh(np.einsum("nka,nkb->nab", centred, centred))[1][..., 0]
    return normal * np.where((normal * towards).sum(axis=1, keepdims=True) < 0, -1.0, 1.0)


def _cosines(T_cam_obj: np.ndarray, xyz: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """(N,) cosine of the angle between surface normals and lines of sight."""
    sight = invert(T_cam_obj)[:3, 3] - xyz
    return (sight * normal).sum(axis=1) / np.linalg.norm(sight, axis=1)


def _visible(
    model: Model,
    name: str,
    templates: _Templates,
    camera: pycolmap.Camera,
    mask: np.ndarray,
    crop: Crop,
) -> np.ndarray:
    """(N,) bool: points with a template that face the camera, with most of the patch on the mask."""
    T_cam_obj, xyz = model.poses[name], model.points
    cam = apply(T_cam_obj, xyz)
    facing = (templates.frame >= 0) & (cam[:, 2] > 0) & (_cosines(T_cam_obj, xyz, templates.normal) > _MIN_COSINE)
    px = np.asarray(camera.img_from_cam(np.where(facing[:, None], cam, [0.0, 0.0, 1.0])))
    x, y = np.round(crop.to_window(px)).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
    border_px = cv2.distanceTransform(mask, cv2.DIST_L2, 5)[np.where(inside, y, 0), np.where(inside, x, 0)]
    return np.asarray(facing & inside & (border_px > 0.7 * _RADIUS_PX * crop.upsample))


def _select_points(visible: np.ndarray) -> np.ndarray:
    """(N,) bool: random points that give each frame of `visible` (T, N) the wanted number, where there are enough."""
    wanted = np.clip(_MAX_TOTAL / len(visible), _MIN_PER_FRAME, _MAX_PER_FRAME)
    count, selected = np.zeros(len(visible), int), np.zeros(visible.shape[1], bool)
    for point in np.random.default_rng(0).permutation(visible.shape[1]):
        if (count[visible[:, point]] < wanted).any():
            selected[point] = True
            count += visible[:, point]
    return selected


def _align(
    model: Model,
    name: str,
    points: np.ndarray,
    templates: _Templates,
    camera: pycolmap.Camera,
    image: np.ndarray,
    crop: Crop,
) -> PatchObservations:
    """Estimate each patch's shift in a frame by inverse compositional Gauss-Newton (Baker and Matthews, 2004).

    The patches are warped affinely; brightness scale and offset are projected out. Patches that do not converge, or whose
    correlation is too low, are dropped.
    """
    T, xyz = model.poses[name], model.points[points]
    jacobian = _projection_jacobian(T, xyz, templates.tangents[points], camera)
    warp = jacobian @ np.linalg.inv(templates.jacobian[points])
    grid = _GRID @ np.swapaxes(warp, 1, 2)
    start = np.asarray(camera.img_from_cam(apply(T, xyz)))
    value = templates.value[points]
    gradient = templates.gradient[points] @ np.linalg.inv(warp)
    gradient = gradient - _WEIGHT @ gradient[:, None]
    gradient = gradient - ((value * _WEIGHT)[:, None] @ gradient) * value[..., None]
    weighted = np.swapaxes(gradient * _WEIGHT[:, None], 1, 2)
    information = weighted @ gradient
    weakest = np.linalg.eigvalsh(information)[:, 0]
    inverse = np.linalg.pinv(information, hermitian=True)
    shift, step, correlation = np.zeros((len(points), 2)), np.zeros((len(points), 2)), np.zeros(len(points))
    moving = np.arange(len(points))
    for _ in range(_ITERATIONS):
        observed = _sample(image, (start + shift)[moving, None] + grid[moving], crop)
        observed = observed - np.einsum("ns,s->n", observed, _WEIGHT)[:, None]
        gain = np.einsum("ns,ns->n", observed, value[moving] * _WEIGHT)
        correlation[moving] = gain / np.maximum(np.sqrt(np.einsum("ns,s->n", observed**2, _WEIGHT)), 1e-6)
        residual = value[moving] - observed / np.maximum(gain, 0.1 * _MIN_CONTRAST)[:, None]
        found = (inverse[moving] @ (weighted[moving] @ residual[..., None]))[..., 0]
        step[moving] = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1.0)
        shift[moving] += step[moving]
        moving = moving[np.linalg.norm(step[moving], axis=1) > _SETTLED_PX]
    noise = np.maximum(1 - correlation**2, 0) / np.maximum(correlation, 1e-6) ** 2
    sigma = np.sqrt(noise / np.maximum(weakest, 1e-12) / _NUM_EFFECTIVE)
    step_px, shift_px = (np.linalg.norm(x, axis=1) for x in (step, shift))
    good = (correlation > _MIN_CORRELATION) & (sigma < _MAX_SIGMA_PX) & (step_px < _CONVERGED_PX) & (shift_px < _MAX_SHIFT_PX)
    return PatchObservations(points[good], (start + shift)[good])


def _projection_jacobian(
    T_cam_obj: np.ndarray,
    xyz: np.ndarray,
    tangents: np.ndarray,
    camera: pycolmap.Camera,
) -> np.ndarray:
    """(N, 2, 2) derivative of the projection of points (N, 3) along their tangents (N, 3, 2), by central differences."""
    small = 1e-4 * np.linalg.norm(apply(T_cam_obj, xyz), axis=1, keepdims=True)
    plus, minus = ([camera.img_from_cam(apply(T_cam_obj, xyz + sign * small * tangents[..., i])) for i in range(2)] for sign in (1.0, -1.0))
    return np.stack([(a - b) / (2 * small) for a, b in zip(plus, minus, strict=True)], axis=2)


def _sample(image: np.ndarray, px: np.ndarray, crop: Crop) -> np.ndarray:
    """(N, S) float32 brightness of an enlarged crop at full-image pixels (N, S, 2), by bilinear interpolation."""
    at = crop.to_window(px).astype(np.float32)
    image, samples = image.astype(np.float32), np.zeros(at.shape[:2], np.float32)
    for part in (slice(i, i + 4096) for i in range(0, len(at), 4096)):  # OpenCV accepts at most 32767 rows
        samples[part] = cv2.remap(image, at[part, :, 0], at[part, :, 1], cv2.INTER_LINEAR)
    return samples
