"""MANO parameters in the layout of HOLD's files: a dict of arrays with one row per frame."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdprep.errors import HoldprepError
from holdprep.hand.model import SIDES, ManoParams
from holdprep.io import safeio

KEYS = ("global_orient", "hand_pose", "betas", "transl")
SIZES = dict(zip(KEYS, (3, 45, 10, 3), strict=True))


def read_fits(path: Path) -> dict[str, Any]:
    """hold_fit.init.npy or hold_fit.slerp.npy: by hand a dict of `KEYS`, with `is_valid` where it is known, and K if it is stored.

    Raises HoldprepError in one line for other content.
    """
    content = safeio.load_npy(path)
    sides = [side for side in SIDES if isinstance(content, Mapping) and side in content]
    if not sides:
        raise HoldprepError(f"{path} holds no hand, a dict with 'right' or 'left' is needed: run stage=register force=true")
    found: dict[str, Any] = {}
    for side in sides:
        frames = np.shape(content[side].get("transl"))[:1] if isinstance(content[side], Mapping) else ()
        shapes = {key: ((*frames, size), (size,)) for key, size in SIZES.items()} | {"is_valid": (frames,)}
        found[side] = {key: numbers(path, content[side], key, *shapes[key]) for key in (*KEYS, *optional(content[side], "is_valid"))}
    return found | {key: numbers(path, content, key, (3, 3)) for key in optional(content, "K")}


def optional(content: Any, key: str) -> tuple[str, ...]:
    """The key, if the content has it."""
    return (key,) if isinstance(content, Mapping) and key in content else ()


def numbers(path: Path, content: Any, key: str, *shapes: tuple[int, ...]) -> np.ndarray:
    """The array of numbers `key` in a file's dict, of one of the shapes. Raises HoldprepError in one line for anything else."""
    try:
        array = np.asarray(content[key])
    except (KeyError, IndexError, TypeError, ValueError):
        array = np.empty(0, object)
    if array.dtype.kind not in "fiub" or array.shape not in shapes:
        raise HoldprepError(
            f"{path}: {key} is {array.dtype} {array.shape}, numbers {' or '.join(map(str, shapes))} are needed: make it again"
        )
    return array


def params_to_dict(params: ManoParams) -> dict[str, np.ndarray]:
    """Parameters of T frames in HOLD's layout (hold_fit.*.npy): float32, `betas` (10,) or (T, 10) repeated for every frame."""
    frames = len(params.transl)
    betas = params.betas.expand(frames, 10)
    values = (params.global_orient, params.hand_pose, betas, params.transl)
    return {k: v.detach().cpu().numpy().astype(np.float32) for k, v in zip(KEYS, values, strict=True)}


def params_from_dict(fit: Mapping[str, Any]) -> ManoParams:
    """Parameters from HOLD's layout; the shape is the mean over frames that have one (HOLD's fits have one shape per frame)."""
    arrays = {k: torch.as_tensor(np.asarray(fit[k]), dtype=torch.float64) for k in KEYS}
    arrays["betas"] = torch.nanmean(arrays["betas"].reshape(-1, 10), dim=0)
    return ManoParams(**arrays)
