"""Alignment states on disk (`mano_fit_ckpt/<mode>/last.ckpt`): plain tensors and numbers, written and read without executing anything."""

import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from holdprep.align.problem import MODES, Alignment
from holdprep.errors import HoldprepError, UnsafeFile
from holdprep.hand.model import ManoParams

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


def save_state(path: Path, alignment: Alignment) -> None:
    """Write a state; who needs the write to be atomic gives a temporary path."""
    torch.save(to_state_dict(alignment), path)


def load_state(path: Path) -> Alignment:
    """Read a state. Raises UnsafeFile where the file asks for code to run, HoldprepError where it is something else."""
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError:
        raise UnsafeFile(f"{path} holds more than plain tensors and was not loaded: run stage=align again from mode=h") from None
    except (RuntimeError, EOFError, OSError) as error:
        raise HoldprepError(f"cannot read {path}: {' '.join(str(error).split())[:150]}") from None
    try:
        return from_state_dict(state)
    except (HoldprepError, TypeError, KeyError, AttributeError):
        raise HoldprepError(f"{path} is not an alignment state of holdprep: run stage=align again from mode=h") from None
