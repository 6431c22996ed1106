"""COLMAP models of other runs: text or binary, with rigs and frames or without, wherever a project keeps them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycolmap

from holdprep.errors import HoldprepError
from holdprep.io.matching import match
from holdprep.object import colmap_sizes
from holdprep.object.foreign_camera import ForeignCamera, single_camera
from holdprep.object.reconstruction import Observations, RawReconstruction
from holdprep.object.single_view import to_matrix

PLACES = (".", "sparse", "colmap", "colmap/sparse", "distorted/sparse")  # of a project's models, or of folders 0, 1, ... of models
KINDS = ("bin", "txt")


def find_models(path: Path) -> list[Path]:
    """Folders of COLMAP models: of one of a model's files, or in its folder, its parent, or a project's folder, the first that has any."""
    if path.is_file():
        return [path.parent] if path.suffix[1:] in KINDS and _is_model(path.parent) else []
    for place in PLACES:
        folder = path / place
        if _is_model(folder):
            return [folder]
        numbered = sorted(f for f in folder.iterdir() if f.name.isdecimal() and _is_model(f)) if folder.is_dir() else []
        if numbered:
            return numbered
    return []


def _is_model(folder: Path) -> bool:
    return any((folder / f"cameras.{kind}").is_file() and (folder / f"images.{kind}").is_file() for kind in KINDS)


def read_colmap(paths: Sequence[Path], names: Sequence[str], image_size: tuple[int, int]) -> tuple[RawReconstruction, list[str]]:
    """The largest of the models as a reconstruction of the frames `names`, and notes. Observations of points that are gone are left out.

    Raises HoldprepError for files that cannot be read, several images of one frame, and what `single_camera` and `matching.match` refuse.
    """
    read = {path: _read(path) for path in paths}
    path, model = max(read.items(), key=lambda item: sum(image.has_pose for image in item[1].images.values()))
    listed = ", ".join(f"{p.name} ({sum(i.has_pose for i in m.images.values())} images)" for p, m in read.items())
    notes = [f"{path.parent} holds several models, the largest is used: {path.name}; {listed}"] if len(read) > 1 else []
    named = _names(path)
    images = sorted(
        ((named.get(image.image_id, image.name), image) for image in model.images.values() if image.has_pose), key=lambda item: item[0]
    )
    if not images:
        raise HoldprepError(f"{path} has no image with a pose ({len(model.images)} images)")
    frames, remarks = _frames(str(path), [name for name, _ in images], names)
    cameras = [model.cameras[image.camera_id] for _, image in images]
    K, distortion = single_camera(
        str(path), [ForeignCamera.of_params(c.model.name, (c.width, c.height), c.params.tolist()) for c in cameras], image_size
    )
    T, known = np.tile(np.eye(4), (len(names), 1, 1)), np.zeros(len(names), bool)
    ids = sorted(model.points3D)
    index_of = {point: i for i, point in enumerate(ids)}
    frame, point, px = [], [], []
    for (_, image), t in zip(images, frames, strict=True):
        if t is None:
            continue
        T[t], known[t] = to_matrix(image.cam_from_world()), True
        for point2D in image.points2D:
            at = index_of.get(point2D.point3D_id) if point2D.has_point3D() else None
            if at is not None:
                frame.append(t)
                point.append(at)
                px.append(point2D.xy - 0.5)  # COLMAP puts the first pixel's centre at 0.5
    xyz = np.array([model.points3D[i].xyz for i in ids]).reshape(-1, 3)
    colors = np.array([model.points3D[i].color for i in ids], np.uint8).reshape(-1, 3)
    if len(xyz) < 4:
        raise HoldprepError(f"{path} has {len(xyz)} points, 4 are needed: export the model with its points (points3D)")
    observations = Observations(np.array(frame, int), np.array(point, int), np.array(px).reshape(-1, 2))
    return RawReconstruction(names, K, T, known, xyz, observations, distortion, colors), [*notes, *remarks]


def _read(path: Path) -> pycolmap.Reconstruction:
    colmap_sizes.check(path)
    try:
        return pycolmap.Reconstruction(path)
    except Exception as error:  # what COLMAP's reader raises of damaged files is of any kind
        raise HoldprepError(f"{path} cannot be read as a COLMAP model: {' '.join(str(error).split())[:300]}") from None


def _names(path: Path) -> dict[int, str]:
    """Names by image number of a text model, of which COLMAP's reader keeps what is before the first blank; empty for binary ones."""
    file = path / "images.txt"
    if (path / "images.bin").is_file() or not file.is_file():
        return {}
    lines = [line for line in file.read_text(errors="replace").splitlines() if not line.startswith("#")]
    rows = [line.split(maxsplit=9) for line in lines[::2]]
    return {int(row[0]): row[9].strip() for row in rows if len(row) == 10 and row[0].isdecimal()}


def _frames(source: str, files: Sequence[str], names: Sequence[str]) -> tuple[list[int | None], list[str]]:
    """The frame of each image; images are named with their folder and suffix."""
    stems = [Path(file).stem for file in files]
    first: dict[str, str] = {}
    for stem, file in zip(stems, files, strict=True):
        if stem in first:
            raise HoldprepError(
                f"{source} has two poses for frame {stem}, of {first[stem]} and {file}: a model of one camera's images is needed, each once"
            )
        first[stem] = file
    found = match(source, stems, names)
    return found.frame_of(len(stems)), found.notes
