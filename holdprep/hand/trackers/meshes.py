"""Meshes of 778 vertices in MANO's order, one file per hand and frame, as most trackers' demos write them.

`<frame>.obj` or `.ply`, `<frame>_right`, `<frame>_left`, `right/<frame>`, or `<frame>_<number>` as in HaMeR's and WiLoR's demos.
Vertices are in the camera frame, in OpenCV's or OpenGL's axes (as in those demos: y up, z back), in metres, centimetres or
millimetres. The unit is determined by the hand's length, the side by its palm.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from holdprep.hand.model import HandModel, Side, available
from holdprep.hand.targets import lengths_m
from holdprep.hand.trackers import conversion, crops
from holdprep.hand.trackers.tracks import VertexTrack
from holdprep.io.meshfile import read_vertices

SUFFIXES = (".obj", ".ply")
CLOSED = 779  # vertices of a mesh with one more vertex that closes the wrist
MAX_WRONG_SIDES = 0.5


class File(NamedTuple):
    """A mesh file, the name of its frame, and the side in its name."""

    path: Path
    frame: str
    side: Side | None


def read(
    folder: Path, names: Sequence[str], image_size: tuple[int, int], models: Mapping[Side, HandModel], focal_px: float | None = None
) -> VertexTrack:
    """Meshes of the frames `names`; NaN where there is none. `focal_px` is that of their camera, None: HaMeR's assumed one.

    Raises HoldprepError where a file holds no hand or one of the other side than in its name, or where hands are outside of the images.
    """
    found = list_files(folder, names)
    if not found:
        raise HoldprepError(f"{folder} holds no {' or '.join(SUFFIXES)} files: hand.folder is a folder with a mesh for each frame")
    frames, notes = conversion.match_frames(folder, folder.name, list(dict.fromkeys(f.frame for f in found)), names)
    used = [f._replace(frame=frames[f.frame]) for f in found if f.frame in frames]
    vertices = np.stack([_vertices(f.path) for f in tqdm(used, desc="hand meshes", unit="file", leave=False, disable=None)])
    model = available(models)
    sides = conversion.sides_of(vertices, model, folder)
    _check_sides(folder, used, sides)
    unit, remarks = conversion.unit_m(folder, float(lengths_m(model, torch.as_tensor(vertices)).median()))
    vertices_m, axes = _to_opencv(vertices * unit, folder)
    K = crops.assumed_camera(*image_size, focal_px)
    _check_picture(vertices_m, K, image_size, folder)
    frame_of = {name: t for t, name in enumerate(names)}
    hands = [conversion.DetectedHand(frame_of[f.frame], side, v) for f, side, v in zip(used, sides, vertices_m, strict=True)]
    return conversion.collect_tracks(hands, K, names, models, [*notes, *remarks, *axes])


def list_files(folder: Path, names: Sequence[str]) -> list[File]:
    """All mesh files below `folder`. After the last underscore of a name is a side, or a number that is not the frame's; a folder's name may
    be the side too."""
    known, found = set(names), []
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    heads = {p.stem.rpartition("_")[0] for p in paths}
    for path in paths:
        stem, side = path.stem, _side(path.parent.name)
        head, _, tail = stem.rpartition("_")
        is_counted = tail.isdecimal() and (head in known or len(heads) > 1 or len(paths) == 1)
        if stem not in known and head and (is_counted or _side(tail)):
            stem, side = head, _side(tail) or side
        found.append(File(path, stem, side))
    return found


def _side(word: str) -> Side | None:
    return "right" if word == "right" else "left" if word == "left" else None


def _vertices(path: Path) -> np.ndarray:
    """Vertices (778, 3) in the file's order."""
    vertices = read_vertices(path)
    if len(vertices) not in (778, CLOSED):
        raise HoldprepError(f"{path} has {len(vertices)} vertices, a MANO hand has 778: is it truncated, or another model's?")
    if not np.isfinite(vertices).all():
        raise HoldprepError(f"{path} has vertices that are not finite; leave frames without a hand out")
    return vertices[:778]


def _check_sides(folder: Path, files: Sequence[File], sides: Sequence[Side]) -> None:
    named = [(f, side) for f, side in zip(files, sides, strict=True) if f.side is not None]
    wrong = [(f, side) for f, side in named if f.side != side]
    if len(wrong) > MAX_WRONG_SIDES * len(named):
        first, side = wrong[0]
        raise HoldprepError(
            f"{folder}: {len(wrong)} of {len(named)} meshes that are named {first.side} are {side} hands (first: {first.path.name}): "
            "rename them, or mirror their x"
        )


def _to_opencv(vertices_m: np.ndarray, source: Path) -> tuple[np.ndarray, list[str]]:
    """Meshes (N, 778, 3) in OpenCV's axes, in which visible points have positive depth, and notes."""
    depth_m, size_m = float(np.median(vertices_m[..., 2])), float(np.median(np.ptp(vertices_m, axis=1).max(axis=1)))
    if abs(depth_m) < size_m / 2:
        raise HoldprepError(f"{source}: its hands lie at the camera ({depth_m:.3f} m deep); add the tracker's translation to the vertices")
    return (
        (vertices_m, []) if depth_m > 0 else (vertices_m * conversion.TO_OPENCV, [f"{source.name}: OpenGL's axes, converted to OpenCV's"])
    )


def _check_picture(vertices_m: np.ndarray, K: np.ndarray, image_size: tuple[int, int], source: Path) -> None:
    centroid_px = project(vertices_m.mean(axis=1), K)
    outside = int(((centroid_px < 0) | (centroid_px > np.array(image_size) - 1)).any(axis=1).sum())
    if outside > 0.5 * len(vertices_m):
        raise HoldprepError(
            f"{source}: {outside} of {len(vertices_m)} hands are outside the image of {image_size[0]} x {image_size[1]} under a focal length "
            f"of {K[0, 0]:.0f} px: set hand.focal_px to the tracker's"
        )
