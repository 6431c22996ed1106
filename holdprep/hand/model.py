"""The hand model's data: MANO when the user has its files, the CC0 stand-in otherwise. Arrays only; the arithmetic is in `lbs`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from holdprep.errors import HoldprepError
from holdprep.hand import STANDIN_FILE
from holdprep.hand.joints import PARENTS
from holdprep.io import safeio

Side = Literal["right", "left"]
SIDES: tuple[Side, ...] = ("right", "left")


@dataclass(frozen=True)
class HandModel:
    """A hand in MANO's layout; metres, rest pose as in MANO's files.

    `v_template` (778, 3), `shapedirs` (778, 3, 10), `posedirs` (778, 3, 135), `J_regressor` (16, 778), `weights` (778, 16),
    `hand_mean` (45,) axis-angle, `faces` (1538, 3) int64, `parents` (16,) with -1 at the wrist.
    `name` is "mano" or "standin": builds with the stand-in must not be used for training.
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


def load_hand_model(side: Side, path: Path | None = None, dtype: torch.dtype = torch.float32) -> HandModel:
    """The hand model of one side.

    MANO from `path` (MANO_RIGHT.pkl / MANO_LEFT.pkl, or their folder); the stand-in without `path`, or an .npz of `bake_standin`.
    A left hand's shape directions are used as stored, as in HOLD's trainer (its generator negates their x).
    Raises HoldprepError where the file is missing or is not a MANO hand of that side.
    """
    if side not in SIDES:
        raise HoldprepError(f"hand side {side!r} is not one of {', '.join(SIDES)}")
    if path is None or path.suffix == ".npz":
        data = _standin(side, path or STANDIN_FILE)
    else:
        named = path.is_file() and not any(other.upper() in path.name.upper() for other in SIDES if other != side)
        file = (
            path if named else _find(path.parent if path.is_file() else path, side)
        )  # the file is of the other side: use the one beside it
        data = safeio.load_pickle(file)
        _check(data, file)
    return _from_arrays(side, data, dtype)


def export_mano_pkl(folder: Path) -> None:
    """Write the stand-in as MANO_RIGHT.pkl and MANO_LEFT.pkl of plain arrays, which smplx loads like MANO's own files."""
    for side in SIDES:
        data = _standin(side) | {STANDIN_MARK: True, "hands_components": np.eye(45), "bs_type": "lrotmin", "bs_style": "lbs"}
        safeio.write_bytes_atomic(folder / f"MANO_{side.upper()}.pkl", safeio.dump_portable(data))


def _find(folder: Path, side: Side) -> Path:
    name = f"MANO_{side.upper()}.pkl"
    for candidate in (folder / name, folder / "mano" / name, folder / "models" / name):
        if candidate.is_file():
            return candidate
    raise HoldprepError(
        f"{folder / name} does not exist: hand_model.path (or $MANO_DIR) must hold MANO_RIGHT.pkl and MANO_LEFT.pkl from mano.is.tue.mpg.de"
    )


def _check(data: Any, file: Path) -> None:
    needed = {
        "v_template": (778, 3),
        "shapedirs": (778, 3, 10),
        "posedirs": (778, 3, 135),
        "weights": (778, 16),
        "f": (1538, 3),
        "hands_mean": (45,),
    }
    for key, shape in needed.items():
        found = np.shape(data[key]) if isinstance(data, Mapping) and key in data else None
        if found != shape:
            raise HoldprepError(f"{file} is not a MANO hand: {key} has shape {found}, not {shape}")
    if "J_regressor" not in data:
        raise HoldprepError(f"{file} is not a MANO hand: J_regressor is missing")


def _from_arrays(side: Side, data: Mapping[str, Any], dtype: torch.dtype) -> HandModel:
    regressor = data["J_regressor"]
    dense = regressor.toarray() if hasattr(regressor, "toarray") else regressor

    def tensor(x: Any) -> Tensor:
        return torch.as_tensor(np.array(x, dtype=np.float64)).to(dtype)

    return HandModel(
        side=side,
        name="standin" if STANDIN_MARK in data else "mano",
        v_template=tensor(data["v_template"]),
        shapedirs=tensor(data["shapedirs"]),
        posedirs=tensor(data["posedirs"]),
        J_regressor=tensor(dense),
        weights=tensor(data["weights"]),
        hand_mean=tensor(data["hands_mean"]),
        faces=torch.as_tensor(np.array(data["f"], dtype=np.int64)),
        parents=PARENTS,
    )


def _standin(side: Side, path: Path = STANDIN_FILE) -> dict[str, Any]:
    """The stand-in with the keys of MANO's files; the left hand is the mirror image of the right one in x."""
    with np.load(path, allow_pickle=False) as file:
        baked = {k: file[k] for k in file.files}
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
