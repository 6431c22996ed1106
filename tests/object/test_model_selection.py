"""Model selection by matches: a rotating box with synthetic keypoints and matches, without images."""

from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from holdprep.geometry.cameras import pinhole_K, project
from holdprep.geometry.rigid import apply, from_rt, rotation_angle_deg
from holdprep.object.colmap import Features, Model
from holdprep.object.model_selection import contested_frames, rotation_agreement, score_models, select_per_frame, viterbi_path
from holdprep.object.single_view import fit_plane, flip_pose

T, N = 16, 60
NAMES = [f"{t:02d}" for t in range(T)]
K = pinhole_K(600.0, 640, 480)
PRINCIPAL = (float(K[0, 2]), float(K[1, 2]))
FLIPPED = range(5, 9)


@pytest.fixture(scope="module")
def poses() -> np.ndarray:
    R = Rotation.from_rotvec(np.radians(6.0 * np.arange(T) - 5)[:, None] * [0.1, 1.0, 0.2]).as_matrix()
    return from_rt(R, np.tile([0.02, -0.01, 0.6], (T, 1)))


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.05, 0.05, (N, 3)) * [1.0, 1.0, 0.3]


@pytest.fixture(scope="module")
def features(poses: np.ndarray, points: np.ndarray) -> Features:
    """Every point is visible in every frame, keypoint k is point k, all frames are matched."""
    rng = np.random.default_rng(1)
    px = {name: project(apply(pose, points), K) + rng.normal(0, 0.3, (N, 2)) for name, pose in zip(NAMES, poses, strict=True)}
    pairs = np.stack([np.arange(N)] * 2, axis=1)
    matches: dict[str, dict[str, np.ndarray]] = {name: {} for name in NAMES}
    for a, b in combinations(NAMES, 2):
        matches[a][b] = matches[b][a] = pairs
    return Features(px, matches)


def model(poses: np.ndarray, points: np.ndarray, frames: range = range(T), number: int = 0) -> Model:
    return Model(
        number,
        600.0,
        np.zeros(1),
        {NAMES[t]: poses[t] for t in frames},
        points,
        np.zeros((len(points), 3), np.uint8),
        {NAMES[t]: np.arange(N) for t in frames},
        Path(),
    )


def moved(poses: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same scene in another object frame and scale."""
    scale, R, shift = 3.0, Rotation.from_euler("xyz", (40, -70, 15), degrees=True).as_matrix(), np.array([0.3, -1.0, 0.2])
    R_cam = poses[:, :3, :3] @ R.T
    return from_rt(R_cam, scale * poses[:, :3, 3] - R_cam @ shift), scale * points @ R.T + shift


@pytest.fixture(scope="module")
def flipped(poses: np.ndarray, points: np.ndarray) -> np.ndarray:
    wrong = poses.copy()
    for t in FLIPPED:
        wrong[t] = flip_pose(poses[t], fit_plane(points))
    return wrong


def test_flipped_frames_are_taken_from_the_correct_model(poses, points, features, flipped) -> None:
    # the other model is correct there but wrong elsewhere, has another scale, and lacks a frame
    other = poses.copy()
    other[12:] = [flip_pose(pose, fit_plane(points)) for pose in poses[12:]]
    scores = score_models(NAMES, [model(flipped, points), model(*moved(other, points), range(1, T))], features, PRINCIPAL)
    assert scores.best == 0
    selected = select_per_frame(scores)
    assert selected.tolist() == [1 if t in FLIPPED else 0 for t in range(T)]
    together = scores.poses[selected, np.arange(T)]
    assert together == pytest.approx(poses, abs=1e-6)
    assert not contested_frames(scores, 0)[12:].any()


def test_the_cost_of_the_correct_model_is_that_of_its_noise(poses, points, features, flipped) -> None:
    scores = score_models(NAMES, [model(flipped, points), model(poses, points)], features, PRINCIPAL)
    assert scores.best == 1
    assert scores.cost[1].mean() == pytest.approx(N, rel=0.25)  # half a squared standard deviation per coordinate
    assert scores.cost[0, list(FLIPPED)].min() > 2 * scores.cost[1, list(FLIPPED)].max()
    assert not contested_frames(scores, 1).any()
    assert np.flatnonzero(contested_frames(scores, 0)).tolist() == list(FLIPPED)


def test_an_overfitted_model_of_few_frames_does_not_set_the_noise(poses, points, features) -> None:
    exact = features.keypoints_px | {NAMES[t]: project(apply(poses[t], points), K) + 1e-3 for t in range(2)}
    pair = Features(exact, features.matches)
    alone = score_models(NAMES, [model(poses, points)], pair, PRINCIPAL)
    beside = score_models(NAMES, [model(poses, points), model(poses, points, range(2))], pair, PRINCIPAL)
    assert beside.cost[0] == pytest.approx(alone.cost[0])


def test_a_competing_pose_with_equal_match_cost_is_contested(poses, points, features) -> None:
    # if no keypoint distinguishes the sides, a rotation by 180 degrees fits equally well
    half_turn = from_rt(Rotation.from_euler("y", 180, degrees=True).as_matrix(), np.zeros(3))
    both = np.concatenate([points, points @ half_turn[:3, :3].T])
    rotated = poses.copy()
    rotated[8:] = poses[8:] @ half_turn
    second = model(rotated, both)
    for t in range(8, T):
        second.point_of_keypoint[NAMES[t]] = np.arange(N) + N
    apart = {name: {o: p for o, p in pairs.items() if (int(o) < 8) == (int(name) < 8)} for name, pairs in features.matches.items()}
    scores = score_models(NAMES, [model(poses, both), second], Features(features.keypoints_px, apart), PRINCIPAL)
    assert contested_frames(scores, 0).sum() == 8
    assert rotation_agreement(model(poses, both), second) == pytest.approx(0.5)


def test_frames_without_a_pose_have_outlier_cost(poses, points, features) -> None:
    few = model(poses, points, range(0, 10))
    scores = score_models(NAMES, [few], features, PRINCIPAL)
    assert scores.cost[0, 12] == pytest.approx(4.5 * N)
    assert select_per_frame(scores).tolist() == [0] * 10 + [-1] * 6


def test_viterbi_finds_the_cheapest_of_all_paths() -> None:
    rng = np.random.default_rng(2)
    times = np.array([0, 1, 2, 5, 6])
    counts = (2, 3, 1, 3, 2)
    poses = [from_rt(Rotation.from_rotvec(rng.normal(0, 0.4, (n, 3))).as_matrix(), np.zeros((n, 3))) for n in counts]
    costs = [rng.uniform(0, 6, n) for n in counts]

    def cost(path: tuple[int, ...]) -> float:
        total = sum(costs[i][p] for i, p in enumerate(path))
        for i in range(1, len(path)):
            angle = float(rotation_angle_deg(poses[i - 1][path[i - 1], :3, :3], poses[i][path[i], :3, :3]))
            total += min((angle / 10) ** 2 / 2 / (times[i] - times[i - 1]), 20.0)
        return total

    every = list(product(*map(range, counts)))
    assert tuple(viterbi_path(times, poses, costs)) == min(every, key=cost)
    assert viterbi_path(np.zeros(0, int), [], []) == []
