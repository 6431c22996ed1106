"""Known features of a rotating point cloud anywhere in the image: structure from motion without rendering."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from holdprep.geometry.cameras import project
from holdprep.geometry.rigid import apply, from_rt, rotation_angle_deg
from holdprep.object import colmap
from holdprep.object.colmap import Crop, Model
from holdprep.object.diagnosis import MappingRun
from holdprep.object.global_mapper import map_frames
from holdprep.object.workspace import Workspace

_MATCHED_DISTANCES = (1, 2, 4, 8)  # frames apart


@dataclass(frozen=True)
class KnownFeatures:
    """Feature source with given `keypoints_px` (K, 2) of the full image by frame, and given matches by pair of frames."""

    keypoints_px: Mapping[str, np.ndarray]
    matches: Mapping[str, Mapping[str, np.ndarray]]

    def extract(self, folder: Path, crop: Crop, K: np.ndarray, _: int) -> None:
        px = {name: crop.to_window(px) for name, px in self.keypoints_px.items()}
        colmap.write_keypoints(folder, crop, K, px)

    def thin(self, _: Path) -> None:
        """Keeps all."""

    def descriptors(self, _: Path) -> dict[str, np.ndarray]:
        return {name: np.zeros((len(px), 2), np.float32) for name, px in self.keypoints_px.items()}

    def match(self, folder: Path, pairs: Sequence[tuple[str, str]], max_error_px: float, seed: int, num_threads: int) -> None:
        known = ((a, b, self.matches[a][b]) for a, b in pairs if b in self.matches.get(a, {}))
        colmap.write_matches(folder, known, max_error_px, seed, num_threads)


@dataclass(frozen=True)
class Cloud:
    """T frames of a cloud of N points, all visible in every frame; keypoint i of every frame is point i."""

    names: list[str]
    masks: list[np.ndarray]  # T of (H, W) bool
    K: np.ndarray
    poses: np.ndarray  # (T, 4, 4)
    source: KnownFeatures

    @property
    def images(self) -> list[np.ndarray]:
        return [np.zeros((*mask.shape, 3), np.uint8) for mask in self.masks]


@dataclass(frozen=True)
class PinholeCamera:
    """Its principal point is the image's centre where no other is given."""

    size: tuple[int, int] = (640, 480)
    focal_px: float = 600.0
    principal_px: tuple[float, float] | None = None

    @property
    def K(self) -> np.ndarray:
        cx, cy = ((self.size[0] - 1) / 2, (self.size[1] - 1) / 2) if self.principal_px is None else self.principal_px
        return np.array([[self.focal_px, 0, cx], [0, self.focal_px, cy], [0, 0, 1.0]])


WIDE = PinholeCamera()


def cloud(
    center_px: tuple[float, float],
    *,
    camera: PinholeCamera = WIDE,
    radius_px: float = 70.0,
    degrees: float = 50.0,
    num_frames: int = 10,
    num_points: int = 60,
    noise_px: float = 0.05,
) -> Cloud:
    """A cloud of radius 5 cm on the line of sight through `center_px`, with an image radius of `radius_px`, rotating by `degrees`."""
    rng = np.random.default_rng(0)
    K, size = camera.K, camera.size
    center = np.linalg.inv(K) @ [*center_px, 1.0] * 0.05 * camera.focal_px / radius_px
    points = rng.normal(size=(num_points, 3))
    points *= 0.05 * rng.uniform(0.5, 1, (num_points, 1)) / np.linalg.norm(points, axis=1, keepdims=True)
    spin = Rotation.from_rotvec(np.radians(degrees) * np.linspace(0, 1, num_frames)[:, None] * [0.36, 0.8, 0.48]).as_matrix()
    poses = np.stack([from_rt(R, center) for R in spin])
    names = [f"{t:02d}" for t in range(num_frames)]
    px = {name: project(apply(T, points), K) + rng.normal(0, noise_px, (num_points, 2)) for name, T in zip(names, poses, strict=True)}
    y, x = np.mgrid[: size[1], : size[0]]
    masks = [np.hypot(x - center_px[0], y - center_px[1]) < 1.2 * radius_px] * num_frames
    same = np.tile(np.arange(num_points)[:, None], (1, 2))
    matches: dict[str, dict[str, np.ndarray]] = {}
    for t, a in enumerate(names):
        matches[a] = {names[t + step]: same for step in _MATCHED_DISTANCES if t + step < num_frames}
    return Cloud(names, masks, K, poses, KnownFeatures(px, matches))


def halves(whole: Cloud, first: int) -> Cloud:
    """The same cloud without matches between the `first` frames and the others."""
    before = set(whole.names[:first])
    matches = {a: {b: found for b, found in others.items() if (a in before) == (b in before)} for a, others in whole.source.matches.items()}
    return replace(whole, source=KnownFeatures(whole.source.keypoints_px, matches))


def map_cloud(folder: Path, scene: Cloud, upsample: float, *, refine_focal: bool, number: int = 0) -> tuple[list[Model], list[MappingRun]]:
    """Mapping 0 (incremental) or 1 (global) of all frames; its files are written to `folder`."""
    crop = Crop.around(scene.masks, upsample, (scene.K[0, 2], scene.K[1, 2]))
    colmap.write_crops(folder, crop, scene.images, scene.masks, scene.names)
    scene.source.extract(folder, crop, scene.K, 1)
    pairs = [(a, b) for a, others in scene.source.matches.items() for b in others]
    scene.source.match(folder, pairs, 2.0 * upsample, 0, 1)
    size = scene.masks[0].shape[::-1]
    workspace = Workspace(folder, crop, scene.K, size, scene.names, keys=scene.names, refine_focal=refine_focal)
    return map_frames(workspace, 1, 0, number)


def rotation_errors_deg(found: Mapping[str, np.ndarray], exact: Cloud) -> np.ndarray:
    """Rotation errors of the found frames after aligning the object frames."""
    R = np.stack([found[name][:3, :3] for name in exact.names if name in found])
    true = np.stack([T[:3, :3] for name, T in zip(exact.names, exact.poses, strict=True) if name in found])
    between = Rotation.from_matrix(np.swapaxes(R, 1, 2) @ true).mean().as_matrix()
    return np.asarray(rotation_angle_deg(R @ between, true))
