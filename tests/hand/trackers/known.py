"""Hands of known pose before a camera, in three frames, from which the tests make others' files."""

import numpy as np
import torch

from holdprep.hand import lbs
from holdprep.hand.mirror import mirrored
from holdprep.hand.model import SIDES, ManoParams, Side, load_hand_model

NAMES = ["0000", "0002", "0004"]
SIZE = (640, 480)
MODELS = {side: load_hand_model(side, dtype=torch.float64) for side in SIDES}


def params(side: Side, depth_m: float) -> ManoParams:
    """Three frames of a shaped, half-closed hand; the left one is the mirror image of the right."""
    rng = np.random.default_rng(3)
    hand = (rng.normal(0, 0.8, (3, 3)), rng.normal(0, 0.15, (3, 45)), np.tile(rng.normal(0, 0.7, 10), (3, 1)))
    transl = rng.normal(0, 0.02, (3, 3)) - MODELS["right"].v_template.mean(dim=0).numpy() + [0.02, -0.03, depth_m]
    right = ManoParams(*(torch.as_tensor(x) for x in (*hand, transl)))
    return right if side == "right" else mirrored(right, MODELS["right"], MODELS["left"])


def mesh(side: Side, depth_m: float) -> lbs.HandMesh:
    return lbs.forward(MODELS[side], params(side, depth_m))
