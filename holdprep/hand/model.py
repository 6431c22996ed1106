"""The hand model's data: MANO when the user has its files, the CC0 stand-in otherwise. Arrays only; the arithmetic is in `lbs`."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Side = Literal["right", "left"]
SIDES: tuple[Side, ...] = ("right", "left")


@dataclass(frozen=True)
class HandModel:
    """A hand in MANO's layout; metres, rest pose as in MANO's files.

    `v_template` (778, 3), `shapedirs` (778, 3, 10), `posedirs` (778, 3, 135), `J_regressor` (16, 778), `weights` (778, 16),
    `hand_mean` (45,) axis-angle, `faces` (1538, 3) int64, `parents` (16,) with -1 at the wrist.
    `name` is "mano" or "standin": a build made with the stand-in must not be trained on.
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
