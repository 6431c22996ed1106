"""HaMeR's results as HOLD's fork writes them: v3d.npy and j2d.full.npy, frames keyed by their picture's name."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from holdprep.errors import HoldprepError
from holdprep.hand.model import SIDES, Side
from holdprep.hand.trackers import VertexTrack
from holdprep.safeio import load_npy


def read(folder: Path, names: Sequence[str]) -> VertexTrack:
    """`folder`/v3d.npy and `folder`/j2d.full.npy, aligned with the frames `names` (stems of the pictures).

    Rows are matched by name, never by position: the tracker leaves out frames in which it saw nothing; those become NaN. A side that
    is NaN throughout is left out. Raises HoldprepError where a file has not the published layout, no frame matches, or no hand is there.
    """
    vertices_file, keypoints_file = folder / "v3d.npy", folder / "j2d.full.npy"
    v3d, j2d = _read_dict(vertices_file), _read_dict(keypoints_file)
    K = _array(vertices_file, v3d, "K", (3, 3))
    stems = _stems(vertices_file, v3d)
    j2d_stems = _stems(keypoints_file, j2d) if "im_paths" in j2d else stems
    vertices, keypoints = {}, {}
    for side in SIDES:
        if f"v3d.{side}" in v3d:
            found = _aligned(_array(vertices_file, v3d, f"v3d.{side}", (len(stems), 778, 3)), stems, names)
            if np.isfinite(found).any():
                vertices[side] = found
                keypoints[side] = _aligned(_array(keypoints_file, j2d, f"j2d.{side}", (len(j2d_stems), 21, 2)), j2d_stems, names)
    return VertexTrack(vertices, keypoints, K, tuple(names), _notes(vertices_file, stems, names, vertices))


def _read_dict(path: Path) -> dict[str, Any]:
    content = load_npy(path)
    if not isinstance(content, dict):
        raise HoldprepError(f"{path} holds a {type(content).__name__}, HaMeR's files hold a dict; is it METRO's? try hand.format=metro")
    return content


def _array(path: Path, content: Mapping[str, Any], key: str, shape: tuple[int, ...]) -> np.ndarray:
    if key not in content:
        raise HoldprepError(f"{path} has no {key!r}, only {', '.join(sorted(map(str, content)))}; is it a file of HaMeR's script in HOLD?")
    array = np.asarray(content[key])
    if array.shape != shape or array.dtype.kind not in "fiu":
        raise HoldprepError(f"{path}: {key} is {array.dtype} {array.shape}, {shape} numbers are needed; rerun the tracker")
    return array.astype(np.float64)


def _stems(path: Path, content: Mapping[str, Any]) -> list[str]:
    """The frame name of every row."""
    if "im_paths" not in content:
        raise HoldprepError(f"{path} has no 'im_paths', which alone tells which frame a row belongs to; rerun the tracker")
    stems = [PurePath(str(p)).stem for p in content["im_paths"]]
    if len(set(stems)) < len(stems):
        twice = next(s for s in stems if stems.count(s) > 1)
        raise HoldprepError(f"{path}: im_paths names frame {twice!r} {stems.count(twice)} times among {len(stems)} rows; rerun the tracker")
    return stems


def _aligned(rows: np.ndarray, stems: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Rows in the order of `names`; NaN where a name has none."""
    row_of = {stem: i for i, stem in enumerate(stems)}
    out = np.full((len(names), *rows.shape[1:]), np.nan)
    for t, name in enumerate(names):
        if name in row_of:
            out[t] = rows[row_of[name]]
    return out


def _notes(path: Path, stems: Sequence[str], names: Sequence[str], vertices: Mapping[Side, np.ndarray]) -> tuple[str, ...]:
    """One-line remarks; raises where nothing can be used."""
    known, asked = set(stems), set(names)
    if not known & asked:
        example = f"{stems[0]!r} there, {names[0]!r} here" if stems and names else "one of them is empty"
        raise HoldprepError(f"{path}: none of its {len(stems)} frames is among the {len(names)} images ({example}); from another clip?")
    if not vertices:
        raise HoldprepError(f"{path}: both hands are NaN in all {len(known & asked)} frames; the tracker found no hand")
    notes = [f"HaMeR: {len(asked - known)} of {len(names)} frames are absent"] if asked - known else []
    if known - asked:
        notes.append(f"HaMeR: {len(known - asked)} of its {len(stems)} frames are not in images/ and were left out")
    return tuple(notes)
