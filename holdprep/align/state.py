"""Alignment states on disk (`mano_fit_ckpt/<mode>/last.ckpt`): plain tensors and numbers, read without executing code.

HOLD's own checkpoints are read too: Lightning's, with the parameters under `models.<entity>.` in their `state_dict`; the mode is the
folder's name.
"""

import io
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import roma
import torch
from torch import Tensor

from holdprep.align.problem import MODES, Alignment, Mode
from holdprep.errors import HoldprepError
from holdprep.hand import hold_left
from holdprep.hand.model import SIDES, HandModel, ManoParams, Side
from holdprep.io.safeio import load_checkpoint

FORMAT = 1


def to_state_dict(alignment: Alignment) -> dict[str, Any]:
    """An alignment as nested dicts of tensors, numbers and strings."""
    return {"holdprep_alignment": FORMAT, **asdict(alignment)}


def from_state_dict(state: dict[str, Any]) -> Alignment:
    """The inverse of `to_state_dict`; raises HoldprepError for anything else."""
    if not isinstance(state, dict) or state.get("holdprep_alignment") != FORMAT or state.get("mode") not in MODES:
        raise HoldprepError("not an alignment state of holdprep: run stage=align mode=h first")
    values = {key: value for key, value in state.items() if key != "holdprep_alignment"}
    return Alignment(**{**values, "hands": {side: ManoParams(**params) for side, params in state["hands"].items()}})


def from_hold(tensors: dict[str, Tensor], mode: Mode, models: Mapping[Side, HandModel] | None = None) -> Alignment:
    """HOLD's parameters after a mode as an alignment, float64. K and the scale's standard error are not stored and are NaN.

    A left hand's shape is converted with its model, or used as stored without it. Raises KeyError where one is missing.
    """
    hands = {}
    for side in SIDES:
        if f"models.{side}.hand_rot" in tensors:
            names = ("hand_rot", "hand_pose", "hand_beta", "hand_transl")
            hands[side] = ManoParams(*(tensors[f"models.{side}.{name}"].double() for name in names))
    scale, rotvec, transl = (tensors[f"models.object.{name}"].double() for name in ("obj_scale", "obj_rot", "obj_transl"))
    notes = [f"mode {mode} was run by HOLD"]
    if "left" in hands and models is not None and "left" in models:
        hands["left"], off_mm = hold_left.converted(hands["left"], models["left"])
        notes.append(hold_left.note(off_mm))
    elif "left" in hands:
        notes.append("the left hand's shape is used as stored: in HOLD's generator the x of the shape directions has the opposite sign")
    if mode != "h":
        notes.append("the scale's standard error is unknown")
    nothing = torch.full((3, 3), torch.nan, dtype=torch.float64)
    return Alignment(mode, "hold", hands, float(scale), float("nan"), roma.rotvec_to_rotmat(rotvec), transl, nothing, notes=notes)


def save_state(path: Path, alignment: Alignment) -> None:
    """Write a state; not atomic: give a temporary path where that is needed."""
    content = io.BytesIO()  # torch.save stores the file's name, and temporary names differ
    torch.save(to_state_dict(alignment), content)
    path.write_bytes(content.getvalue())


def load_state(path: Path, models: Mapping[Side, HandModel] | None = None) -> Alignment:
    """Read a state; `models` are needed to convert a left hand of HOLD's.

    Raises UnsafeFile where the file would execute code, HoldprepError where it is not a state.
    """
    state = load_checkpoint(path)
    try:
        for mode in MODES:
            if path.parent.name == mode and "pytorch-lightning_version" in state:
                return from_hold(state["state_dict"], mode, models)
        return from_state_dict(state)
    except (HoldprepError, TypeError, KeyError, AttributeError, ValueError, RuntimeError, IndexError):
        raise HoldprepError(f"{path} is not an alignment state of holdprep: run stage=align again from mode=h") from None
