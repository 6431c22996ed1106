"""The hand model's data: MANO when the user has its files, the CC0 stand-in otherwise. Arrays only; the arithmetic is in `lbs`."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from holdprep.errors import HoldprepError
from holdprep.hand import STANDIN_FILE
from holdprep.hand.joints import FINGERS, PARENTS
from holdprep.io import safeio

Side = Literal["right", "left"]
SIDES: tuple[Side, ...] = ("right", "left")


@dataclass(frozen=True)
class HandModel:
    """A hand in MANO's layout; metres, rest pose as in MANO's files.

    `v_template` (778, 3), `shapedirs` (778, 3, 10), `posedirs` (778, 3, 135), `J_regressor` (16, 778), `weights` (778, 16),
    `hand_mean` (45,) axis-angle, `faces` (1538, 3) int64, `parents` (16,) with -1 at the wrist.
    `name` is "mano", "standin" or "estimated" (a file without joint regressor): builds with the latter two must not be used for training.
    """

    side: Side
    name: str
    v_template: Tensor
    shapedirs: Tensor
    posedirs: Tensor
    J_regressor: Tensor
    weights: Tensor
    hand_mean: Tensor
    faces: Tensor
    parents: tuple[int, ...]

    def to(self, *args: object) -> "HandModel":
        """The same model in another dtype or on another device."""
        floats = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "hand_mean")
        return replace(self, **{k: getattr(self, k).to(*args) for k in floats})


@dataclass(frozen=True)
class ManoParams:
    """MANO parameters of T frames in a camera frame.

    `global_orient` (T, 3) and `hand_pose` (T, 45) axis-angle, the hand mean NOT included (zeros are the mean pose);
    `betas` (10,) one shape for the sequence or (T, 10); `transl` (T, 3) metres.
    """

    global_orient: Tensor
    hand_pose: Tensor
    betas: Tensor
    transl: Tensor


STANDIN_MARK = "holdprep_standin"  # key that marks a MANO-layout file as the stand-in
ESTIMATED = "holdprep_estimated"  # key that marks a file whose joints are estimated
SUBFOLDERS = ("models", "mano", "mano/models", "models/mano", "mano_v1_2/models")
STRAIGHT = 0.05  # rad: a mean pose with straighter fingers does not show the side
log = logging.getLogger("holdprep")


def load_hand_model(side: Side, path: Path | None = None, dtype: torch.dtype = torch.float32) -> HandModel:
    """The hand model of one side.

    MANO from `path` (MANO_RIGHT / MANO_LEFT as .pkl or .npz, or a folder, see `_find`); the stand-in without `path`, or an .npz of
    `bake_standin`.
    A left hand's shape directions are used as stored, as in HOLD's trainer (its generator negates their x).
    Raises HoldprepError where the file is missing or is not a MANO hand of that side.
    """
    if side not in SIDES:
        raise HoldprepError(f"hand side {side!r} is not one of {', '.join(SIDES)}")
    if path is None:
        return _from_arrays(side, _standin(side), dtype)
    file = path
    if not path.is_file() or any(other in path.name.lower() for other in SIDES if other != side):  # of the other side: the one beside it
        file = _find(path.parent if path.is_file() else path, side)
    data = safeio.load_npz(file) if file.suffix.lower() == ".npz" else safeio.load_pickle(file)
    if isinstance(data, Mapping) and "hand_mean" in data and "f" not in data:
        return _from_arrays(side, _of_baked(side, data), dtype)
    return _from_arrays(side, _checked(side, data, file), dtype)


class HandModels(Mapping[Side, HandModel]):
    """The hand models of both sides, each loaded when it is first used: a clip of one hand needs one file only."""

    def __init__(self, load: Callable[[Side], HandModel]) -> None:
        self._load, self._loaded = load, dict[Side, HandModel]()

    def __getitem__(self, side: Side) -> HandModel:
        if side not in self._loaded:
            self._loaded[side] = self._load(side)
        return self._loaded[side]

    def __iter__(self) -> Iterator[Side]:
        return iter(SIDES)

    def __len__(self) -> int:
        return len(SIDES)


def available(models: Mapping[Side, HandModel]) -> HandModel:
    """The right hand's model, or the left one's where only that is there. Raises HoldprepError without both."""
    try:
        return models["right"]
    except HoldprepError:
        return models["left"]


def export_mano_pkl(folder: Path) -> None:
    """Write the stand-in as MANO_RIGHT.pkl and MANO_LEFT.pkl of plain arrays, which smplx loads like MANO's own files."""
    for side in SIDES:
        data = _standin(side) | {STANDIN_MARK: True, "hands_components": np.eye(45), "bs_type": "lrotmin", "bs_style": "lbs"}
        safeio.write_bytes_atomic(folder / f"MANO_{side.upper()}.pkl", safeio.dump_portable(data))


def _find(folder: Path, side: Side) -> Path:
    """MANO's file of a side in the folder, in models/ or mano/ below it; as .pkl or .npz, in capital or small letters."""
    names = [f"mano_{side}{suffix}" for suffix in (".pkl", ".npz")]
    for within in (folder, *(folder / sub for sub in SUBFOLDERS)):
        files = {file.name.lower(): file for file in within.iterdir() if file.is_file()} if within.is_dir() else {}
        found = next((files[name] for name in names if name in files), None)
        if found is not None:
            return found
    raise HoldprepError(
        f"{folder / f'MANO_{side.upper()}.pkl'} does not exist, nor as .npz or in {', '.join(SUBFOLDERS)} below: hand_model.path (or $MANO_DIR) "
        f"is the folder of MANO's files from mano.is.tue.mpg.de; of a {side} hand only MANO_{side.upper()} is needed"
    )


def _checked(side: Side, data: Any, file: Path) -> Mapping[str, Any]:
    """The arrays of a MANO file. Raises HoldprepError for other content, or a hand of the other side."""
    needed = {
        "v_template": (778, 3),
        "shapedirs": (778, 3, 10),
        "posedirs": (778, 3, 135),
        "weights": (778, 16),
        "f": (1538, 3),
        "hands_mean": (45,),
        "J_regressor": (16, 778),
    }
    if isinstance(data, Mapping) and "J_regressor" not in data and file.suffix.lower() == ".npz":
        log.warning(
            "%-12s %s has no J_regressor, which np.savez cannot store if sparse: joints are estimated to some millimetres, not for training",
            "hand model",
            file,
        )
        data = {**data, "J_regressor": _standin(side)["J_regressor"], ESTIMATED: True}
    for key, shape in needed.items():
        found = np.shape(data[key]) if isinstance(data, Mapping) and key in data and not hasattr(data[key], "toarray") else None
        found = data[key].shape if isinstance(data, Mapping) and hasattr(data.get(key), "toarray") else found
        if found != shape:
            raise HoldprepError(f"{file} is not a MANO hand: {key} has shape {found}, not {shape}")
    dense = {key: _numbers(data[key], key, file) for key in needed}
    if not (dense["f"].min() >= 0 and dense["f"].max() < 778):
        raise HoldprepError(f"{file} is not a MANO hand: f names vertex {dense['f'].max():.0f} of 778")
    bend = _bend(dense)
    if (bend < -STRAIGHT) if side == "right" else (bend > STRAIGHT):
        other = "left" if side == "right" else "right"
        raise HoldprepError(f"{file} holds a {other} hand by its geometry, a {side} one is needed: get MANO_{side.upper()}.pkl again")
    return dense | {key: True for key in (STANDIN_MARK, ESTIMATED) if key in data}


def _numbers(value: Any, key: str, file: Path) -> np.ndarray:
    try:
        array = np.asarray(value.toarray() if hasattr(value, "toarray") else value, np.float64)
    except (TypeError, ValueError):
        array = np.full(1, np.nan)
    if not np.isfinite(array).all():
        raise HoldprepError(f"{file} is not a MANO hand: {key} holds values that are no finite numbers")
    return array


def _bend(data: Mapping[str, np.ndarray]) -> float:
    """Mean rotation (rad) of the four fingers in the mean pose about the axis from little to index finger.

    Fingers bend towards the palm: it is positive in a right hand and negative in a left one, whatever the axes of the file.
    """
    joints = data["J_regressor"] @ data["v_template"]
    across = joints[FINGERS[0][0]] - joints[FINGERS[2][0]]
    bones = [joint - 1 for finger in FINGERS[:4] for joint in finger[:3]]
    return float((data["hands_mean"].reshape(15, 3)[bones] @ across).mean() / (np.linalg.norm(across) + 1e-12))


def _from_arrays(side: Side, data: Mapping[str, Any], dtype: torch.dtype) -> HandModel:
    def tensor(x: Any) -> Tensor:
        return torch.as_tensor(np.array(x, dtype=np.float64)).to(dtype)

    return HandModel(
        side=side,
        name="standin" if STANDIN_MARK in data else "estimated" if ESTIMATED in data else "mano",
        v_template=tensor(data["v_template"]),
        shapedirs=tensor(data["shapedirs"]),
        posedirs=tensor(data["posedirs"]),
        J_regressor=tensor(data["J_regressor"]),
        weights=tensor(data["weights"]),
        hand_mean=tensor(data["hands_mean"]),
        faces=torch.as_tensor(np.array(data["f"], dtype=np.int64)),
        parents=PARENTS,
    )


def _standin(side: Side) -> dict[str, Any]:
    """The stand-in with the keys of MANO's files."""
    return _of_baked(side, safeio.load_npz(STANDIN_FILE))


def _of_baked(side: Side, baked: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A right hand of `bake_standin` with the keys of MANO's files; the left hand is its mirror image in x."""
    mirror = np.array([-1.0, 1.0, 1.0]) if side == "left" else np.ones(3)
    signs = np.tile(np.outer(mirror, mirror).ravel(), 15)  # mirroring maps each R - 1 of the pose to M (R - 1) M
    mean = baked["hand_mean"].reshape(15, 3) * (np.array([1.0, -1.0, -1.0]) if side == "left" else 1.0)
    faces = baked["faces"].astype(np.uint32)
    parents = np.array([2**32 - 1, *PARENTS[1:]], dtype=np.int64)
    return {
        "v_template": baked["v_template"].astype(np.float64) * mirror,
        "shapedirs": baked["shapedirs"].astype(np.float64) * mirror[:, None],
        "posedirs": baked["posedirs"].astype(np.float64) * mirror[:, None] * signs,
        "J_regressor": baked["J_regressor"].astype(np.float64),
        "weights": baked["weights"].astype(np.float64),
        "hands_mean": mean.reshape(45).astype(np.float64),
        "f": faces[:, ::-1].copy() if side == "left" else faces,
        "kintree_table": np.stack([parents, np.arange(16)]),
        STANDIN_MARK: True,
    }
