"""Flip resolution on a rotating box with one frontal face in mid-video; the first half is flipped with its points."""

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from holdprep.geometry.cameras import pinhole_K, project
from holdprep.geometry.rigid import apply, from_rt
from holdprep.object import colmap
from holdprep.object.bundle_adjustment import retriangulate
from holdprep.object.colmap import Crop, Features, Model, write_crops
from holdprep.object.flip_resolution import flip_candidates, lowers_cost, resolve_flips
from holdprep.object.single_view import fit_plane, flip_pose
from holdprep.object.trajectory import disagreement_deg
from holdprep.object.workspace import Workspace

T, N, FRONTAL = 20, 260, 10
NAMES = [f"{t:02d}" for t in range(T)]
K = pinhole_K(600.0, 640, 480)
PRINCIPAL = (float(K[0, 2]), float(K[1, 2]))
CROP = Crop(0, 0, 640, 480, 1.0, (0, 0, 640, 480))


@dataclass(frozen=True)
class Scene:
    poses: dict[str, np.ndarray]
    features: Features
    workspace: Workspace
    correct: Model
    flipped: Model


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Two models triangulated by COLMAP from matches with 0.4 px noise: under the true poses, and with half of them flipped."""
    folder = tmp_path_factory.mktemp("flips")
    yaw = np.radians(6.0 * (np.arange(T) - FRONTAL))[:, None] * [0.0, 1.0, 0.0]
    poses = dict(zip(NAMES, from_rt(Rotation.from_rotvec(yaw).as_matrix(), np.tile([0.01, -0.02, 0.6], (T, 1))), strict=True))
    rng = np.random.default_rng(0)
    axis, side = rng.integers(0, 3, N), rng.choice([-0.5, 0.5], N)
    points = rng.uniform(-0.045, 0.045, (N, 3))
    points[np.arange(N), axis] = 0.1 * side
    px, visible = {}, {}
    for name, pose in poses.items():
        cam = apply(pose, points)
        px[name] = project(cam, K) + rng.normal(0, 0.4, (N, 2))
        visible[name] = (np.sign(side) * (pose[:3, axis] * cam.T).sum(axis=0)) < -0.3 * np.linalg.norm(cam, axis=1)
    images, masks = [np.full((480, 640, 3), 90, np.uint8)] * T, [np.ones((480, 640), bool)] * T
    write_crops(folder, CROP, images, masks, NAMES)
    colmap.write_keypoints(folder, CROP, K, px)
    both = ((a, b, np.flatnonzero(visible[a] & visible[b])) for a, b in combinations(NAMES, 2))
    colmap.write_matches(folder, ((a, b, np.stack([at, at], axis=1)) for a, b, at in both if len(at)), 4.0, 0, 1)
    index = {name: np.where(visible[name], np.arange(N), -1) for name in NAMES}
    exact = Model(0, 600.0, np.zeros(1), poses, points, np.zeros((N, 3), np.uint8), index, folder)
    face = fit_plane(points[visible[NAMES[FRONTAL]]])
    wrong_poses = poses | {name: flip_pose(poses[name], face) for name in NAMES[:FRONTAL]}
    workspace = Workspace(folder, CROP, K, (640, 480), NAMES, keys=NAMES, refine_focal=True)
    correct, flipped = (retriangulate(workspace, exact, each) for each in (poses, wrong_poses))
    return Scene(poses, colmap.read_features(folder, CROP), workspace, correct, flipped)


def rotation_errors_deg(model: Model, scene: Scene) -> np.ndarray:
    found = disagreement_deg(model.poses, scene.poses)
    return np.array([found[name] for name in NAMES])


def test_a_flipped_range_registers_completely_and_is_corrected(scene: Scene) -> None:
    assert rotation_errors_deg(scene.flipped, scene)[: FRONTAL - 4].min() > 30
    assert scene.flipped.num_observations > 0.9 * scene.correct.num_observations  # other criteria do not detect it
    found = resolve_flips(scene.workspace, scene.flipped, scene.features)
    far = np.abs(np.arange(T) - FRONTAL) > 3  # the rotation of a frontal face is hardly constrained
    assert rotation_errors_deg(found, scene)[far].max() < 2
    assert found.focal_px == pytest.approx(scene.correct.focal_px, rel=0.02)


def test_a_correct_model_is_unchanged(scene: Scene) -> None:
    assert flip_candidates(NAMES, scene.correct, scene.features, PRINCIPAL)  # otherwise nothing would be tested
    found = resolve_flips(scene.workspace, scene.correct, scene.features)
    assert found is scene.correct


def test_a_non_planar_object_has_no_candidates(scene: Scene) -> None:
    rng = np.random.default_rng(1)
    points = scene.correct.points + rng.normal(0, 0.3 * scene.correct.points.std(), scene.correct.points.shape)
    assert flip_candidates(NAMES, replace(scene.correct, points=points), scene.features, PRINCIPAL) == []


def test_only_the_cost_of_flipped_frames_counts() -> None:
    """Cost changes of other frames after retriangulation are random."""
    is_flipped = np.arange(10) < 3
    before, noise = np.full(10, 100.0), np.where(is_flipped, 101.0, 99.0)
    assert not lowers_cost(np.stack([before, noise]), is_flipped)
    assert not lowers_cost(np.stack([before, np.where(is_flipped, 97.0, 100.0)]), is_flipped)
    assert lowers_cost(np.stack([before, np.where(is_flipped, 80.0, 101.0)]), is_flipped)


def test_a_range_with_too_few_trial_frames_is_not_flipped(scene: Scene) -> None:
    found = resolve_flips(scene.workspace, scene.flipped, scene.features, trial_frames=4)  # two of the range's ten frames
    assert found is scene.flipped
