"""What the readers' valid files are made of."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from holdprep.hand.model import HandModels, ManoParams, load_hand_model

SIZE = (32, 24)  # width, height
NAMES = ["0000", "0001", "0002"]
T = len(NAMES)
K = np.array([[40.0, 0, 15.5], [0, 40.0, 11.5], [0, 0, 1]])
MODELS = HandModels(lambda side: load_hand_model(side, None, torch.float64))


@dataclass(frozen=True)
class Reader:
    """A reader's name, its valid `files` by path in a folder, those that are changed, and the call that reads the folder."""

    name: str
    files: Mapping[str, bytes]
    read: Callable[[Path], object]
    targets: tuple[str, ...] = ()
    slow: bool = False
    is_native: bool = False  # read by a library that a damaged file could crash: in a process of its own

    @property
    def changed(self) -> tuple[str, ...]:
        return self.targets or tuple(self.files)


def npy(value: Any) -> bytes:
    stream = io.BytesIO()
    if isinstance(value, dict):
        holder = np.empty((), object)
        holder[()] = value
        np.save(stream, holder)
    else:
        np.save(stream, value)
    return stream.getvalue()


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **{key.replace("__", "."): value for key, value in arrays.items()})
    return stream.getvalue()


def picture(kind: str, array: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def torch_file(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)


@cache
def mesh(side: str = "right") -> np.ndarray:
    vertices = MODELS[side].v_template.numpy()  # type: ignore[index]
    return (vertices - vertices.mean(axis=0) + [0, 0, 0.6]).astype(np.float32)


@cache
def posed() -> tuple[np.ndarray, np.ndarray]:
    """Joints (T, 21, 3) m and (T, 21, 2) px of a right hand, in OpenPose's order."""
    from holdprep.geometry.cameras import project
    from holdprep.hand import lbs
    from holdprep.hand.joints import OPENPOSE_FROM_MANO21

    zeros = [torch.zeros(T, n).double() for n in (3, 45, 10)]
    found = lbs.forward(MODELS["right"], ManoParams(*zeros, torch.tensor([[-0.1, 0.0, 0.6]] * T).double())).joints.numpy()
    joints = found[:, list(OPENPOSE_FROM_MANO21)]
    return joints, project(joints, K)
