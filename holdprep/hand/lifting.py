"""Hand meshes in the camera frame from a tracker's keypoints."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from holdprep.geometry.cameras import project
from holdprep.hand import lbs
from holdprep.hand.model import HandModel, ManoParams, Side
from holdprep.hand.registration import Options, register
from holdprep.hand.targets import Targets
from holdprep.hand.trackers.tracks import KeypointTrack, VertexTrack


def lift_keypoints(model: HandModel, track: KeypointTrack, K: np.ndarray, length_mm: float | None) -> ManoParams:
    """MANO parameters (NaN where the hand was not found) fitted to 2D and, where known, metric 3D keypoints, with one shape for the clip.

    `length_mm` is the measured distance from wrist to middle fingertip, None: the tracker's 3D size, or the model's average.
    """

    def tensor(x: np.ndarray) -> Tensor:
        return torch.as_tensor(x, dtype=torch.float64)

    j3d = None if np.isnan(track.j3d_m).all() else tensor(track.j3d_m)
    targets = Targets(
        j3d_m=j3d,
        j2d_px=tensor(track.j2d_px),
        K=tensor(K),
        confidence=tensor(track.confidence),
        relative=True,
        j3d_sigma_m=track.j3d_sigma_m,
    )
    length_m = None if length_mm is None else length_mm / 1e3
    return register(model, targets, Options(hand_length_m=length_m)).params


def lift_tracks(
    tracks: Mapping[Side, KeypointTrack],
    models: Mapping[Side, HandModel],
    K: np.ndarray,
    length_mm: float | None,
    names: Sequence[str],
    notes: Iterable[str] = (),
) -> VertexTrack:
    """Tracks of meshes fitted to keypoints under `K` (3, 3); a joint without observation is the mesh's, with confidence 0."""
    vertices, joints, j2d = {}, {}, {}
    for side, track in tracks.items():
        mesh = lbs.forward(models[side], lift_keypoints(models[side], track, K, length_mm))
        vertices[side], joints[side] = mesh.vertices.numpy(), mesh.joints.numpy()
        j2d[side] = np.where(np.isfinite(track.j2d_px), track.j2d_px, project(joints[side], K))
    return VertexTrack(
        vertices,
        j2d,
        K,
        tuple(names),
        tuple(notes),
        joints,
        confidence={s: t.confidence for s, t in tracks.items()},
        keypoints_m={s: t.j3d_m for s, t in tracks.items()},
        keypoints_sigma_m={s: t.j3d_sigma_m for s, t in tracks.items() if t.j3d_sigma_m is not None},
    )
