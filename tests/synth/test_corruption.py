"""Every knob moves what it should, by as much as it says, and nothing else."""

from pathlib import Path

import numpy as np
import pytest

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from holdprep.geometry.rigid import apply
from holdprep.quality.truth import GroundTruth
from holdprep.synth import corruption
from holdprep.synth.corruption import HandErrors
from tests.running import run
from tests.synthetic import RIGID_GRASP, SyntheticSequence, make_sequence, truth_of, write_truth

FRAMES = 20
TRUTH = ("seq=s", "hand=truth", "segmenter=truth", "object_pose=truth", "on_fail=warn", RIGID_GRASP)


@pytest.fixture(scope="module")
def scene() -> SyntheticSequence:
    return make_sequence(("right",), frames=FRAMES, degrees=140)


@pytest.fixture(scope="module")
def truth(scene: SyntheticSequence) -> GroundTruth:
    return truth_of(scene)


@pytest.fixture(scope="module")
def root(scene: SyntheticSequence, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truth")
    write_truth(scene, folder / "s")
    return folder


def evaluate(root: Path, *knobs: str, align: bool = False) -> dict[str, float]:
    """What stage=evaluate says when each stage has the truth but for `knobs`."""
    for stage in ("segment", "hand_pose", "object_pose", "register", *(["align"] if align else [])):
        run(root, root / "out", f"stage={stage}", *TRUTH, *knobs)
    return run(root, root / "out", "stage=evaluate", *TRUTH, *knobs)["evaluate"]["metrics"]


@pytest.fixture(scope="module")
def clean(root: Path) -> dict[str, float]:
    return evaluate(root)


HANDS = {"right.mpjpe_mm", "right.mpvpe_mm", "right.accel_error_mm", "right.filled_mpjpe_mm"}
SHAPE = {"right.root_relative_mpjpe_mm", "right.pa_mpjpe_mm"}
MASKS = {f"{entity}.{name}" for entity in ("right", "object") for name in ("mask_iou", "contour_f")}
CLOUD = {
    "size_error_pct",
    "accuracy_mm",
    "completeness_mm",
    "chamfer_mm",
    "recall_5mm_pct",
    "fscore_5mm_pct",
    "recall_10mm_pct",
    "fscore_10mm_pct",
}
# what follows from a smaller mask: points of the object's rim are not seen, so its cloud covers less
SEEN = CLOUD | {"scale_error_pct", "scale_error_sd_pct", "precision_5mm_pct", "precision_10mm_pct"}
ADD = {"add_mm", "add_s_mm", "translation_error_mm", "filled_rotation_error_deg_median"}


def test_the_truth_is_found_again(clean: dict[str, float]):
    assert clean["right.mpjpe_mm"] < 1.0
    assert clean["rotation_error_deg_median"] < 0.01
    assert clean["registered_pct"] == 100
    assert clean["focal_error_pct"] == 0
    assert clean["object.mask_iou"] == clean["right.mask_iou"] == 1
    assert clean["precision_5mm_pct"] > 99


@pytest.mark.parametrize(
    ("knob", "moved", "by_at_least", "may_move"),
    [
        ("hand.size_error_pct=5", "right.root_relative_mpjpe_mm", 1.5, HANDS | SHAPE),
        ("hand.drop_pct=40", "right.filled_mpjpe_mm", 0.0, HANDS | SHAPE),
        ("segmenter.erode_px=4", "object.mask_iou", 0.05, MASKS | SEEN | ADD | HANDS | SHAPE),
        ("segmenter.dilate_px=4", "object.mask_iou", 0.05, MASKS | SEEN | ADD | HANDS | SHAPE),
        ("segmenter.leak_pct=20", "object.mask_iou", 0.05, MASKS | SEEN | ADD | HANDS | SHAPE),
        ("object_pose.drop_pct=40", "registered_pct", 30.0, ADD | SEEN | {"registered_pct"}),
        ("object_pose.focal_error_pct=5", "focal_error_pct", 4.9, ADD | SEEN | HANDS | SHAPE | {"focal_error_pct"}),
    ],
)
def test_a_knob_moves_its_metric_and_no_other(
    root: Path, clean: dict[str, float], knob: str, moved: str, by_at_least: float, may_move: set[str]
):
    """The hand follows its mask: it is fitted to the outline."""
    found = evaluate(root, knob)
    assert abs(found[moved] - clean.get(moved, 0.0)) >= by_at_least
    others = (clean.keys() | found.keys()) - may_move
    for name in others:
        assert found[name] == pytest.approx(clean[name], rel=0.02, abs=0.02), name


def test_depth_noise_of_meshes_is_undone_by_their_keypoints(root: Path):
    """Meshes that are 3 % too near or too far, 10 mm and more, are placed by where their joints are seen."""
    assert evaluate(root, "hand.depth_noise_pct=3")["right.mpjpe_mm"] < 1.0


def test_keypoint_noise_shows_in_the_alignment_of_the_hand(root: Path):
    clean, noisy = (evaluate(root, f"hand.noise_px={px}", align=True) for px in (0, 8))
    assert noisy["right.mrrpe_mm"] > clean["right.mrrpe_mm"] + 0.5
    assert noisy["right.mpjpe_mm"] > clean["right.mpjpe_mm"] + 0.5
    for name in (*MASKS, "registered_pct", "focal_error_pct", "rotation_error_deg_median"):
        assert noisy[name] == pytest.approx(clean[name], abs=0.02), name


def test_swapped_hands_are_the_other_hand(truth: GroundTruth):
    track = corruption.hand_track(truth, truth.names, HandErrors(swap=True), seed=0)
    assert set(track.vertices_m) == {"left"}
    np.testing.assert_array_equal(track.vertices_m["left"], truth.hands["right"].vertices_m)


def test_noise_has_the_size_that_was_asked_for(truth: GroundTruth):
    track = corruption.hand_track(truth, truth.names, HandErrors(noise_px=5, depth_noise_pct=3, size_error_pct=4), seed=0)
    joints = truth.hands["right"].joints_m
    assert joints is not None
    assert (track.j2d_px["right"] - project(joints, truth.K)).std() == pytest.approx(5, rel=0.1)
    vertices = truth.hands["right"].vertices_m
    assert vertices is not None
    rest = track.vertices_m["right"] - 1.04 * vertices  # the same for all vertices of a frame, along the wrist's ray
    assert np.ptp(rest, axis=1).max() < 1e-9
    share = (rest[:, 0] / joints[:, 0])[:, 2]
    assert share.std() == pytest.approx(0.03, rel=0.4)


@pytest.mark.parametrize("how", ["random", "bursts", "ends"])
def test_frames_are_dropped_where_told(how: corruption.Drop):
    lost = corruption.dropped_frames(60, 30, how, np.random.default_rng(0))
    assert lost.sum() == 18
    runs = np.flatnonzero(np.diff(np.concatenate([[0], lost, [0]]).astype(int))).reshape(-1, 2)
    lengths = (runs[:, 1] - runs[:, 0]).tolist()
    if how == "ends":
        assert runs.tolist() == [[0, 9], [51, 60]]
    if how == "bursts":
        assert min(lengths) >= corruption.BURST
    if how == "random":
        assert max(lengths) < 10
    assert corruption.dropped_frames(5, 100, how, np.random.default_rng(0)).sum() == 4


def test_masks_shrink_grow_and_leak():
    disc = np.zeros((1, 100, 100), bool)
    y, x = np.mgrid[:100, :100]
    disc[0] = (x - 50) ** 2 + (y - 50) ** 2 <= 30**2
    area = {
        name: corruption.corrupt_masks({"object": disc}, **{name: value})["object"].sum() / disc.sum()
        for name, value in (("erode_px", 5), ("dilate_px", 5), ("leak_pct", 20))
    }
    assert area["erode_px"] == pytest.approx((25 / 30) ** 2, rel=0.03)
    assert area["dilate_px"] == pytest.approx((35 / 30) ** 2, rel=0.03)
    assert area["leak_pct"] == pytest.approx(1.2, abs=0.06)


def test_a_wrong_focal_length_leaves_sizes_and_pictures_as_they_are(truth: GroundTruth, scene: SyntheticSequence):
    right, wrong = (
        corruption.object_reconstruction(truth, truth.names, list(scene.masks["object"]), focal_error_pct=q) for q in (0.0, 10.0)
    )
    np.testing.assert_allclose(np.ptp(right.points_obj, axis=0), np.ptp(wrong.points_obj, axis=0))
    np.testing.assert_allclose(wrong.T_cam_obj[:, 2, 3], 1.1 * right.T_cam_obj[:, 2, 3])
    assert wrong.K[0, 0] == pytest.approx(1.1 * truth.K[0, 0])
    seen = project(apply(right.T_cam_obj, right.points_obj), right.K)[right.observation_frame, right.observation_point]
    assert np.linalg.norm(seen - right.observation_px, axis=1).mean() < 2 * corruption.CLOUD_NOISE_PX
    assert wrong.reprojection_px < 3.0


def test_what_the_truth_does_not_know_is_named(truth: GroundTruth):
    with pytest.raises(HoldprepError, match="has no frame 9999"):
        corruption.frame_index(truth, ["9999"])
    bare = GroundTruth(truth.names, truth.image_size, truth.K)
    with pytest.raises(HoldprepError, match="no object mesh"):
        corruption.object_reconstruction(bare, truth.names, [])
