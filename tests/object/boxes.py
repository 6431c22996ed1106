"""A rendered box with its exact sparse model: points on its faces, their projections as keypoints, and synthetic matches."""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from holdprep.geometry.cameras import project
from holdprep.geometry.rigid import apply
from holdprep.object.colmap import Crop, Features, Model, write_crops
from holdprep.object.workspace import Workspace
from tests.synthetic import box_sequence

SIZE = np.array([0.10, 0.08, 0.07])


@dataclass(frozen=True)
class ExactBox:
    names: list[str]
    poses: np.ndarray  # (T, 4, 4)
    K: np.ndarray
    model: Model
    features: Features
    workspace: Workspace  # with a fixed focal length


def exact_box(folder: Path, num_frames: int, *, noise_px: float, num_points: int = 240) -> ExactBox:
    """Points at an angle of more than 78 degrees count as invisible, but have keypoints, too; keypoint noise is `noise_px`.

    Crops are written to `folder`.
    """
    images, masks, K, poses = box_sequence(num_frames, degrees=40.0, size=tuple(SIZE))
    names = [f"{t:02d}" for t in range(num_frames)]
    rng = np.random.default_rng(0)
    axis, side = rng.integers(0, 3, num_points), rng.choice([-0.5, 0.5], num_points)
    points = rng.uniform(-0.45, 0.45, (num_points, 3)) * SIZE
    points[np.arange(num_points), axis] = side * SIZE[axis]
    normals = np.eye(3)[axis] * np.sign(side)[:, None]
    px, index = {}, {}
    for name, pose in zip(names, poses, strict=True):
        cam = apply(pose, points)
        px[name] = project(cam, K) + rng.normal(0, noise_px, (num_points, 2))
        facing = ((normals @ pose[:3, :3].T) * cam).sum(axis=1) < -0.2 * np.linalg.norm(cam, axis=1)
        index[name] = np.where(facing, np.arange(num_points), -1)
    matches: dict[str, dict[str, np.ndarray]] = {name: {} for name in names}
    for a, b in combinations(names, 2):
        both = np.flatnonzero((index[a] >= 0) & (index[b] >= 0))
        matches[a][b] = matches[b][a] = np.stack([both, both], axis=1)
    crop = Crop.around(masks, 2.0)
    write_crops(folder, crop, images, masks, names)
    gray = np.full((num_points, 3), 128, np.uint8)
    model = Model(0, float(K[0, 0]), np.zeros(1), dict(zip(names, poses, strict=True)), points, gray, index, folder)
    size = (images[0].shape[1], images[0].shape[0])
    workspace = Workspace(folder, crop, K, size, names, keys=names, refine_focal=False)
    return ExactBox(names, poses, K, model, Features(px, matches), workspace)
