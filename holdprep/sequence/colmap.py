"""processed/colmap/ and processed/colmap_2d/: cameras, object poses and the cloud, as HOLD's scripts lay them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from holdprep.errors import HoldprepError
from holdprep.io import tracks as tracks_file
from holdprep.io.atomic import atomic_dir
from holdprep.io.meshfile import read_vertices
from holdprep.sequence.folder import Sequence, export
from holdprep.sequence.images import write_image

if TYPE_CHECKING:
    from holdprep.geometry.lens import Lens

PER_FRAME = ("registered", "inliers", "contested", "origin", "names")
NUMBERS = (*PER_FRAME[:3], "distortion", "lens", "lens_radius", "pose_covariance")
OBSERVATIONS = ("observation_frame", "observation_point", "observation_px")


def write_colmap(
    seq: Sequence, arrays: dict[str, np.ndarray], clouds: dict[str, tuple[np.ndarray, np.ndarray | None]], tracks: dict[str, np.ndarray]
) -> None:
    """processed/colmap/: arrays as <name>.npy, clouds of points (N, 3) with RGB colours, what else we know as tracks.npz."""
    import trimesh

    from holdprep.io import safeio

    with atomic_dir(seq.target("colmap")) as folder:
        for name, array in arrays.items():
            safeio.save_npy(folder / f"{name}.npy", array)
        for name, (points, colors) in clouds.items():
            (folder / name).write_bytes(export(trimesh.PointCloud(points, colors=colors), Path(name).suffix))
        tracks_file.write(folder, tracks)


def read_colmap(seq: Sequence) -> dict[str, np.ndarray]:
    """intrinsic, o2w, normalization_mat and the canonical cloud, from whoever wrote them; our tracks.npz where it belongs to them.

    Raises HoldprepError where a file is missing, damaged, or of other frames.
    """
    frames = len(seq.frame_names())
    found = _arrays(seq, {"intrinsic": (3, 3), "o2w": (frames, 4, 4), "normalization_mat": (4, 4)})
    found["points_cano"] = read_vertices(seq.path("colmap", tracks_file.CLOUD))
    if len(found["points_cano"]) == 0 or not all(np.isfinite(array).all() for array in found.values()):
        raise HoldprepError(f"{seq.path('colmap')} holds values that are not finite, or no points: run stage=object_pose force=true")
    return found | _own_tracks(seq, found)


def points_sfm(cloud: Mapping[str, np.ndarray]) -> np.ndarray:
    """The cloud (N, 3) of `read_colmap` in SfM's frame and unit; its file holds it in the canonical cube."""
    from holdprep.geometry.rigid import apply

    return apply(np.linalg.inv(cloud["normalization_mat"]), cloud["points_cano"])


def _arrays(seq: Sequence, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    found = {}
    for name, shape in shapes.items():
        array = np.asarray(seq.read_npy("colmap", f"{name}.npy"))
        if array.shape != shape or array.dtype.kind not in "fiu":
            raise HoldprepError(
                f"{seq.path('colmap', f'{name}.npy')} has shape {array.shape} of {array.dtype}, numbers {shape} are needed "
                f"(images/ has {len(seq.frame_names())} frames): run stage=object_pose again"
            )
        found[name] = array.astype(np.float64)
    return found


def _own_tracks(seq: Sequence, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """tracks.npz where it belongs to the arrays. Raises HoldprepError where it is damaged."""
    path = seq.path("colmap", tracks_file.FILE)
    if not path.exists():
        return {}
    tracks = tracks_file.read(path.parent)
    frames = len(found["o2w"])
    seen = [len(np.atleast_1d(tracks[k])) for k in OBSERVATIONS if k in tracks]
    points = np.asarray(tracks.get("points_obj", np.empty((0, 3))))
    if (
        points.dtype.kind != "f"
        or points.ndim != 2
        or any(np.shape(tracks.get(key, np.empty(frames))) != (frames,) for key in PER_FRAME)
        or any(np.asarray(tracks.get(key, 0)).dtype.kind not in "fiub" for key in (*NUMBERS, *OBSERVATIONS))
        or any(np.size(tracks.get(key, 0.0)) != 1 for key in ("lens", "lens_radius"))
        or np.shape(tracks.get("pose_covariance", np.empty((frames, 6, 6)))) != (frames, 6, 6)
        or len(set(seen)) > 1
        or (seen and not _inside(tracks, frames, len(points)))
    ):
        raise HoldprepError(f"{path} is damaged or of other frames: run stage=object_pose force=true")
    return tracks


def _inside(tracks: dict[str, np.ndarray], frames: int, points: int) -> bool:
    """Whether the observations name frames and points that exist, at pixels."""
    if any(key not in tracks for key in OBSERVATIONS):
        return False
    frame, point, px = (np.asarray(tracks[key]) for key in OBSERVATIONS)
    if frame.dtype.kind not in "iu" or point.dtype.kind not in "iu" or px.shape != (len(frame), 2) or not np.isfinite(px).all():
        return False
    return not len(frame) or bool(frame.min() >= 0 and frame.max() < frames and point.min() >= 0 and point.max() < points)


def lens_of(seq: Sequence) -> "Lens | None":
    """The lens that everything after object_pose looks past; None where pictures, masks and keypoints are used as they are."""
    if not seq.path("colmap", "tracks.npz").exists():
        return None
    found = read_colmap(seq)
    k = float(np.ravel(found.get("lens", 0.0))[0])
    from holdprep.geometry.lens import Lens

    radius = float(np.ravel(found.get("lens_radius", np.inf))[0])
    return Lens(found["intrinsic"], k, seq.image_size(), radius) if k and np.isfinite(k) else None


def write_colmap_2d(seq: Sequence, keypoints_px: np.ndarray, pictures: Iterator[tuple[str, np.ndarray]]) -> None:
    """processed/colmap_2d/: keypoints.npy (T, N, 2), alignment's object target, and one picture a frame."""
    from holdprep.io import safeio

    with atomic_dir(seq.target("colmap_2d")) as folder:
        safeio.save_npy(folder / "keypoints.npy", keypoints_px)
        for name, picture in pictures:
            write_image(folder / name, picture)
