"""processed/colmap/ and processed/colmap_2d/: cameras, object poses and the cloud, as HOLD's scripts lay them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from holdprep.errors import HoldprepError
from holdprep.io.atomic import atomic_dir
from holdprep.sequence.folder import Sequence, export
from holdprep.sequence.images import write_image

if TYPE_CHECKING:
    from holdprep.geometry.lens import Lens


def write_colmap(
    seq: Sequence, arrays: dict[str, np.ndarray], clouds: dict[str, tuple[np.ndarray, np.ndarray | None]], tracks: dict[str, np.ndarray]
) -> None:
    """processed/colmap/: arrays as <name>.npy, clouds of points (N, 3) with RGB colours, what else we know as tracks.npz."""
    import trimesh

    from holdprep.io import safeio
    from holdprep.io import tracks as tracks_file

    with atomic_dir(seq.target("colmap")) as folder:
        for name, array in arrays.items():
            safeio.save_npy(folder / f"{name}.npy", array)
        for name, (points, colors) in clouds.items():
            (folder / name).write_bytes(export(trimesh.PointCloud(points, colors=colors), Path(name).suffix))
        tracks_file.write(folder, tracks)


def read_colmap(seq: Sequence) -> dict[str, np.ndarray]:
    """intrinsic, o2w, normalization_mat and the canonical cloud, from whoever wrote them; our tracks.npz where it belongs to them."""
    import trimesh

    from holdprep.io import tracks as tracks_file

    found = {
        name: np.asarray(seq.read_npy("colmap", f"{name}.npy"), dtype=np.float64) for name in ("intrinsic", "o2w", "normalization_mat")
    }
    cloud = trimesh.load(seq.path("colmap", "sparse_points_normalized.obj"), process=False)
    found["points_cano"] = np.asarray(cloud.vertices, dtype=np.float64)  # type: ignore[attr-defined]
    frames = len(seq.frame_names())
    if found["o2w"].shape != (frames, 4, 4):
        raise HoldprepError(
            f"{seq.path('colmap', 'o2w.npy')} has shape {found['o2w'].shape}, images/ has {frames} frames: run stage=object_pose again"
        )
    return found | tracks_file.read(seq.path("colmap"))


def lens_of(seq: Sequence) -> "Lens | None":
    """The lens that everything after object_pose looks past; None where pictures, masks and keypoints are used as they are."""
    if not seq.path("colmap", "tracks.npz").is_file():
        return None
    from holdprep.geometry.lens import Lens
    from holdprep.io import tracks as tracks_file

    k = float(tracks_file.read(seq.path("colmap")).get("lens", 0.0))
    return Lens(np.asarray(seq.read_npy("colmap", "intrinsic.npy"), np.float64), k, seq.image_size()) if k else None


def write_colmap_2d(seq: Sequence, keypoints_px: np.ndarray, pictures: Iterator[tuple[str, np.ndarray]]) -> None:
    """processed/colmap_2d/: keypoints.npy (T, N, 2), alignment's object target, and one picture a frame."""
    from holdprep.io import safeio

    with atomic_dir(seq.target("colmap_2d")) as folder:
        safeio.save_npy(folder / "keypoints.npy", keypoints_px)
        for name, picture in pictures:
            write_image(folder / name, picture)
