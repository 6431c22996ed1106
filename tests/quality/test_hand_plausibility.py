"""Measures of a hand against closed forms and exact meshes; every gate trips on its own corruption, none on a right hand."""

import math
from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree
from scipy.stats import chi2, norm

from holdprep.geometry.cameras import pinhole_K, project
from holdprep.geometry.raster import covered
from holdprep.hand import lbs
from holdprep.hand.joints import FINGERS, MANO21_TIP_VERTICES, WRIST_RING
from holdprep.hand.model import HandModel, ManoParams, Side, load_hand_model
from holdprep.hand.outline import MaskEdge, Outlines
from holdprep.quality.gates import judge
from holdprep.quality.hand_plausibility import (
    frame_noise_px,
    hand_measures,
    jitter_px,
    limit_excess_deg,
    limit_metrics,
    plausibility,
    shape_sigmas,
)
from holdprep.quality.self_penetration import self_penetration_mm
from holdprep.stages.common import hand_quality
from holdprep.synth.grasp import Approach, solve_grip
from holdprep.synth.objects import make_object

INDEX, MIDDLE = 1, 4  # first joints
T, SIZE = 15, (400, 360)  # as few frames as tell the noise
K = pinhole_K(500.0, 200.0, 180.0)
NO_SHAPE = torch.zeros(10, dtype=torch.float64)


# --- shape


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


# --- measures


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


# --- limits


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


# --- self-penetration


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


# --- jitter and noise


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


# --- gates


JUDGED = {
    "shape_largest",
    "shape_mahalanobis",
    "finger_breadth_min_mm",
    "finger_breadth_max_mm",
    "palm_breadth_mm",
    "hand_length_mm",
    "beyond_limits_pct",
    "self_penetration_mm",
    "mask_iou",
    "outline_explained_pct",
    "frame_noise_px",
}


@dataclass(frozen=True)
class Clip:
    """A hand's frames before a camera, its masks (T, H, W), and what may hide a part of them (H, W)."""

    model: HandModel
    params: ManoParams
    masks: np.ndarray
    hidden: np.ndarray


# degrees by which knuckle, middle and end joint of the four fingers are bent; None: a solved grip of a box
POSTURES = {"grip": None, "straight": (0, 0, 0), "relaxed": (20, 25, 15), "hook": (10, 60, 40), "fist": (50, 60, 35)}
CLEAN = [
    *(("right", "grip", 3), ("left", "hook", 1), ("right", "relaxed", 3), ("left", "relaxed", 4)),
    *(("right", "straight", 5), ("left", "straight", 6), ("right", "hook", 7), ("left", "fist", 8), ("right", "fist", 9)),
]
CORRUPTED = CLEAN[:3]


@cache
def make_clip(side: Side, posture: str, seed: int) -> Clip:
    """A hand within two standard deviations, seen from some direction, that swings and bends its fingers smoothly."""
    model = load_hand_model(side, dtype=torch.float64)
    rng = np.random.default_rng(seed)
    betas = torch.from_numpy(np.clip(rng.normal(size=10), -2, 2))
    bend = POSTURES[posture]
    if bend is None:
        grip = solve_grip(
            make_object("box"), model, betas, np.zeros(1), np.zeros(1), approach=Approach(reaches_m=(0.06,)), seed=seed
        ).params
        orient, pose = grip.global_orient.double(), grip.hand_pose.double()
    else:
        rest = torch.zeros(15, 3, dtype=torch.float64)
        rest[:12, 2] = flip(model) * torch.tensor(bend * 4, dtype=torch.float64).deg2rad()
        rest[12:] = model.hand_mean.reshape(15, 3)[12:]
        orient, pose = (
            torch.from_numpy(rng.normal(0, 0.5, (1, 3))) + torch.tensor([math.pi / 2, 0, 0]),
            (rest.flatten() - model.hand_mean)[None],
        )
    phase = (2 * math.pi / 20 * torch.arange(T, dtype=torch.float64))[:, None]
    pose = pose + 0.04 * torch.sin(phase + torch.from_numpy(rng.uniform(0, 6, 45)))
    centre = lbs.forward(model, ManoParams(orient, pose[:1], betas, torch.zeros(1, 3).double())).vertices[0].mean(dim=0)
    place = torch.tensor([0, 0, 0.45]) - centre + 0.01 * torch.cat([torch.sin(phase), torch.cos(phase), phase * 0], dim=1)
    hidden = np.zeros(SIZE[::-1], bool)
    hidden[:, 250:275] = True
    return filmed(Clip(model, ManoParams(orient.expand(T, 3), pose, betas, place), np.zeros(0), hidden))


def named(case: tuple[Side, str, int]) -> str:
    return "-".join(map(str, case[:2]))


@pytest.fixture(scope="module", params=CORRUPTED, ids=named)
def clip(request: pytest.FixtureRequest) -> Clip:
    return make_clip(*request.param)


def filmed(clip: Clip, params: ManoParams | None = None, model: HandModel | None = None) -> Clip:
    """The clip with the masks of its own hand, changed if `params` or `model` are given: the pictures agree with it, whatever it is."""
    changed = replace(clip, params=params or clip.params, model=model or clip.model)
    return replace(changed, masks=silhouettes(changed) & ~clip.hidden)


def gates_tripped(clip: Clip, masks: np.ndarray | None = None, camera: np.ndarray = K) -> set[str]:
    """Names of the gates of register that the clip's hand trips, on the clip's masks where no others are given."""
    edges = [MaskEdge.of(mask, clip.hidden) for mask in (clip.masks if masks is None else masks)]
    metrics, _ = hand_quality(clip.model, clip.params, np.ones(T, bool), camera, Outlines(edges, clip.model.faces.numpy()))
    gates = judge("register", {f"{clip.model.side}.{name}": value for name, value in metrics.items()})
    assert {gate.metric.split(".")[1] for gate in gates} == JUDGED
    return {gate.metric.split(".")[1] for gate in gates if gate.status != "pass"}


@pytest.mark.parametrize("case", CLEAN, ids=named)
def test_a_plausible_hand_trips_no_gate(case: tuple[Side, str, int]):
    assert gates_tripped(make_clip(*case)) == set()


def test_an_arm_and_a_rough_edge_of_the_mask_trip_no_gate(clip: Clip):
    """The mask goes on for an arm beyond the wrist, and its edge is 2 px off here and there."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(size=clip.masks.shape[1:]), (0, 0), 6) > 0
    rough = np.array([np.where(noise, resized(m, 2), resized(m, -2)) > 0 for m in silhouettes(clip)])
    assert gates_tripped(clip, (rough | arms(clip)) & ~clip.hidden) == set()


def test_the_shape_that_outvoted_the_prior(clip: Clip):
    """Of a straight hand. Its fingers collapse, so they meet, too."""
    straight = filmed(clip, bent(clip, torch.zeros(T, 15, 3)))
    wrong = replace(straight, params=replace(straight.params, betas=torch.tensor([-14.0, 9, -6, 0, 0, 0, 0, 0, 0, 0], dtype=torch.float64)))
    shape = {"shape_largest", "shape_mahalanobis"}
    size = {"finger_breadth_min_mm", "finger_breadth_max_mm", "palm_breadth_mm", "hand_length_mm"}
    assert gates_tripped(wrong) == shape | size | {"self_penetration_mm", "mask_iou", "outline_explained_pct"}
    assert gates_tripped(filmed(wrong)) == shape | size | {"self_penetration_mm"}  # even where the pictures agree


@pytest.mark.parametrize(
    ("betas", "gate"),
    [
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 3.5], "shape_largest"),
        ([0, 0, 0, 0, 2.7, -2.7, 2.7, -2.7, 2.7, -2.7], "shape_mahalanobis"),  # rare, though no coefficient is large
    ],
)
def test_a_rare_shape_that_its_pictures_agree_with(clip: Clip, betas: list[float], gate: str):
    """Of a straight hand, whose fingers are apart."""
    straight = bent(clip, torch.zeros(T, 15, 3))
    assert gates_tripped(filmed(clip, replace(straight, betas=torch.tensor(betas, dtype=torch.float64)))) == {gate}


def test_a_thin_finger(clip: Clip):
    assert gates_tripped(replace(clip, model=with_cylinder(clip.model, INDEX, 0.006))) == {"finger_breadth_min_mm"}


def test_a_thick_finger(clip: Clip):
    """Of a straight hand: in a grasp it would be inside its neighbour, too."""
    straight = bent(clip, torch.zeros(T, 15, 3))
    assert gates_tripped(filmed(clip, straight, with_cylinder(clip.model, INDEX, 0.030))) == {"finger_breadth_max_mm"}


def test_a_broad_palm(clip: Clip):
    palm = clip.model.v_template * torch.tensor([1.0, 1.0, 1.8])
    model = replace(clip.model, v_template=torch.lerp(clip.model.v_template, palm, clip.model.weights[:, :1]))
    assert gates_tripped(filmed(clip, model=model)) == {"palm_breadth_mm"}


@pytest.mark.parametrize(
    ("scale", "gates"), [(0.8, {"hand_length_mm"}), (0.72, {"hand_length_mm", "palm_breadth_mm"}), (1.25, {"hand_length_mm"})]
)
def test_a_small_hand_near_the_camera_or_a_large_one_far_away(clip: Clip, scale: float, gates: set[str]):
    """Its pictures are those of an average hand: only measures tell."""
    average = filmed(clip, replace(clip.params, betas=NO_SHAPE))
    sized = {name: scale * getattr(clip.model, name) for name in ("v_template", "shapedirs", "posedirs")}
    moved = replace(average.params, transl=scale * clip.params.transl)
    assert gates_tripped(replace(average, model=replace(clip.model, **sized), params=moved)) == gates


def test_a_joint_bent_backwards(clip: Clip):
    pose = rotations(clip)
    pose[:, 1] = torch.tensor([0.0, 0, flip(clip.model) * math.radians(-40)])
    assert gates_tripped(filmed(clip, bent(clip, pose))) == {"beyond_limits_pct"}


def test_fingers_through_each_other(clip: Clip):
    pose = rotations(clip)
    pose[:, 3:6] = pose[:, :3]
    pose[:, 0, 1], pose[:, 3, 1] = flip(clip.model) * 0.3, flip(clip.model) * -0.3
    assert gates_tripped(filmed(clip, bent(clip, pose))) == {"self_penetration_mm"}


def test_a_trembling_hand(clip: Clip):
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, [0.003, 0.003, 0.003], (T, 3)))
    assert gates_tripped(replace(clip, params=replace(clip.params, transl=clip.params.transl + noise))) == {"frame_noise_px"}


def test_trembling_fingers(clip: Clip):
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 0.06, (T, 45)))
    assert gates_tripped(replace(clip, params=replace(clip.params, hand_pose=clip.params.hand_pose + noise))) == {"frame_noise_px"}


def test_a_hand_beside_its_mask(clip: Clip):
    beside = K + np.array([[0, 0, 20.0], [0, 0, 0], [0, 0, 0]])
    assert gates_tripped(clip, camera=beside) == {"mask_iou", "outline_explained_pct"}


def test_a_mask_that_is_too_large(clip: Clip):
    swollen = np.array([resized(m, 17) for m in silhouettes(clip)]) & ~clip.hidden
    assert gates_tripped(clip, swollen) == {"outline_explained_pct", "mask_iou"}


def test_a_mask_without_fingers(clip: Clip):
    """What is left of the mask has the hand's edge, but the half of the hand is not in it."""
    straight = filmed(clip, bent(clip, torch.zeros(T, 15, 3)))
    drawn = silhouettes(straight)
    palm = np.array([covered(px, palm_faces(clip.model), SIZE) for px in pixels(straight)])
    assert gates_tripped(straight, drawn & palm & ~straight.hidden) == {"mask_iou"}


def test_without_masks_only_the_hand_itself_is_measured(clip: Clip):
    metrics, curves = hand_quality(clip.model, clip.params, np.ones(T, bool), K, None)
    missing = {"mask_iou", "outline_explained_pct"}
    assert JUDGED - set(metrics) == missing and not missing & set(curves)


def test_frames_that_are_not_valid_are_left_out(clip: Clip):
    is_valid = np.ones(T, bool)
    is_valid[3:6] = False
    pose = clip.params.hand_pose.clone()
    pose[3:6] = math.nan
    metrics, curves = plausibility(clip.model, replace(clip.params, hand_pose=pose), is_valid)
    assert all(math.isfinite(value) for value in metrics.values())
    assert all((np.isnan(curve) == ~is_valid).all() for curve in curves.values())


def test_without_a_valid_frame_nothing_is_known(clip: Clip):
    metrics, _ = plausibility(clip.model, replace(clip.params, betas=clip.params.betas.expand(T, 10)), np.zeros(T, bool))
    assert math.isnan(metrics["self_penetration_mm"]) and math.isnan(metrics["beyond_limits_pct"]) and math.isnan(metrics["shape_largest"])


# --- helpers


def posed(model: HandModel, pose: torch.Tensor) -> ManoParams:
    """Joint rotations (T, 15, 3), axis-angle from the flat hand, as parameters."""
    still = torch.zeros(len(pose), 3, dtype=torch.float64)
    return ManoParams(still, pose.flatten(1) - model.hand_mean, NO_SHAPE, still)


def flip(model: HandModel) -> int:
    """Sign of a bend about z that closes a hand of this side."""
    return 1 if model.side == "right" else -1


def rotations(clip: Clip) -> torch.Tensor:
    """(T, 15, 3) axis-angle of the clip's joints from the flat hand."""
    return (clip.params.hand_pose + clip.model.hand_mean).reshape(T, 15, 3).clone()


def bent(clip: Clip, pose: torch.Tensor) -> ManoParams:
    """The clip's parameters with other joint rotations (T, 15, 3) from the flat hand."""
    return replace(clip.params, hand_pose=pose.flatten(1) - clip.model.hand_mean)


def swing_px(frames: int, period: float, amplitude_px: float) -> np.ndarray:
    """(frames, 40, 2) points that swing together, each coordinate with its own phase."""
    phase = np.random.default_rng(0).uniform(0, 2 * np.pi, (1, 40, 2))
    return amplitude_px * np.sin(2 * np.pi * np.arange(frames)[:, None, None] / period + phase)


def pixels(clip: Clip) -> np.ndarray:
    """(T, 778, 2) px of the clip's hand."""
    return project(lbs.forward(clip.model, clip.params).vertices.numpy(), K)


def silhouettes(clip: Clip) -> np.ndarray:
    """(T, H, W) bool of the clip's hand."""
    return np.array([covered(px, clip.model.faces.numpy(), SIZE) for px in pixels(clip)])


def arms(clip: Clip) -> np.ndarray:
    """(T, H, W) bool: a forearm as broad as the wrist, from the wrist away from the hand for 80 px."""
    drawn = []
    for px in pixels(clip):
        ring = px[list(WRIST_RING)]
        away = ring.mean(axis=0) - px.mean(axis=0)
        away *= 80 / np.linalg.norm(away)
        hull = cv2.convexHull(np.concatenate([ring, ring + away]).astype(np.float32))
        drawn.append(cv2.fillConvexPoly(np.zeros(SIZE[::-1], np.uint8), hull.round().astype(np.int32), 1) > 0)
    return np.array(drawn)


def resized(mask: np.ndarray, by_px: int) -> np.ndarray:
    """A mask (H, W) bool whose edge is moved outwards by so many pixels, inwards if negative."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(by_px) + 1,) * 2)
    return (cv2.dilate if by_px > 0 else cv2.erode)(mask.astype(np.uint8), kernel) > 0


def palm_faces(model: HandModel) -> np.ndarray:
    """(F, 3) faces without those of ring, middle and little finger."""
    fingers = [joint for finger in FINGERS[1:4] for joint in finger[:3]]
    own = (model.weights[:, fingers].sum(dim=1) < 0.5).numpy()
    faces = model.faces.numpy()
    return faces[own[faces].all(axis=1)]


def with_cylinder(model: HandModel, first: int, diameter_m: float) -> HandModel:
    """The model with one finger's outer two bones made a cylinder about its straight axis, without shape directions there."""
    finger = next(f for f in FINGERS if f[0] == first)
    joints = model.J_regressor @ model.v_template
    start, tip = joints[finger[1]], model.v_template[MANO21_TIP_VERTICES[finger[3] - 16]]
    axis = torch.nn.functional.normalize(tip - start, dim=0)
    own = model.weights[:, list(finger[1:3])].sum(dim=1) > 0.5
    along = ((model.v_template - start) @ axis)[:, None]
    aside = model.v_template - start - along * axis
    round_ = start + along * axis + diameter_m / 2 * torch.nn.functional.normalize(aside, dim=1)
    return replace(
        model,
        v_template=torch.where(own[:, None], round_, model.v_template),
        shapedirs=torch.where(own[:, None, None], 0.0, model.shapedirs),
        posedirs=torch.where(own[:, None, None], 0.0, model.posedirs),
    )


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
