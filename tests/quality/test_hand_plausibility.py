"""Every gate of a hand trips on its own corruption, none on a right hand."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from holdprep.geometry.raster import covered
from holdprep.hand.model import Side
from holdprep.hand.outline import MaskEdge, Outlines
from holdprep.quality.gates import judge
from holdprep.quality.hand_plausibility import (
    plausibility,
)
from holdprep.stages.common import hand_quality
from tests.quality.hands import (
    INDEX,
    NO_SHAPE,
    SIZE,
    Clip,
    K,
    T,
    arms,
    bent,
    filmed,
    flip,
    make_clip,
    palm_faces,
    pixels,
    resized,
    rotations,
    silhouettes,
    with_cylinder,
)

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


CLEAN = [
    *(("right", "grip", 3), ("left", "hook", 1), ("right", "relaxed", 3), ("left", "relaxed", 4)),
    *(("right", "straight", 5), ("left", "straight", 6), ("right", "hook", 7), ("left", "fist", 8), ("right", "fist", 9)),
]
CORRUPTED = CLEAN[:3]


def named(case: tuple[Side, str, int]) -> str:
    return "-".join(map(str, case[:2]))


@pytest.fixture(scope="module", params=CORRUPTED, ids=named)
def clip(request: pytest.FixtureRequest) -> Clip:
    return make_clip(*request.param)


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
