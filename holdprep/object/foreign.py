"""Import of object poses from other tools: COLMAP models (text or binary), HOLD's colmap/ folder, .npz files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycolmap

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import pinhole_K
from holdprep.geometry.rigid import apply
from holdprep.io import safeio
from holdprep.io.meshfile import read_vertices
from holdprep.object.reconstruction import MAX_GAP, ObjectReconstruction, Observations, RawReconstruction, assemble
from holdprep.object.single_view import to_matrix

_PINHOLE_MODELS = ("SIMPLE_PINHOLE", "PINHOLE")
_MODELS = (*_PINHOLE_MODELS, "SIMPLE_RADIAL")


def read_poses(
    path: Path,
    names: Sequence[str],
    image_size: tuple[int, int],
    max_gap: int = MAX_GAP,
) -> ObjectReconstruction:
    """Read poses, camera and cloud for the frames `names` (in temporal order) of images of `image_size` (width, height).

    `path` is a folder with COLMAP's cameras, images and points3D; a folder with HOLD's intrinsic.npy, o2w.npy,
    normalization_mat.npy and sparse_points_normalized.obj; or an .npz with T_cam_obj (N, 4, 4), points_obj (M, 3), K (3, 3)
    or focal_px, and names (N,) unless it has every frame. Images of a COLMAP model are matched by name without folder and
    suffix, or by number. Frames without a pose are filled in.

    Raises HoldprepError for missing or unreadable files, another image size, or an unsupported camera model.
    """
    if path.suffix == ".npz" and path.is_file():
        return _read_npz(path, names, image_size, max_gap)
    if any((path / f"cameras.{kind}").is_file() for kind in ("bin", "txt")):
        return _read_colmap(path, names, image_size, max_gap)
    if (path / "o2w.npy").is_file():
        return _read_hold(path, names, max_gap)
    raise HoldprepError(f"object_pose=import: {path} is no COLMAP model, no colmap/ folder of HOLD and no .npz: check object_pose.path")


def _read_colmap(path: Path, names: Sequence[str], image_size: tuple[int, int], max_gap: int) -> ObjectReconstruction:
    try:
        model = pycolmap.Reconstruction(path)
    except (ValueError, RuntimeError) as error:
        raise HoldprepError(f"object_pose=import: {path} cannot be read as a COLMAP model: {' '.join(str(error).split())}") from None
    images = sorted((image for image in model.images.values() if image.has_pose), key=lambda image: image.name)
    frames = _frames(path, [Path(image.name).stem for image in images], names)
    K, distortion = _camera(path, [model.cameras[image.camera_id] for image in images], image_size)
    T, known = np.tile(np.eye(4), (len(names), 1, 1)), np.zeros(len(names), bool)
    ids = sorted(model.points3D)
    index_of = {point: i for i, point in enumerate(ids)}
    frame, point, px = [], [], []
    for image, t in zip(images, frames, strict=True):
        if t is None:
            continue
        T[t], known[t] = to_matrix(image.cam_from_world()), True
        for point2D in image.points2D:
            if point2D.has_point3D():
                frame.append(t)
                point.append(index_of[point2D.point3D_id])
                px.append(point2D.xy - 0.5)  # COLMAP puts the first pixel's centre at 0.5
    xyz = np.array([model.points3D[i].xyz for i in ids]).reshape(-1, 3)
    colors = np.array([model.points3D[i].color for i in ids], np.uint8).reshape(-1, 3)
    observations = Observations(np.array(frame, int), np.array(point, int), np.array(px).reshape(-1, 2))
    return assemble(RawReconstruction(names, K, T, known, _check_cloud(path, xyz), observations, distortion, colors), max_gap)


def _camera(path: Path, cameras: Sequence[pycolmap.Camera], image_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """K (3, 3) with pixel centres at integers, and SIMPLE_RADIAL's k (1,) or (0,), of the single camera of all images."""
    first = cameras[0]
    if any(c.model != first.model or not np.allclose(c.params, first.params, rtol=1e-6) for c in cameras):
        raise HoldprepError(f"object_pose=import: {path} has several cameras, one is needed: run COLMAP again with a single camera")
    if first.model.name not in _MODELS:
        raise HoldprepError(
            f"object_pose=import: {path} has a {first.model.name} camera, {', '.join(_MODELS)} are supported: undistort the images first"
        )
    if (first.width, first.height) != image_size:
        raise HoldprepError(
            f"object_pose=import: {path} was made from images of {first.width} x {first.height}, images/ has "
            f"{image_size[0]} x {image_size[1]}: use images of the same size"
        )
    K = np.asarray(first.calibration_matrix(), np.float64)
    K[:2, 2] -= 0.5
    return K, np.zeros(0) if first.model.name in _PINHOLE_MODELS else np.array(first.params[3:], float)


def _read_hold(path: Path, names: Sequence[str], max_gap: int) -> ObjectReconstruction:
    arrays = {}
    for name, shape in (("intrinsic", (3, 3)), ("o2w", (len(names), 4, 4)), ("normalization_mat", (4, 4))):
        file = path / f"{name}.npy"
        if not file.is_file():
            raise HoldprepError(f"object_pose=import: {path} lacks {name}.npy")
        arrays[name] = np.asarray(safeio.load_npy(file), np.float64)
        if arrays[name].shape != shape:
            raise HoldprepError(f"object_pose=import: {file} has shape {arrays[name].shape}, {shape} is needed")
    file = path / "sparse_points_normalized.obj"
    if not file.is_file():
        raise HoldprepError(f"object_pose=import: {path} lacks {file.name}")
    canonical = read_vertices(file)
    points = apply(np.linalg.inv(arrays["normalization_mat"]), canonical)
    raw = RawReconstruction(names, arrays["intrinsic"], arrays["o2w"], np.ones(len(names), bool), points)
    return assemble(_check_raw(path, raw), max_gap)


def _read_npz(path: Path, names: Sequence[str], image_size: tuple[int, int], max_gap: int) -> ObjectReconstruction:
    found = safeio.load_npz(path)
    missing = [key for key in ("T_cam_obj", "points_obj") if key not in found]
    if not {"K", "focal_px"} & set(found):
        missing.append("K or focal_px")
    if missing:
        raise HoldprepError(f"object_pose=import: {path} lacks {', '.join(missing)}")
    given = np.asarray(found["T_cam_obj"], np.float64)
    if "names" not in found and len(given) != len(names):
        raise HoldprepError(f"object_pose=import: {path} has {len(given)} poses and no names, images/ has {len(names)} frames")
    K = np.asarray(found["K"], np.float64) if "K" in found else pinhole_K(float(found["focal_px"]), *image_size)
    T, known = np.tile(np.eye(4), (len(names), 1, 1)), np.zeros(len(names), bool)
    frames = _frames(path, [str(name) for name in found["names"]], names) if "names" in found else list(range(len(names)))
    for pose, t in zip(given, frames, strict=True):
        if t is not None and np.isfinite(pose).all():
            T[t], known[t] = pose, True
    if not known.any():
        raise HoldprepError(f"object_pose=import: {path} has no finite pose")
    raw = RawReconstruction(names, K, T, known, np.asarray(found["points_obj"], np.float64))
    return assemble(_check_raw(path, raw), max_gap)


def _check_raw(path: Path, raw: RawReconstruction) -> RawReconstruction:
    """`raw` itself; raises HoldprepError if its poses are not rigid or its cloud is unusable."""
    R = raw.T_cam_obj[:, :3, :3]
    error = np.abs(R @ np.swapaxes(R, 1, 2) - np.eye(3)).max(axis=(1, 2))
    if error.max() > 1e-3:
        name = raw.names[int(error.argmax())]
        raise HoldprepError(f"object_pose=import: {path}: the pose of frame {name} is no rotation (R R^T - I is {error.max():.2g})")
    _check_cloud(path, raw.points_obj)
    return raw


def _check_cloud(path: Path, points: np.ndarray) -> np.ndarray:
    """`points` itself; raises HoldprepError unless it is (N, 3) with at least 4 finite points."""
    if len(points) < 4 or points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise HoldprepError(f"object_pose=import: {path} has a cloud of shape {points.shape}, 4 finite points or more are needed")
    return points


def _frames(path: Path, found: Sequence[str], names: Sequence[str]) -> list[int | None]:
    """Frame index of each name in `found`, by equal name or equal number; None if there is no such frame."""
    numbers = {int(name): t for t, name in enumerate(names) if name.isdecimal()}
    index = {name: t for t, name in enumerate(names)}
    frames = [index.get(name, numbers.get(int(name)) if name.isdecimal() else None) for name in found]
    if all(t is None for t in frames):
        raise HoldprepError(
            f"object_pose=import: none of the {len(found)} poses of {path} belongs to a frame of images/ "
            f"(first: {found[0] if found else 'none'}, images/ has {names[0]}): names must agree"
        )
    return frames
