"""Import of object poses from other tools: COLMAP models, nerfstudio's transforms.json, HOLD's colmap/ folder, .npz files."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import distort, pinhole_K, project
from holdprep.geometry.rigid import apply
from holdprep.io import safeio, tracks
from holdprep.io.matching import match
from holdprep.io.meshfile import read_vertices
from holdprep.object import foreign_nerfstudio
from holdprep.object.foreign_colmap import find_models, read_colmap
from holdprep.object.reconstruction import MAX_GAP, ObjectReconstruction, Observations, RawReconstruction, assemble


def read_poses(
    path: Path,
    names: Sequence[str],
    image_size: tuple[int, int],
    max_gap: int = MAX_GAP,
) -> ObjectReconstruction:
    """Read poses, camera and cloud for the frames `names` (in temporal order) of images of `image_size` (width, height).

    `path` is a COLMAP model's folder (cameras, images, points3D) or one of its files, its parent or its project's folder; nerfstudio's
    transforms.json or its folder; a folder with HOLD's intrinsic.npy, o2w.npy, normalization_mat.npy and
    sparse_points_normalized.obj; or an .npz with T_cam_obj (N, 4, 4), points_obj (M, 3), K (3, 3) or focal_px, and names (N,) unless it
    has every frame. Poses belong to the frame of their name or number (`io.matching`). Frames without a pose are filled in; what was
    assumed is in `warnings`.

    Raises HoldprepError for missing or unreadable files, another image size, or an unsupported camera model.
    """
    raw, notes = _read(path, names, image_size)
    if not raw.registered.any():
        raise HoldprepError(f"object_pose=import: {path} has no finite pose of a frame of images/")
    _check_raw(path, raw)
    try:
        found = assemble(raw, max_gap)
    except HoldprepError as error:
        raise HoldprepError(f"object_pose=import: {path}: {error}: export the model with its points and their observations") from None
    return replace(found, warnings=[*notes, *found.warnings])


def _read(path: Path, names: Sequence[str], image_size: tuple[int, int]) -> tuple[RawReconstruction, list[str]]:
    try:
        if path.suffix == ".npz" and path.is_file():
            return _read_npz(path, names, image_size)
        if path.suffix == ".json" and path.is_file():
            return foreign_nerfstudio.read_transforms(path, names, image_size)
        if (path / "o2w.npy").is_file():
            return _read_hold(path, names), []
        models = find_models(path)
        if models:
            return read_colmap(models, names, image_size)
        if (path / foreign_nerfstudio.FILE).is_file():
            return foreign_nerfstudio.read_transforms(path / foreign_nerfstudio.FILE, names, image_size)
    except HoldprepError as error:
        raise HoldprepError(f"object_pose=import: {error}") from None
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, np.linalg.LinAlgError) as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise HoldprepError(f"object_pose=import: {path} holds values that are no poses ({detail}): export it again") from None
    raise HoldprepError(
        f"object_pose=import: {path} is no COLMAP model or project, no transforms.json, no colmap/ folder of HOLD and no .npz: "
        "check object_pose.path"
    )


def _read_hold(path: Path, names: Sequence[str]) -> RawReconstruction:
    arrays = {}
    for name, shape in (("intrinsic", (3, 3)), ("o2w", (len(names), 4, 4)), ("normalization_mat", (4, 4))):
        file = path / f"{name}.npy"
        if not file.is_file():
            raise HoldprepError(f"{path} lacks {name}.npy")
        arrays[name] = np.asarray(safeio.load_npy(file), np.float64)
        if arrays[name].shape != shape:
            raise HoldprepError(f"{file} has shape {arrays[name].shape}, {shape} is needed")
    file = path / "sparse_points_normalized.obj"
    if not file.is_file():
        raise HoldprepError(f"{path} lacks {file.name}")
    canonical = read_vertices(file)
    points = apply(np.linalg.inv(arrays["normalization_mat"]), canonical)
    raw = RawReconstruction(names, arrays["intrinsic"], arrays["o2w"], np.ones(len(names), bool), points)
    return _with_tracks(raw, tracks.read(path))


def _with_tracks(raw: RawReconstruction, found: Mapping[str, np.ndarray]) -> RawReconstruction:
    """`raw` with the observations, registered frames and lens of this project's tracks.npz; distorted again as in images/."""
    if not found:
        return raw
    k = float(found.get("lens", 0.0))
    px = np.asarray(found.get("observation_px", np.zeros((0, 2))), np.float64)
    if k:
        rays = np.concatenate([px, np.ones((len(px), 1))], axis=1) @ np.linalg.inv(raw.K).T
        px = project(distort(rays, k), raw.K)
    frame, point = (np.asarray(found.get(f"observation_{what}", []), int) for what in ("frame", "point"))
    return replace(
        raw,
        registered=np.asarray(found.get("registered", raw.registered), bool),
        observations=Observations(frame, point, px),
        distortion=np.array([k] if k else []),
    )


def _read_npz(path: Path, names: Sequence[str], image_size: tuple[int, int]) -> tuple[RawReconstruction, list[str]]:
    found = safeio.load_npz(path)
    missing = [key for key in ("T_cam_obj", "points_obj") if key not in found]
    if not {"K", "focal_px"} & set(found):
        missing.append("K or focal_px")
    if missing:
        raise HoldprepError(f"{path} lacks {', '.join(missing)}")
    given = np.asarray(found["T_cam_obj"], np.float64)
    if "names" not in found and len(given) != len(names):
        raise HoldprepError(f"{path} has {len(given)} poses and no names, images/ has {len(names)} frames")
    K = np.asarray(found["K"], np.float64) if "K" in found else pinhole_K(float(found["focal_px"]), *image_size)
    T, known = np.tile(np.eye(4), (len(names), 1, 1)), np.zeros(len(names), bool)
    of_frame: Sequence[int | None] = range(len(names))
    notes: list[str] = []
    if "names" in found:
        matched = match(str(path), [Path(str(name)).name for name in found["names"]], names)
        of_frame, notes = matched.of_frame, matched.notes
    for t, i in enumerate(of_frame):
        if i is not None and np.isfinite(given[i]).all():
            T[t], known[t] = given[i], True
    return RawReconstruction(names, K, T, known, np.asarray(found["points_obj"], np.float64)), notes


def _check_raw(path: Path, raw: RawReconstruction) -> None:
    """Raise HoldprepError if poses are not rigid or the cloud is unusable."""
    finite = np.isfinite(raw.T_cam_obj).all(axis=(1, 2))
    if not finite.all() or not np.isfinite(raw.K).all():
        what = "the camera" if finite.all() else f"the pose of frame {raw.names[int(finite.argmin())]}"
        raise HoldprepError(f"object_pose=import: {path}: {what} holds values that are not finite: export it again")
    R = raw.T_cam_obj[:, :3, :3]
    error = np.abs(R @ np.swapaxes(R, 1, 2) - np.eye(3)).max(axis=(1, 2))
    if not (error <= 1e-3).all():
        worst = int(error.argmax())
        raise HoldprepError(
            f"object_pose=import: {path}: the pose of frame {raw.names[worst]} is no rotation (R R^T - I is {error[worst]:.2g})"
        )
    mirrored = np.linalg.det(R) < 0
    if mirrored.any():
        name = raw.names[int(mirrored.argmax())]
        raise HoldprepError(
            f"object_pose=import: {path}: the poses of {int(mirrored.sum())} of {len(R)} frames are mirrored (first: {name}): export them "
            "with right-handed axes"
        )
    _check_cloud(path, raw.points_obj)


def _check_cloud(path: Path, points: np.ndarray) -> np.ndarray:
    """`points` itself; raises HoldprepError unless it is (N, 3) with at least 4 finite points."""
    if len(points) < 4 or points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise HoldprepError(f"object_pose=import: {path} has a cloud of shape {points.shape}, 4 finite points or more are needed")
    return points
