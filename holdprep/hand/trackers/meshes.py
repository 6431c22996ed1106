"""Meshes of 778 vertices in MANO's order, one file a hand and frame: what most trackers' demos write.

`<frame>.obj` or `.ply`, `<frame>_right`, `<frame>_left`, `right/<frame>`, or `<frame>_<number>` as HaMeR's and WiLoR's demos number what they
detect. They lie before the camera, in OpenCV's axes or in OpenGL's (as those demos write them: y up, z back), in metres, centimetres or
millimetres: the hand's length shows which. Its palm shows which side it is.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import trimesh
from tqdm import tqdm

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from holdprep.hand.model import HandModel, Side
from holdprep.hand.targets import lengths_m
from holdprep.hand.trackers import conversion, crops
from holdprep.hand.trackers.tracks import VertexTrack

SUFFIXES = (".obj", ".ply")
CLOSED = 779  # with one more vertex, in the open wrist
MAX_WRONG_SIDES = 0.5


class File(NamedTuple):
    """A mesh's file, its frame's name, and the side in its name."""

    path: Path
    frame: str
    side: Side | None


def read(
    folder: Path, names: Sequence[str], image_size: tuple[int, int], models: Mapping[Side, HandModel], focal_px: float | None = None
) -> VertexTrack:
    """Meshes of the frames `names`; NaN where there is none. `focal_px` of the camera they lie before, null = HaMeR's invented one.

    Raises HoldprepError where a file holds no hand, one of another side than its name has, or hands are not in the picture.
    """
    found = list_files(folder, names)
    stems = [f.frame for f in found]
    if not found:
        raise HoldprepError(f"{folder} holds no {' or '.join(SUFFIXES)} files: hand.folder is a folder with a mesh for each frame")
    notes = conversion.match_notes(folder, folder.name, stems, names)
    used = [f for f in found if f.frame in set(names)]
    vertices = np.stack([_vertices(f.path) for f in tqdm(used, desc="hand meshes", unit="file", leave=False, disable=None)])
    sides = conversion.sides_of(vertices, models["right"], folder)
    _check_sides(folder, used, sides)
    unit, remarks = conversion.unit_m(folder, float(lengths_m(models["right"], torch.as_tensor(vertices)).median()))
    vertices_m, axes = _ahead(vertices * unit, folder)
    K = crops.long_lens(*image_size, focal_px)
    _check_picture(vertices_m, K, image_size, folder)
    frame_of = {name: t for t, name in enumerate(names)}
    hands = [conversion.DetectedHand(frame_of[f.frame], side, v) for f, side, v in zip(used, sides, vertices_m, strict=True)]
    return conversion.collect_tracks(hands, K, names, models, [*notes, *remarks, *axes])


def list_files(folder: Path, names: Sequence[str]) -> list[File]:
    """Every mesh below `folder`. What follows a frame's name's last underscore is a side or a number; a folder may name the side too."""
    known, found = set(names), []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")):
        stem, side = path.stem, _side(path.parent.name)
        head, _, tail = stem.rpartition("_")
        if stem not in known and head and (tail.isdigit() or _side(tail)):
            stem, side = head, _side(tail) or side
        found.append(File(path, stem, side))
    return found


def _side(word: str) -> Side | None:
    return "right" if word == "right" else "left" if word == "left" else None


def _vertices(path: Path) -> np.ndarray:
    """(778, 3) in the file's order."""
    try:
        mesh = trimesh.load(path, process=False, maintain_order=True, skip_materials=True)
    except Exception as error:  # whatever a reader of many formats meets in a damaged file
        raise HoldprepError(f"{path} is no readable mesh ({type(error).__name__}: {error}); is it cut short?") from error
    vertices = np.asarray(getattr(mesh, "vertices", np.zeros((0, 3))), dtype=np.float64)
    if len(vertices) not in (778, CLOSED):
        raise HoldprepError(f"{path} has {len(vertices)} vertices, a MANO hand has 778: is it cut short, or another model's?")
    if not np.isfinite(vertices).all():
        raise HoldprepError(f"{path} has vertices that are not finite; leave frames without a hand out")
    return vertices[:778]


def _check_sides(folder: Path, files: Sequence[File], sides: Sequence[Side]) -> None:
    named = [(f, side) for f, side in zip(files, sides, strict=True) if f.side is not None]
    wrong = [(f, side) for f, side in named if f.side != side]
    if len(wrong) > MAX_WRONG_SIDES * len(named):
        first, side = wrong[0]
        raise HoldprepError(
            f"{folder}: {len(wrong)} of {len(named)} meshes that are called {first.side} are {side} hands (first: {first.path.name}): "
            "rename them, or mirror their x"
        )


def _ahead(vertices_m: np.ndarray, source: Path) -> tuple[np.ndarray, list[str]]:
    """Meshes (N, 778, 3) in OpenCV's axes, in which what a camera sees has positive depth."""
    depth_m, size_m = float(np.median(vertices_m[..., 2])), float(np.median(np.ptp(vertices_m, axis=1).max(axis=1)))
    if abs(depth_m) < size_m / 2:
        raise HoldprepError(
            f"{source}: its hands lie about the camera's own place ({depth_m:.3f} m deep); add the tracker's translation to the vertices"
        )
    return (vertices_m, []) if depth_m > 0 else (vertices_m * conversion.TO_OPENCV, [f"{source.name}: OpenGL's axes, made OpenCV's"])


def _check_picture(vertices_m: np.ndarray, K: np.ndarray, image_size: tuple[int, int], source: Path) -> None:
    centroid_px = project(vertices_m.mean(axis=1), K)
    outside = int(((centroid_px < 0) | (centroid_px > np.array(image_size) - 1)).any(axis=1).sum())
    if outside > 0.5 * len(vertices_m):
        raise HoldprepError(
            f"{source}: {outside} of {len(vertices_m)} hands are outside the picture of {image_size[0]} x {image_size[1]} under a focal length "
            f"of {K[0, 0]:.0f} px: set hand.focal_px to the tracker's"
        )
