"""From a tracker's keypoints to a hand mesh in the camera frame: what a mesh tracker would have given."""

import numpy as np
import torch
from torch import Tensor

from holdprep.hand.lbs import HandPoints
from holdprep.hand.model import HandModel, ManoParams
from holdprep.hand.registration import MIDDLE_FINGER, register_keypoints
from holdprep.hand.trackers import KeypointTrack


def average_length_m(model: HandModel) -> float:
    """Wrist to middle fingertip along the bones of the model's mean shape."""
    chain = HandPoints.of(model, torch.zeros(0, dtype=torch.long)).rest[list(MIDDLE_FINGER)]
    return float((chain[1:] - chain[:-1]).norm(dim=1).sum())


def lift_keypoints(model: HandModel, track: KeypointTrack, K: np.ndarray, length_mm: float | None) -> ManoParams:
    """MANO parameters (NaN where the hand was not found) that explain 2D and metric 3D keypoints at once, one shape for the clip.

    `length_mm` is the measured distance from wrist to middle fingertip, None for the model's average.
    """

    def tensor(x: np.ndarray) -> Tensor:
        return torch.as_tensor(x, dtype=torch.float64)

    # the tracker's 3D has an average adult's size
    ratio = 1.0 if length_mm is None else length_mm / 1e3 / average_length_m(model)
    fit = register_keypoints(
        model,
        j3d_m=ratio * tensor(track.j3d_m),
        j2d_px=tensor(track.j2d_px),
        K=tensor(K),
        confidence=tensor(track.confidence),
        hand_length_m=None if length_mm is None else length_mm / 1e3,
    )
    return fit.params
