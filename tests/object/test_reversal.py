"""A turning box of which one face shows frontally in the middle of the video; all before it upside down, its points with it."""

from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from holdprep.geometry.cameras import pinhole_K, project
from holdprep.geometry.rigid import apply, from_rt
from holdprep.object import colmap, reversal
from holdprep.object.bundle import rebuild
from holdprep.object.colmap import Crop, Features, Model, write_crops
from holdprep.object.reversal import _spoken_for, hopeful, set_upright
from holdprep.object.trajectory import disagreement_deg
from holdprep.object.views import mirrored, plane_through

T, N, FRONTAL = 20, 260, 10
NAMES = [f"{t:02d}" for t in range(T)]
K = pinhole_K(600.0, 640, 480)
PRINCIPAL = (float(K[0, 2]), float(K[1, 2]))
CROP = Crop(0, 0, 640, 480, 1.0, (0, 0, 640, 480))


@dataclass(frozen=True)
class Turning:
    poses: dict[str, np.ndarray]
    features: Features
    folder: Path
    right: Model
    wrong: Model


@pytest.fixture(scope="module")
def turning(tmp_path_factory: pytest.TempPathFactory) -> Turning:
    """Two models in COLMAP's own hands, made from exact matches 0.4 px off: by the true poses, and by half of them mirrored."""
    folder = tmp_path_factory.mktemp("turning")
    yaw = np.radians(6.0 * (np.arange(T) - FRONTAL))[:, None] * [0.0, 1.0, 0.0]
    poses = dict(zip(NAMES, from_rt(Rotation.from_rotvec(yaw).as_matrix(), np.tile([0.01, -0.02, 0.6], (T, 1))), strict=True))
    rng = np.random.default_rng(0)
    axis, side = rng.integers(0, 3, N), rng.choice([-0.5, 0.5], N)
    points = rng.uniform(-0.045, 0.045, (N, 3))
    points[np.arange(N), axis] = 0.1 * side
    px, seen = {}, {}
    for name, pose in poses.items():
        cam = apply(pose, points)
        px[name] = project(cam, K) + rng.normal(0, 0.4, (N, 2))
        seen[name] = (np.sign(side) * (pose[:3, axis] * cam.T).sum(axis=0)) < -0.3 * np.linalg.norm(cam, axis=1)
    images, masks = [np.full((480, 640, 3), 90, np.uint8)] * T, [np.ones((480, 640), bool)] * T
    write_crops(folder, CROP, images, masks, NAMES)
    colmap.write_keypoints(folder, CROP, K, px)
    both = ((a, b, np.flatnonzero(seen[a] & seen[b])) for a, b in combinations(NAMES, 2))
    colmap.write_matches(folder, ((a, b, np.stack([at, at], axis=1)) for a, b, at in both if len(at)), 4.0, 0, 1)
    index = {name: np.where(seen[name], np.arange(N), -1) for name in NAMES}
    exact = Model(0, 600.0, np.zeros(1), poses, points, np.zeros((N, 3), np.uint8), index, folder)
    face = plane_through(points[seen[NAMES[FRONTAL]]])
    over = poses | {name: mirrored(poses[name], face) for name in NAMES[:FRONTAL]}
    features = colmap.read_features(folder, CROP)
    right, wrong = (rebuild(folder, CROP, exact, each, refine_focal=True) for each in (poses, over))
    return Turning(poses, features, folder, right, wrong)


def off(model: Model, turning: Turning) -> np.ndarray:
    found = disagreement_deg(model.poses, turning.poses)
    return np.array([found[name] for name in NAMES])


def test_a_stretch_upside_down_registers_fully_and_is_set_upright(turning: Turning) -> None:
    assert off(turning.wrong, turning)[: FRONTAL - 4].min() > 30
    assert turning.wrong.num_observations > 0.9 * turning.right.num_observations  # nothing else would tell
    found = set_upright(NAMES, turning.wrong, turning.features, PRINCIPAL, turning.folder, CROP, refine_focal=True)
    far = np.abs(np.arange(T) - FRONTAL) > 3  # frontally a face turns by degrees without a trace
    assert off(found, turning)[far].max() < 2
    assert found.focal_px == pytest.approx(turning.right.focal_px, rel=0.02)


def test_what_is_upright_stays(turning: Turning) -> None:
    assert hopeful(NAMES, turning.right, turning.features, PRINCIPAL)  # or the test would say nothing
    found = set_upright(NAMES, turning.right, turning.features, PRINCIPAL, turning.folder, CROP, refine_focal=True)
    assert found is turning.right


def test_a_body_without_faces_is_left_alone(turning: Turning) -> None:
    rng = np.random.default_rng(1)
    points = turning.right.points + rng.normal(0, 0.3 * turning.right.points.std(), turning.right.points.shape)
    assert hopeful(NAMES, replace(turning.right, points=points), turning.features, PRINCIPAL) == []


def test_a_stretch_is_judged_by_its_own_frames() -> None:
    """What frames elsewhere gain when a model is made anew is chance."""
    turned = np.arange(10) < 3
    right, noise = np.full(10, 100.0), np.where(turned, 101.0, 99.0)
    assert not _spoken_for(np.stack([right, noise]), turned)
    assert not _spoken_for(np.stack([right, np.where(turned, 97.0, 100.0)]), turned)
    assert _spoken_for(np.stack([right, np.where(turned, 80.0, 101.0)]), turned)


def test_a_stretch_of_too_few_tried_frames_is_not_turned(turning: Turning, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reversal, "_TRIAL_FRAMES", 4)  # of a stretch of ten frames two
    found = set_upright(NAMES, turning.wrong, turning.features, PRINCIPAL, turning.folder, CROP, refine_focal=True)
    assert found is turning.wrong
