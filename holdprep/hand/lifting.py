"""From a tracker's keypoints to a hand mesh in the camera frame: what a mesh tracker would have given."""

import numpy as np
import torch
from torch import Tensor

from holdprep.hand.model import HandModel, ManoParams
from holdprep.hand.registration import Options, register
from holdprep.hand.targets import Targets
from holdprep.hand.trackers import KeypointTrack


def lift_keypoints(model: HandModel, track: KeypointTrack, K: np.ndarray, length_mm: float | None) -> ManoParams:
    """MANO parameters (NaN where the hand was not found) that explain 2D and, where known, metric 3D keypoints at once, one shape for the clip.

    `length_mm` is the measured distance from wrist to middle fingertip, None for the tracker's 3D, or the model's average without it.
    """

    def tensor(x: np.ndarray) -> Tensor:
        return torch.as_tensor(x, dtype=torch.float64)

    j3d = None if np.isnan(track.j3d_m).all() else tensor(track.j3d_m)
    targets = Targets(j3d_m=j3d, j2d_px=tensor(track.j2d_px), K=tensor(K), confidence=tensor(track.confidence), relative=True)
    length_m = None if length_mm is None else length_mm / 1e3
    return register(model, targets, Options(hand_length_m=length_m)).params
