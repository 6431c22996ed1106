"""The track file: hands as meshes and keypoints in processed/v3d.npy and j2d.full.npy, in the layout of HaMeR's script in HOLD.

Every tracker's result is written to these files, from which later stages read it. Rows are identified by their image's name. In
addition to the published layout the files may hold `params.<side>`, MANO parameters of a tracker that has them; `keypoints.<side>`,
3D keypoints (T, 21, 3) from the wrist of a tracker whose meshes are derived from them, and `keypoints_sigma.<side>`, the standard
deviation (m) of their coordinates; and `confidence.<side>` (T, 21) of 2D keypoints.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch

from holdprep.errors import HoldprepError, listed
from holdprep.hand.hold_params import params_to_dict
from holdprep.hand.model import SIDES, ManoParams
from holdprep.hand.trackers import conversion
from holdprep.hand.trackers.tracks import VertexTrack
from holdprep.io.safeio import load_npy, save_npy

VERTICES, KEYPOINTS = "v3d.npy", "j2d.full.npy"


def write(folder: Path, track: VertexTrack, im_paths: Sequence[str]) -> None:
    """Write both files into `folder`; `im_paths` (T,) are the paths of the frames' images. A side without a hand is NaN throughout."""
    paths = list(im_paths)
    empty = np.full((len(paths), 778, 3), np.nan, np.float32)
    v3d: dict[str, Any] = {"im_paths": paths, "K": track.K.astype(np.float32)}
    j2d: dict[str, Any] = {"im_paths": paths}
    for side in SIDES:
        v3d[f"v3d.{side}"] = track.vertices_m.get(side, empty).astype(np.float32)
        v3d[f"j3d.{side}"] = track.joints_m.get(side, empty[:, :21]).astype(np.float32)
        j2d[f"j2d.{side}"] = track.j2d_px.get(side, empty[:, :21, :2]).astype(np.float32)
        if side in track.params:
            v3d[f"params.{side}"] = params_to_dict(track.params[side])
        if side in track.keypoints_m:
            v3d[f"keypoints.{side}"] = track.keypoints_m[side].astype(np.float32)
        if side in track.keypoints_sigma_m:
            v3d[f"keypoints_sigma.{side}"] = np.float32(track.keypoints_sigma_m[side])
        if side in track.j2d_px and side in track.confidence:
            j2d[f"confidence.{side}"] = track.confidence[side].astype(np.float32)
    save_npy(folder / VERTICES, v3d)
    save_npy(folder / KEYPOINTS, j2d)


def read(folder: Path, names: Sequence[str]) -> VertexTrack:
    """Read both files of `folder`, aligned with the frames `names` (stems of the images).

    Rows are matched by name, not by position: the tracker omits frames without a hand, which become NaN. A side that is NaN throughout is
    omitted. Raises HoldprepError where a file has another layout, no frame matches, or without any hand.
    """
    vertices_file, keypoints_file = folder / VERTICES, folder / KEYPOINTS
    v3d, j2d = _read_dict(vertices_file), _read_dict(keypoints_file)
    K = _array(vertices_file, v3d, "K", (3, 3))
    stems, notes = _stems(vertices_file, v3d, names)
    j2d_stems = _stems(keypoints_file, j2d, names)[0] if "im_paths" in j2d else stems
    vertices, keypoints, confidence = {}, {}, {}
    for side in SIDES:
        if f"v3d.{side}" in v3d:
            found = conversion.rows_by_name(_array(vertices_file, v3d, f"v3d.{side}", (len(stems), 778, 3)), stems, names)
            if np.isfinite(found).any():
                vertices[side] = found
                keypoints[side] = conversion.rows_by_name(
                    _array(keypoints_file, j2d, f"j2d.{side}", (len(j2d_stems), 21, 2)), j2d_stems, names
                )
                if f"confidence.{side}" in j2d:
                    trust = _array(keypoints_file, j2d, f"confidence.{side}", (len(j2d_stems), 21))
                    confidence[side] = np.nan_to_num(conversion.rows_by_name(trust, j2d_stems, names))
    params = {side: _params(vertices_file, v3d[f"params.{side}"], stems, names) for side in vertices if f"params.{side}" in v3d}
    shape = (len(stems), 21, 3)
    own = {s: k for s in vertices if (k := f"keypoints.{s}") in v3d}
    keypoints_m = {s: conversion.rows_by_name(_array(vertices_file, v3d, key, shape), stems, names) for s, key in own.items()}
    sigma_m = {s: _sigma(vertices_file, v3d, key) for s in own if (key := f"keypoints_sigma.{s}") in v3d}
    if not vertices:
        raise HoldprepError(f"{vertices_file}: both hands are NaN in all {len(set(stems) & set(names))} frames; the tracker found no hand")
    return VertexTrack(
        vertices,
        keypoints,
        K,
        tuple(names),
        tuple(notes),
        params=params,
        confidence=confidence,
        keypoints_m=keypoints_m,
        keypoints_sigma_m=sigma_m,
    )


def _sigma(path: Path, content: Mapping[str, Any], key: str) -> float:
    value = float(_array(path, content, key, ()))
    if not 0 < value < np.inf:
        raise HoldprepError(f"{path}: {key} is {value:g}, a positive number of metres is needed; run stage=hand_pose again")
    return value


def _params(path: Path, content: Any, stems: Sequence[str], names: Sequence[str]) -> ManoParams:
    if not isinstance(content, Mapping):
        raise HoldprepError(f"{path}: its MANO parameters are a {type(content).__name__}, a dict is needed; run stage=hand_pose again")
    arrays = {
        k: conversion.rows_by_name(_array(path, content, k, (len(stems), n)), stems, names) for k, n in conversion.PARAM_SHAPES.items()
    }
    return ManoParams(**{k: torch.as_tensor(a) for k, a in arrays.items()})


def _read_dict(path: Path) -> dict[str, Any]:
    content = load_npy(path)
    if not isinstance(content, dict):
        raise HoldprepError(f"{path} holds a {type(content).__name__}, HaMeR's files hold a dict; is it METRO's? try hand.format=metro")
    return content


def _array(path: Path, content: Mapping[str, Any], key: str, shape: tuple[int, ...]) -> np.ndarray:
    if key not in content:
        raise HoldprepError(f"{path} has no {key!r}, only {listed(content)}; is it a file of HaMeR's script in HOLD?")
    array = np.asarray(content[key])
    if array.shape != shape or array.dtype.kind not in "fiu":
        raise HoldprepError(f"{path}: {key} is {array.dtype} {array.shape}, {shape} numbers are needed; rerun the tracker")
    return array.astype(np.float64)


def _stems(path: Path, content: Mapping[str, Any], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The frame of images/ of every row, its own name where it belongs to none, and notes."""
    if "im_paths" not in content:
        raise HoldprepError(f"{path} has no 'im_paths', which is needed to assign rows to frames; rerun the tracker")
    stems = [PurePath(str(p)).stem for p in content["im_paths"]]
    if len(set(stems)) < len(stems):
        twice = next(s for s in stems if stems.count(s) > 1)
        raise HoldprepError(f"{path}: im_paths names frame {twice!r} {stems.count(twice)} times among {len(stems)} rows; rerun the tracker")
    frames, notes = conversion.match_frames(path, "HaMeR", stems, names)
    return [frames.get(stem, stem) for stem in stems], notes
