"""Every metric against a case worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import pinhole_K
from holdprep.geometry.rigid import apply, from_rt, invert
from holdprep.quality.evaluation import Estimate, HandEstimate, evaluate, procrustes_error_mm
from holdprep.quality.truth import GroundTruth, HandTruth

T = 40
NAMES = [f"{i:04d}" for i in range(T)]
K = pinhole_K(600.0, 640, 480)
RNG = np.random.default_rng(0)
JOINTS = RNG.uniform(-0.08, 0.08, (T, 21, 3)) + np.array([0, 0, 0.5])
VERTICES = RNG.uniform(-0.08, 0.08, (T, 778, 3)) + np.array([0, 0, 0.5])
BOX = trimesh.creation.box((0.06, 0.08, 0.10))


def poses(degrees: float = 150.0) -> np.ndarray:
    s = np.linspace(0, 1, T)
    R = Rotation.from_rotvec(np.radians(degrees * s)[:, None] * np.array([0.6, 0.8, 0.0])).as_matrix()
    return from_rt(R, np.stack([0.05 * np.sin(5 * s), 0.02 * s, 0.5 + 0.05 * s], axis=1))


def truth(**changes) -> GroundTruth:
    hands = {side: HandTruth(None, VERTICES, JOINTS) for side in ("right", "left")}
    whole = GroundTruth(NAMES, (640, 480), K, 0.0, poses(), np.array(BOX.vertices), np.array(BOX.faces), hands)
    return replace(whole, **changes)


def perfect(**changes) -> Estimate:
    hands = {side: HandEstimate(VERTICES, JOINTS) for side in ("right", "left")}
    return replace(Estimate(NAMES, K, (640, 480), poses(), np.array(BOX.vertices), hands=hands), **changes)


def only_hand(side: str, hand: HandEstimate) -> dict[str, float]:
    return evaluate(Estimate(NAMES, hands={side: hand}), truth()).metrics


def seen_from(R: np.ndarray, origin: np.ndarray, scale: float, T_true: np.ndarray) -> np.ndarray:
    """The poses of an SfM whose object frame has the true point x at scale R x + origin, and whose lengths are true ones x scale."""
    moved = T_true.copy()
    moved[:, :3, 3] *= scale
    return moved @ invert(from_rt(R, origin))


# hands


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_shifted_hand(side: str):
    shift = np.array([0.003, 0.004, 0.0])  # 3-4-5: every point is 5 mm off
    found = only_hand(side, HandEstimate(VERTICES + shift, JOINTS + shift))
    assert found[f"{side}.mpjpe_mm"] == pytest.approx(5.0)
    assert found[f"{side}.mpvpe_mm"] == pytest.approx(5.0)
    assert found[f"{side}.root_relative_mpjpe_mm"] == pytest.approx(0.0, abs=1e-9)
    assert found[f"{side}.pa_mpjpe_mm"] == pytest.approx(0.0, abs=1e-9)
    assert found[f"{side}.accel_error_mm"] == pytest.approx(0.0, abs=1e-9)
    other = "left" if side == "right" else "right"
    assert found[f"{other}.found_pct"] == 0.0
    assert f"{other}.mpjpe_mm" not in found


def test_root_relative_error_counts_the_wrist_s_own_error_for_all_others():
    joints = JOINTS.copy()
    joints[:, 0, 2] += 0.021  # the wrist alone is 21 mm too deep: 21 / 21 joints = 1 mm; relative to it, 20 joints are 21 mm off
    found = only_hand("right", HandEstimate(joints_m=joints))
    assert found["right.mpjpe_mm"] == pytest.approx(1.0)
    assert found["right.root_relative_mpjpe_mm"] == pytest.approx(20.0)
    assert "right.mpvpe_mm" not in found


def test_procrustes_forgives_a_similarity_and_nothing_else():
    R = Rotation.from_euler("xyz", [20, 40, 60], degrees=True).as_matrix()
    assert procrustes_error_mm(1.3 * JOINTS @ R.T + 0.2, JOINTS) == pytest.approx(np.zeros(T), abs=1e-9)
    assert (procrustes_error_mm(JOINTS * [-1, 1, 1], JOINTS) > 20).all()  # a mirrored hand is another hand
    # corners (+-10, +-10) mm against (+-10, +-20): no turn, scale (10 x 10 + 10 x 20) / (10 x 10 + 10 x 10) = 1.5, so each corner comes
    # to (15, 15), which is (5, -5) off: 7.07 mm
    square = 0.01 * np.array([[[1.0, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]]])
    assert procrustes_error_mm(square, square * [1, 2, 1]) == pytest.approx([np.sqrt(50)])


def test_acceleration_error():
    joints = JOINTS + 0.001 * np.arange(T)[:, None, None] ** 2 * np.array([0, 0, 1.0])  # 1 mm t^2: the second difference is 2 mm
    assert only_hand("right", HandEstimate(joints_m=joints))["right.accel_error_mm"] == pytest.approx(2.0)


def test_frames_without_a_hand_are_left_out_and_counted():
    joints, valid = JOINTS + np.array([0.0, 0.0, 0.005]), np.ones(T, bool)
    joints[:10] = np.nan  # 10 of 40 frames have no hand
    joints[30:] += [0.0, 0.0, 0.015]  # 10 more are filled in, 20 mm off
    valid[30:] = False
    evaluation = evaluate(Estimate(NAMES, hands={"right": HandEstimate(joints_m=joints, is_valid=valid)}), truth())
    assert evaluation.metrics["right.found_pct"] == 75.0
    assert evaluation.metrics["right.mpjpe_mm"] == pytest.approx((20 * 5 + 10 * 20) / 30)
    assert evaluation.metrics["right.filled_mpjpe_mm"] == pytest.approx(20.0)
    assert np.isnan(evaluation.curves["right.mpjpe_mm"]).sum() == 10


def test_a_hand_that_the_truth_does_not_know_is_noted():
    hand = HandEstimate(VERTICES, JOINTS)
    evaluation = evaluate(Estimate(NAMES, hands={"left": hand}), truth(hands={"right": HandTruth(None, VERTICES, JOINTS)}))
    assert evaluation.notes == ["there is no true left hand to compare with"]
    assert evaluation.metrics["right.found_pct"] == 0.0


def test_roots_relative_to_each_other_and_to_the_object():
    hands = perfect().hands | {
        "right": HandEstimate(joints_m=JOINTS + np.array([0.0, 0.006, 0.008]))
    }  # 10 mm, against left and object alike
    found = evaluate(perfect(hands=hands), truth()).metrics
    assert found["hands.mrrpe_mm"] == pytest.approx(10.0)
    assert found["right.mrrpe_mm"] == pytest.approx(10.0, abs=1e-6)
    assert found["left.mrrpe_mm"] == pytest.approx(0.0, abs=1e-6)


# frames and camera


def test_frames_are_matched_by_name_not_by_order():
    order = np.r_[20:40, 0:20]
    hands = {"right": HandEstimate(VERTICES[order], JOINTS[order])}
    shuffled = Estimate([NAMES[i] for i in order] + ["extra"], hands={"right": _with_a_row_more(hands["right"])})
    found = evaluate(shuffled, truth()).metrics
    assert found["right.mpjpe_mm"] == pytest.approx(0.0, abs=1e-9)
    assert (found["frames_matched"], found["frames_without_truth"]) == (40, 1)


def _with_a_row_more(hand: HandEstimate) -> HandEstimate:
    return HandEstimate(*(np.concatenate([x, x[:1]]) for x in (hand.vertices_m, hand.joints_m)))


def test_no_common_name_is_one_line():
    with pytest.raises(HoldprepError, match=r"none of the 1 frames \(x, ...\) has a name among the 40"):
        evaluate(Estimate(["x"]), truth())


def test_focal_error_is_signed_and_knows_the_pictures_size():
    assert evaluate(Estimate(NAMES, pinhole_K(570.0, 640, 480)), truth()).metrics["focal_error_pct"] == pytest.approx(-5.0)
    half = Estimate(NAMES, pinhole_K(306.0, 320, 240), (320, 240))  # 306 px in pictures half as wide: 612 against 600
    assert evaluate(half, truth()).metrics["focal_error_pct"] == pytest.approx(2.0)


def test_an_estimate_of_nothing_has_no_metrics_but_the_counts():
    assert set(evaluate(Estimate(NAMES), truth()).metrics) == {"frames_matched", "frames_without_truth"}


# object

R_FREE = Rotation.from_euler("xyz", [100, -30, 55], degrees=True).as_matrix()


@pytest.mark.parametrize("scale", [1.0, 1.02, 0.9])
def test_sfm_s_own_frame_is_no_error_but_a_wrong_scale_is(scale: float):
    origin = np.array([0.3, -0.2, 1.0])
    found = evaluate(perfect(T_cam_obj=seen_from(R_FREE, origin, scale, poses())), truth()).metrics
    assert found["scale_error_pct"] == pytest.approx(100 * (scale - 1), abs=1e-6)  # 1.02 is +2 %
    assert found["rotation_error_deg_p95"] == pytest.approx(0.0, abs=1e-4)
    # everything is 'scale' times as far from the camera: the object misses by |scale - 1| of its distance
    depth_mm = 1000 * np.median(np.linalg.norm(poses()[:, :3, 3], axis=1))
    assert found["translation_error_mm"] == pytest.approx(abs(scale - 1) * depth_mm, abs=1e-6)


def test_before_alignment_lengths_are_compared_in_the_truth_s_unit():
    free = perfect(T_cam_obj=seen_from(R_FREE, np.ones(3), 7.0, poses()), object_points=(7 * BOX.vertices @ R_FREE.T + 1), is_metric=False)
    found = evaluate(free, truth()).metrics
    assert found["translation_error_mm"] == pytest.approx(0.0, abs=1e-6)
    assert found["accuracy_mm"] == pytest.approx(0.0, abs=0.1)
    assert not {"scale_error_pct", "right.mrrpe_mm", "right.contact_gap_mm"} & set(found)


def test_rotation_errors_of_single_frames():
    T_est, turn = poses(), Rotation.from_rotvec(np.radians(10) * np.array([0, 0, 1.0])).as_matrix()
    T_est[:8, :3, :3] = turn @ T_est[:8, :3, :3]  # 8 of 40 frames turned by 10 degrees: the gauge must not follow them
    evaluation = evaluate(perfect(T_cam_obj=T_est), truth())
    assert np.nanmax(evaluation.curves["rotation_error_deg"][8:]) < 0.05
    assert evaluation.curves["rotation_error_deg"][:8] == pytest.approx([10.0] * 8, abs=0.05)
    assert evaluation.metrics["rotation_above_5deg_pct"] == 20.0
    assert evaluation.metrics["rotation_error_deg_median"] < 0.05
    assert evaluation.metrics["rotation_error_deg_p95"] == pytest.approx(10.0, abs=0.05)


def test_registered_and_filled_frames():
    T_est, registered, T_true = poses(), np.ones(T, bool), poses()
    registered[:4] = False
    T_est[:4, :3, :3] = T_est[:4, :3, :3] @ Rotation.from_euler("x", 30, degrees=True).as_matrix()
    T_true[36:] = np.nan  # the truth knows 36 frames, 32 of them registered
    found = evaluate(perfect(T_cam_obj=T_est, registered=registered), truth(T_cam_obj=T_true)).metrics
    assert found["registered_pct"] == pytest.approx(100 * 32 / 36)
    assert found["filled_rotation_error_deg_median"] == pytest.approx(30.0, abs=1e-3)
    assert found["rotation_error_deg_p95"] == pytest.approx(0.0, abs=1e-4)


def test_an_object_that_hardly_turns_has_no_scale_and_says_so():
    still = poses(degrees=0.0)
    still[:, :3, 3] = [0.0, 0.0, 0.5]
    evaluation = evaluate(perfect(T_cam_obj=still), truth(T_cam_obj=still))
    assert "scale_error_pct" not in evaluation.metrics
    assert any("scale" in note for note in evaluation.notes)
    assert evaluation.metrics["translation_error_mm"] == pytest.approx(0.0, abs=1e-9)


def test_add_and_its_symmetric_sibling():
    # the box (60 x 80 x 100 mm) is turned about its z axis by half a turn in every tenth frame: each corner goes to the opposite corner of
    # its face, 2 sqrt(30^2 + 40^2) = 100 mm away, where there is another corner: ADD 100 mm, ADD-S 0
    T_est = poses()
    T_est[::10] = T_est[::10] @ from_rt(np.diag([-1.0, -1.0, 1.0]), np.zeros(3))
    evaluation = evaluate(perfect(T_cam_obj=T_est), truth())
    assert np.array(evaluation.curves["add_mm"])[::10] == pytest.approx([100.0] * 4, abs=0.1)
    assert evaluation.metrics["add_mm"] == pytest.approx(10.0, abs=0.1)
    assert evaluation.metrics["add_s_mm"] == pytest.approx(0.0, abs=0.1)


# cloud


def test_the_cloud_is_taken_from_sfm_units_through_scale_and_gauge():
    origin = np.array([0.1, 0.2, 0.3])
    points = np.array(trimesh.sample.sample_surface(BOX, 2000, seed=1)[0])
    posed = perfect(T_cam_obj=seen_from(R_FREE, origin, 1.0, poses()), object_points=(points @ R_FREE.T + origin) / 5, obj_scale=5.0)
    found = evaluate(posed, truth()).metrics
    assert found["accuracy_mm"] == pytest.approx(0.0, abs=0.01)
    assert found["fscore_5mm_pct"] > 99.0


# hand and object together


def fingertip(depth_m: float) -> tuple[np.ndarray, np.ndarray]:
    """A stand-in for a hand in the object's frame: a box of 20 mm whose lower face is `depth_m` below the box's top face, turned there."""
    cube = trimesh.creation.box((0.02, 0.02, 0.02))
    local = np.array(cube.vertices) + np.array([0.0, 0.0, 0.05 + 0.01 - depth_m])
    return apply(poses(), local[None]), np.array(cube.faces)


def meeting(depth_m: float, true_depth_m: float = 0.0, **changes) -> dict[str, float]:
    mesh, faces = fingertip(depth_m)
    true_mesh, _ = fingertip(true_depth_m)
    judged = truth(hands={"left": HandTruth(None, true_mesh, JOINTS)}, **changes)
    return evaluate(perfect(hands={"left": HandEstimate(mesh, JOINTS, None, faces)}), judged).metrics


def test_a_fingertip_in_the_object():
    found = meeting(0.004, -0.003)
    assert found["left.penetration_depth_mm"] == pytest.approx(4.0, abs=1e-6)
    assert found["left.contact_gap_mm"] == 0.0
    assert found["left.penetration_volume_cm3"] == pytest.approx(1.6, rel=1e-6)  # 20 x 20 x 4 mm
    assert found["left.contact_gap_true_mm"] == pytest.approx(3.0, abs=1e-6)
    assert found["left.penetration_depth_true_mm"] == 0.0
    assert found["left.penetration_volume_true_cm3"] == 0.0


def test_a_fingertip_above_the_object_counts_where_the_truth_has_contact():
    assert meeting(-0.006)["left.contact_gap_mm"] == pytest.approx(6.0, abs=1e-6)
    assert "left.contact_gap_mm" not in meeting(-0.006, contact=np.zeros(T, bool))


def test_parts_that_are_missing_are_left_out():
    found = evaluate(perfect(object_points=None), truth(object_vertices_m=None, object_faces=None)).metrics
    assert {"rotation_error_deg_median", "right.mrrpe_mm", "right.mpjpe_mm"} <= set(found)
    assert not {"add_mm", "chamfer_mm", "right.contact_gap_mm"} & set(found)


# masks


def test_mask_iou():
    mine, true = np.zeros((2, T, 10, 10), bool)
    mine[:30, :, :5] = True  # 50 px
    true[:20, :, 3:8] = True  # 50 px, 20 of them shared: 20 / 80
    # frames 20-29 show only mine (0), 30-39 neither (left out): (20 x 0.25 + 10 x 0) / 30
    evaluation = evaluate(Estimate(NAMES, masks={"object": mine, "left": mine}), truth(), {"object": true})
    assert evaluation.metrics["object.mask_iou"] == pytest.approx(20 * 0.25 / 30)
    assert "left.mask_iou" not in evaluation.metrics
