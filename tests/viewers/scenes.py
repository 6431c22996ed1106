"""Small scenes for the viewers' tests: a moving hand, a turning sphere, pictures of noise."""

import numpy as np
import torch
import trimesh

from holdprep.geometry.cameras import pinhole_K
from holdprep.geometry.rigid import from_rt
from holdprep.hand import lbs
from holdprep.hand.model import ManoParams, load_hand_model
from holdprep.viewers.scene import HandTrack, ObjectTrack, ResultTrack, Scene, SurfaceMesh

SIZE = (160, 120)
DEPTH_M = 0.5


def hand_track(frames: int, lost: tuple[int, ...] = ()) -> HandTrack:
    """A right hand in front of the camera that moves to the right by 1 mm a frame; NaN in `lost` frames."""
    model = load_hand_model("right", dtype=torch.float64)
    zeros = torch.zeros(frames, 3, dtype=torch.float64)
    transl = zeros.clone()
    transl[:, 0], transl[:, 2] = 0.001 * torch.arange(frames), DEPTH_M
    params = ManoParams(zeros, torch.zeros(frames, 45, dtype=torch.float64), torch.zeros(10, dtype=torch.float64), transl)
    vertices = lbs.forward(model, params).vertices.numpy().astype(np.float32)
    is_valid = ~np.isin(np.arange(frames), lost)
    vertices[~is_valid] = np.nan
    error = np.linspace(1, 5, frames)
    return HandTrack("right", vertices, model.faces.numpy(), is_valid, error, np.linspace(1, 0, frames), np.full((frames, 778), 0.001))


def object_track(frames: int) -> ObjectTrack:
    """A sphere of 3 cm that turns about the camera's y axis, half a metre away."""
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.03)
    angle = np.linspace(0, 1, frames)
    R = np.zeros((frames, 3, 3))
    R[:, 0, 0] = R[:, 2, 2] = np.cos(angle)
    R[:, 0, 2], R[:, 2, 0], R[:, 1, 1] = np.sin(angle), -np.sin(angle), 1
    T = from_rt(R, np.tile([0.05, 0.0, DEPTH_M], (frames, 1)))
    observed = np.asarray(ball.vertices)[:, 2] < 0
    surface = SurfaceMesh(np.asarray(ball.vertices), np.asarray(ball.faces), observed)
    return ObjectTrack(T, np.asarray(ball.vertices), np.ones(frames, bool), surface, np.ones(frames), np.ones(frames))


def small_scene(frames: int = 6, seq: str = "bottle", results: tuple[str, ...] = ("slerp", "ho"), lost: tuple[int, ...] = ()) -> Scene:
    """A scene with hands in every result, and the object in those of alignment and in the truth."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8) for _ in range(min(frames, 8))]
    mask = np.zeros(SIZE[::-1], bool)
    mask[30:60, 40:90] = True
    hand = hand_track(frames, lost)
    tracks = [ResultTrack(r, pinhole_K(150.0, *SIZE), [hand], object_track(frames) if r in ("o", "ho", "truth") else None) for r in results]
    return Scene(
        seq,
        [f"{t:04d}" for t in range(frames)],
        np.arange(frames),
        frames,
        SIZE,
        [images[t % len(images)] for t in range(frames)],
        {"right": [mask] * frames},
        tracks,
        {"align/ho/right.reprojection_px": np.linspace(0, 9, frames)},
    )
