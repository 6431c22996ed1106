"""Frames solved anew against a model whose points are exact: a rendered box, its keypoints and matches made by hand."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from holdprep.geometry.cameras import project
from holdprep.geometry.rigid import apply, from_rt, rotation_angle_deg
from holdprep.object.colmap import Crop, Features, Model, write_crops
from holdprep.object.resection import resect
from tests.synthetic import box_sequence

T = 12
NAMES = [f"{t:02d}" for t in range(T)]
SIZE = np.array([0.10, 0.08, 0.07])
LOST = 6


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray, Model, Features, Crop, Path]:
    """True poses, K, the true model without frame LOST, its features: that frame matches no other; crop and folder of the pictures."""
    images, masks, K, poses = box_sequence(T, degrees=40.0, size=tuple(SIZE))
    rng = np.random.default_rng(0)
    axis, side = rng.integers(0, 3, 240), rng.choice([-0.5, 0.5], 240)
    points = rng.uniform(-0.45, 0.45, (240, 3)) * SIZE
    points[np.arange(240), axis] = side * SIZE[axis]
    normals = np.eye(3)[axis] * np.sign(side)[:, None]
    px, index = {}, {}
    for name, pose in zip(NAMES, poses, strict=True):
        cam = apply(pose, points)
        px[name] = project(cam, K) + rng.normal(0, 0.3, (240, 2))
        index[name] = np.where(((normals @ pose[:3, :3].T) * cam).sum(axis=1) < -0.2 * np.linalg.norm(cam, axis=1), np.arange(240), -1)
    matches: dict[str, dict[str, np.ndarray]] = {name: {} for name in NAMES}
    for a, b in combinations([n for n in NAMES if n != NAMES[LOST]], 2):
        both = np.flatnonzero((index[a] >= 0) & (index[b] >= 0))
        matches[a][b] = matches[b][a] = np.stack([both, both], axis=1)
    folder, crop = tmp_path_factory.mktemp("crops"), Crop.around(masks, 2.0)
    write_crops(folder, crop, images, masks, NAMES)
    known = [t for t in range(T) if t != LOST]
    model = Model(
        0,
        float(K[0, 0]),
        np.zeros(0),
        {NAMES[t]: poses[t] for t in known},
        points,
        np.zeros((240, 3), np.uint8),
        {NAMES[t]: index[NAMES[t]] for t in known},
        folder,
    )
    return poses, K, model, Features(px, matches), crop, folder


def angles(found: dict, poses: np.ndarray) -> dict[int, float]:
    return {t: float(rotation_angle_deg(resection.T_cam_obj[:3, :3], poses[t, :3, :3])) for t, resection in found.items()}


def test_a_frame_without_matches_is_reached_by_optical_flow(scene: tuple) -> None:
    poses, K, model, features, crop, folder = scene
    found = resect(NAMES, model, features, (K[0, 2], K[1, 2]), folder, crop)
    assert sorted(found) == list(range(T))
    off = angles(found, poses)
    assert off.pop(LOST) < 1.0
    assert max(off.values()) < 0.3
    assert found[LOST].num_inliers > 30
    assert found[0].num_inliers > 0.9 * (model.point_of_keypoint[NAMES[0]] >= 0).sum()


def test_frames_turned_over_are_turned_back(scene: tuple) -> None:
    poses, K, model, features, crop, folder = scene
    over = from_rt(Rotation.from_euler("xy", (20, 60), degrees=True).as_matrix(), np.zeros(3))
    wrong = {NAMES[t]: poses[t] @ over for t in (3, 4, 11)}
    turned = replace(model, poses=model.poses | wrong)
    off = angles(resect(NAMES, turned, features, (K[0, 2], K[1, 2]), folder, crop), poses)
    assert max(off[t] for t in (3, 4, 11)) < 0.3


def test_frames_out_of_reach_or_unknown_are_left_out(scene: tuple) -> None:
    _, K, model, features, crop, folder = scene
    few = {name: model.poses[name] for name in NAMES[:3]}
    alone = Model(
        0, model.focal_px, model.distortion, few, model.points, model.colors, {n: model.point_of_keypoint[n] for n in few}, folder
    )
    unmatched = Features(features.keypoints_px, {n: {} for n in NAMES[:9]})
    unmatched.matches.update({n: features.matches[n] for n in NAMES[:3]})
    found = resect(NAMES, alone, unmatched, (K[0, 2], K[1, 2]), folder, crop)
    assert {0, 1, 2} <= set(found)
    assert not set(found) & {9, 10, 11}  # no picture of them is known
