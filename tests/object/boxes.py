"""A rendered box with a model of it that is exact: points on its faces, keypoints where they are seen, matches made by hand."""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from holdprep.geometry.cameras import project
from holdprep.geometry.rigid import apply
from holdprep.object.colmap import Crop, Features, Model, write_crops
from tests.synthetic import box_sequence

SIZE = np.array([0.10, 0.08, 0.07])


@dataclass(frozen=True)
class ExactBox:
    names: list[str]
    poses: np.ndarray  # (T, 4, 4)
    K: np.ndarray
    model: Model
    features: Features
    crop: Crop
    folder: Path

    @property
    def principal_px(self) -> tuple[float, float]:
        return float(self.K[0, 2]), float(self.K[1, 2])


def exact_box(folder: Path, num_frames: int, *, noise_px: float, num_points: int = 240) -> ExactBox:
    """Points seen flatter than 78 degrees count as unseen; their keypoints, `noise_px` off, exist all the same. Crops lie in `folder`."""
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
    grey = np.full((num_points, 3), 128, np.uint8)
    model = Model(0, float(K[0, 0]), np.zeros(1), dict(zip(names, poses, strict=True)), points, grey, index, folder)
    return ExactBox(names, poses, K, model, Features(px, matches), crop, folder)
