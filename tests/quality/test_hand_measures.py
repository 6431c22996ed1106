"""Measures of a hand against closed forms and exact meshes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree
from scipy.stats import chi2, norm

from holdprep.hand import lbs
from holdprep.hand.joints import FINGERS
from holdprep.hand.model import HandModel, Side, load_hand_model
from holdprep.quality.hand_plausibility import (
    frame_noise_px,
    hand_measures,
    jitter_px,
    limit_excess_deg,
    limit_metrics,
    shape_sigmas,
)
from holdprep.quality.self_penetration import self_penetration_mm
from tests.quality.hands import INDEX, NO_SHAPE, flip, posed, with_cylinder


def test_an_average_hand_is_no_outlier_and_rarity_is_that_of_one_gaussian_variable():
    for squared in (1.0, 10.0, 26.9, 60.0, 300.0):
        betas = np.full(10, math.sqrt(squared / 10))
        expected = norm.isf(chi2.sf(squared, 10) / 2)
        assert shape_sigmas(betas)["shape_mahalanobis"] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_shape_beyond_floating_point_is_still_measured():
    found = shape_sigmas(np.array([0, 1000.0, *[0] * 8]))
    assert found["shape_largest"] == 1000 and 990 < found["shape_mahalanobis"] < 1000


def test_the_worst_frame_counts_where_each_has_its_own_shape():
    betas = np.zeros((5, 10))
    betas[3, 7] = -6
    assert shape_sigmas(betas) == shape_sigmas(betas[3])
    assert shape_sigmas(betas)["shape_largest"] == 6


@pytest.mark.parametrize("side", ["right", "left"])
def test_measures_scale_with_the_hand(side: Side):
    model = load_hand_model(side, dtype=torch.float64)
    plain, large = hand_measures(model, NO_SHAPE), hand_measures(replace(model, v_template=1.1 * model.v_template), NO_SHAPE)
    for name, value in plain.items():
        assert large[name] == pytest.approx(1.1 * value)


def test_a_finger_made_a_cylinder_has_its_diameter():
    model = load_hand_model("right", dtype=torch.float64)
    for diameter_mm in (7.0, 30.0):
        found = hand_measures(with_cylinder(model, INDEX, diameter_mm / 1e3), NO_SHAPE)
        name = "finger_breadth_min_mm" if diameter_mm < 10 else "finger_breadth_max_mm"
        assert found[name] == pytest.approx(diameter_mm, rel=0.06)  # a ring of a dozen points is inside its circle


def test_the_stand_in_is_an_average_adult():
    found = hand_measures(load_hand_model("right"), NO_SHAPE)
    assert 10 < found["finger_breadth_min_mm"] < 14 and 18 < found["finger_breadth_max_mm"] < 23
    assert 75 < found["palm_breadth_mm"] < 92 and 170 < found["hand_length_mm"] < 195
    assert 50 < found["finger_length_min_mm"] < found["finger_length_max_mm"] < 105


def test_measures_agree_with_a_plane_through_the_shaped_mesh():
    """A second method: trimesh cuts the shaped finger at its joint."""
    model = load_hand_model("right", dtype=torch.float64)
    betas = torch.tensor([1.5, -1.0, 0.5, *[0.0] * 7], dtype=torch.float64)
    shaped = (model.v_template + model.shapedirs @ betas).numpy()
    joints, little = model.J_regressor.numpy() @ shaped, FINGERS[2]
    own = (model.weights[:, list(little[:3])].sum(dim=1) > 0.5).numpy()
    faces = model.faces.numpy()
    finger = trimesh.Trimesh(shaped, faces[own[faces].all(axis=1)], process=False)
    axis = shaped[671] - joints[little[1]]
    axis /= np.linalg.norm(axis)
    ring = trimesh.intersections.mesh_plane(finger, axis, joints[little[2]]).reshape(-1, 3)
    directions = np.stack([np.cos(a) * np.array([0, 1.0, 0]) + np.sin(a) * np.cross(axis, [0, 1.0, 0]) for a in np.linspace(0, np.pi, 90)])
    narrowest = 1e3 * np.ptp(ring @ directions.T, axis=0).min()
    assert hand_measures(model, betas)["finger_breadth_min_mm"] == pytest.approx(narrowest, abs=0.5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_joint_bent_backwards_is_beyond_its_limit(side: Side):
    model = load_hand_model(side, dtype=torch.float64)
    pose = torch.zeros(20, 15, 3, dtype=torch.float64)
    pose[:4, 1, 2] = flip(model) * math.radians(-40)  # the index finger's middle joint ends at -15 degrees
    pose[4, 1, 2] = flip(model) * math.radians(-18)  # a soft limit gives way
    excess = limit_excess_deg(side, lbs.to_state(model, posed(model, pose)).rotations)
    np.testing.assert_allclose(excess[:6], [25, 25, 25, 25, 3, 0], atol=1e-6)
    assert limit_metrics(excess)["beyond_limits_pct"] == pytest.approx(20)
    assert limit_metrics(excess)["limit_excess_deg"] == pytest.approx(25)


def test_flat_mean_and_open_hands_do_not_touch_themselves():
    for side in ("right", "left"):
        model = load_hand_model(side, dtype=torch.float64)
        pose = torch.zeros(3, 15, 3, dtype=torch.float64)
        pose[1] = model.hand_mean.reshape(15, 3)
        pose[2, :12, 2] = flip(model) * 0.5
        assert self_penetration_mm(model, lbs.forward(model, posed(model, pose)).vertices).max() < 0.5


def test_depth_is_that_of_the_closed_fingers():
    """Random poses, against the deepest point of one finger's surface inside the other one's closed mesh."""
    model = load_hand_model("right", dtype=torch.float64)
    rng = np.random.default_rng(1)
    pose = rng.normal(size=(40, 15, 3)) * [0.1, 0.25, 0.3]
    pose[:, :12, 2] += 0.4  # not so far that a fingertip meets the palm, which is not a part here
    pose[:, 12:] = 0  # the thumb stays away
    meshes = lbs.forward(model, posed(model, torch.from_numpy(pose))).vertices
    exact = np.array([exact_depth_mm(model, v) for v in meshes.numpy()])
    found = self_penetration_mm(model, meshes)
    deep = exact > 1.5
    assert deep.sum() >= 6
    assert (found - exact)[deep].min() > -1  # more where a finger is past the other's axis: it then has farther to go than it is deep
    assert np.abs(found - exact)[deep & (exact < 6)].mean() < 1.5
    assert found[exact > 6].min() > 6 and found[exact == 0].max() < 2


def test_a_fingertip_in_the_palm_is_seen():
    model = load_hand_model("right", dtype=torch.float64)
    pose = torch.zeros(2, 15, 3, dtype=torch.float64)
    pose[0, 3:6, 2] = torch.tensor([60.0, 80.0, 40.0]).deg2rad()
    pose[1, 3:6, 2] = torch.tensor([100.0, 120.0, 100.0]).deg2rad()  # as far as the limits let it
    loose, tight = self_penetration_mm(model, lbs.forward(model, posed(model, pose)).vertices)
    assert loose < 1.0 and tight > 4.0


def test_no_frames_have_no_depth():
    model = load_hand_model("right")
    assert self_penetration_mm(model, torch.zeros(0, 778, 3)).shape == (0,)


def test_white_noise_keeps_its_share_and_smooth_motion_is_none():
    rng = np.random.default_rng(0)
    t = np.arange(400)
    swing = 100 * np.sin(2 * np.pi * t / 60)[:, None, None] * np.ones((1, 50, 2))
    smooth, _ = jitter_px(swing, np.ones(400, bool))
    assert smooth < 0.2
    noisy, curve = jitter_px(swing + rng.normal(0, 2.0, swing.shape), np.ones(400, bool))
    centre = 89 / 429  # of the filter's coefficients: Savitzky and Golay 1964, table I
    assert noisy == pytest.approx(2.0 * math.sqrt(2 * (1 - centre)), rel=0.02)
    assert np.isnan(curve[[0, 4, 395, 399]]).all() and np.isfinite(curve[5:395]).all()


def test_cubic_motion_leaves_nothing_and_gaps_are_not_bridged():
    t = np.arange(60.0)[:, None, None]
    points = 1e-3 * t**3 - 0.1 * t**2 + t + np.array([[[0.0, 10.0], [5.0, 3.0]]])
    is_valid = np.ones(60, bool)
    is_valid[[20, 31]] = False  # the ten frames between are too short a stretch
    points[20] = np.nan
    points[31] += 500
    rms, curve = jitter_px(points, is_valid)
    assert rms < 1e-9
    assert np.isfinite(curve).nonzero()[0].tolist() == [*range(5, 15), *range(37, 55)]
    assert math.isnan(jitter_px(points[21:31], np.ones(10, bool))[0])
    assert frame_noise_px(points, is_valid) < 0.01


@pytest.mark.parametrize("period", [8, 12, 20, 60])
def test_a_smooth_fast_swing_has_jitter_but_no_noise(period: int):
    """It passes the high-pass, which is why that has no gate."""
    points = swing_px(80, period, 60.0)
    assert frame_noise_px(points, np.ones(80, bool)) < 0.05
    assert period > 12 or jitter_px(points, np.ones(80, bool))[0] > 4


@pytest.mark.parametrize("noise_px", [0.3, 1.0, 4.0])
def test_white_noise_is_measured_on_a_hand_at_rest_and_in_slow_motion(noise_px: float):
    noise = np.random.default_rng(3).normal(0, noise_px, (120, 40, 2))
    for still in (np.zeros((120, 40, 2)), swing_px(120, 60, 20.0)):
        assert frame_noise_px(still + noise, np.ones(120, bool)) == pytest.approx(noise_px, rel=0.1)


def test_fast_motion_hides_noise_and_never_adds_any():
    noise = np.random.default_rng(4).normal(0, 1.0, (120, 40, 2))
    found = [frame_noise_px(swing_px(120, 12, amplitude) + noise, np.ones(120, bool)) for amplitude in (0.0, 4.0, 8.0, 60.0)]
    assert found == sorted(found, reverse=True) and found[0] < 1.1 and found[3] < 0.05


def test_noise_ignores_frames_that_are_not_valid_and_needs_fifteen_in_a_row():
    points = swing_px(60, 30, 20.0) + np.random.default_rng(5).normal(0, 1.0, (60, 40, 2))
    is_valid = np.ones(60, bool)
    is_valid[[20, 40]] = False
    points[[20, 40]] += 300
    assert frame_noise_px(points, is_valid) == pytest.approx(1.0, rel=0.1)
    assert math.isfinite(frame_noise_px(points[:15], np.ones(15, bool)))
    assert math.isnan(frame_noise_px(points[:14], np.ones(14, bool)))


def swing_px(frames: int, period: float, amplitude_px: float) -> np.ndarray:
    """(frames, 40, 2) points that swing together, each coordinate with its own phase."""
    phase = np.random.default_rng(0).uniform(0, 2 * np.pi, (1, 40, 2))
    return amplitude_px * np.sin(2 * np.pi * np.arange(frames)[:, None, None] / period + phase)


def exact_depth_mm(model: HandModel, vertices: np.ndarray) -> float:
    """How deep the deepest point of any finger's skin (the thumb aside) lies in another closed finger."""
    return max(depth_mm(model, vertices, a, b) for a in range(4) for b in range(4) if a != b)


def depth_mm(model: HandModel, vertices: np.ndarray, inner: int, outer: int) -> float:
    """How deep the deepest point of finger `inner`'s skin lies in the closed finger `outer`, 0 where none does."""
    faces = {k: finger_faces(model, k) for k in (inner, outer)}
    skins = [vertices[np.unique(f)] for f in faces.values()]
    if cKDTree(skins[0]).query(skins[1])[0].min() > 0.008:  # the longest edge: neither has a point in the other
        return 0.0
    skin = trimesh.Trimesh(vertices, faces[inner], process=False).subdivide()
    points = skin.vertices[np.unique(skin.faces)]
    open_mesh = trimesh.Trimesh(vertices, faces[outer], process=False)
    edges = {tuple(e) for e in open_mesh.edges.tolist()}
    rim = np.array([(a, b) for a, b in edges if (b, a) not in edges])
    lid = np.column_stack([rim[:, ::-1], np.full(len(rim), len(vertices))])
    inside = winding(points, np.vstack([vertices, vertices[np.unique(rim)].mean(axis=0)]), np.vstack([faces[outer], lid])) > 0.5
    if not inside.any():
        return 0.0
    return 1e3 * float(trimesh.proximity.closest_point_naive(open_mesh, points[inside])[1].max())


def finger_faces(model: HandModel, number: int) -> np.ndarray:
    own = (model.weights[:, list(FINGERS[number][:3])].sum(dim=1) > 0.5).numpy()
    faces = model.faces.numpy()
    return faces[own[faces].all(axis=1)]


def winding(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(P,) winding numbers of points in a closed mesh: solid angles of its faces (Van Oosterom and Strackee 1983) over 4 pi."""
    a, b, c = (vertices[faces[:, k]][None] - points[:, None] for k in range(3))
    la, lb, lc = (np.linalg.norm(x, axis=-1) for x in (a, b, c))
    across = (a * np.cross(b, c)).sum(axis=-1)
    along = la * lb * lc + (a * b).sum(axis=-1) * lc + (b * c).sum(axis=-1) * la + (c * a).sum(axis=-1) * lb
    return np.arctan2(across, along).sum(axis=1) / (2 * np.pi)
