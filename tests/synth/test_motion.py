"""Hands touch what they hold and do not pass through it; rigid grasps are rigid, turns are as large as told, nothing jumps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from holdprep.geometry.cameras import pinhole_K, project
from holdprep.geometry.rigid import apply, from_rt, invert, rotation_angle_deg
from holdprep.hand import lbs
from holdprep.hand.model import Side, load_hand_model
from holdprep.synth import motion
from holdprep.synth.motion import Grasp, Motion, Showing, make_motion
from holdprep.synth.objects import make_object
from holdprep.synth.scene import Filming, make_scene

DEGREES, DEPTH_M = 160.0, 0.4
BETAS = torch.linspace(-0.5, 0.5, 10).double()


def move(name: str, grasp: Grasp, sides: tuple[Side, ...] = ("right",), frames: int = 24) -> tuple[Motion, dict[Side, np.ndarray]]:
    """A motion, and the hands' vertices in the object's frame."""
    models = {side: load_hand_model(side, dtype=torch.float64) for side in sides}
    found = make_motion(make_object(name), models, Showing(grasp, frames, DEGREES, DEPTH_M), seed=0, betas=BETAS)
    return found, {s: apply(invert(found.T_cam_obj), lbs.forward(m, found.params[s]).vertices.numpy()) for s, m in models.items()}


@pytest.mark.parametrize(("name", "side"), [("can", "right"), ("box", "left"), ("mug", "right"), ("bottle", "left")])
def test_a_rigid_grasp_touches_and_stays(name: str, side: Side):
    found, held = move(name, "rigid", (side,), frames=12)
    assert found.contact_gap_mm[side].max() < 1.0
    assert found.penetration_mm[side].max() < 0.5
    np.testing.assert_allclose(held[side], held[side][:1].repeat(12, axis=0), atol=1e-6)
    distance = make_object(name).signed_distance(torch.from_numpy(held[side][0]))
    assert 1e3 * float(-distance.min()) == pytest.approx(found.penetration_mm[side][0], abs=1e-2)
    assert set(found.segments) == {0}


def test_an_object_turns_in_the_fingers_by_its_share():
    found, held = move("can", "in_hand")
    assert found.contact_gap_mm["right"].mean() < 1.0
    assert found.penetration_mm["right"].mean() < 1.0
    palm = held["right"][:, 79] / np.linalg.norm(held["right"][:, 79, [0, 2]], axis=1)[:, None]
    turned = np.degrees(np.unwrap(np.arctan2(palm[:, 0], palm[:, 2])))
    assert abs(turned[-1] - turned[0]) == pytest.approx(motion.SHARE_IN_HAND["in_hand"] * DEGREES, abs=8)
    seen = rotation_angle_deg(found.T_cam_obj[1:, :3, :3], found.T_cam_obj[:-1, :3, :3]).sum()
    assert seen > 0.9 * DEGREES
    assert set(found.segments) == {-1}


def test_a_regrasp_is_rigid_between_and_opens_meanwhile():
    found, held = move("box", "regrasp", frames=45)
    for k in range(motion.REGRASPS + 1):
        stretch = held["right"][found.segments == k]
        assert len(stretch) >= 3
        np.testing.assert_allclose(stretch, stretch[:1].repeat(len(stretch), axis=0), atol=1e-6)
        assert found.contact_gap_mm["right"][found.segments == k].max() < 3.0
    assert found.contact_gap_mm["right"][found.segments == -1].max() > 3.0
    first, last = (held["right"][found.segments == k][0] for k in (0, motion.REGRASPS))
    assert np.linalg.norm(first - last, axis=1).mean() > 0.02


def test_two_hands_hold_from_both_ends_and_keep_apart():
    _, held = move("can", "rigid", ("right", "left"), frames=6)
    assert held["right"][0, :, 1].mean() < -0.02
    assert held["left"][0, :, 1].mean() > 0.02
    nearest = np.linalg.norm(held["right"][0][:, None] - held["left"][0][None], axis=2).min()
    assert nearest > 0.0005


@pytest.mark.parametrize("grasp", ["rigid", "in_hand"])
def test_nothing_jumps_and_all_is_before_the_camera(grasp: Grasp):
    found, _ = move("can", grasp)
    mesh = lbs.forward(load_hand_model("right", dtype=torch.float64), found.params["right"]).vertices.numpy()
    acceleration = np.linalg.norm(mesh[2:] - 2 * mesh[1:-1] + mesh[:-2], axis=-1).mean(axis=1)
    assert acceleration.max() < 6e-3
    px = project(found.T_cam_obj[:, None, :3, 3], pinhole_K(600, 640, 480))[:, 0]
    assert ((px > 0) & (px < [640, 480])).all()
    assert np.median(found.T_cam_obj[:, 2, 3]) == pytest.approx(DEPTH_M, rel=0.1)
    assert (mesh[:, 79, 1] > found.T_cam_obj[:, 1, 3]).all()  # the wrist is below the object


def test_moving_a_hand_moves_its_mesh():
    model = load_hand_model("left", dtype=torch.float64)
    found, _ = move("can", "rigid", ("left",), frames=3)
    T = from_rt(Rotation.from_rotvec([[0.3, -0.2, 0.9]] * 3).as_matrix(), np.array([[0.1, 0.2, 0.3]] * 3))
    before, after = (lbs.forward(model, p).vertices.numpy() for p in (found.params["left"], motion.moved(model, found.params["left"], T)))
    np.testing.assert_allclose(after, apply(T, before), atol=1e-7)


def test_the_same_seed_gives_the_same_motion():
    one, again = move("can", "rigid", frames=3)[0], move("can", "rigid", frames=3)[0]
    np.testing.assert_array_equal(one.T_cam_obj, again.T_cam_obj)
    np.testing.assert_array_equal(one.params["right"].hand_pose.numpy(), again.params["right"].hand_pose.numpy())


def test_hand_and_object_are_held_at_a_place_in_the_picture():
    """(0.5, -0.4) is half of the way to the right border, and 0.4 of that to the upper one, at the object's distance."""
    filming = Filming(degrees=25, place=(0.5, -0.4))
    centred, placed = (make_scene("can", "rigid", ("right",), 3, filming=each)[0] for each in (replace(filming, place=(0.0, 0.0)), filming))
    focal_px = placed.K[0, 0]
    shift_m = np.array([0.5 * 320, -0.4 * 240, 0.0]) * filming.depth_m / focal_px
    np.testing.assert_allclose(placed.T_cam_obj[:, :3, 3] - centred.T_cam_obj[:, :3, 3], np.tile(shift_m, (3, 1)), atol=1e-9)
    np.testing.assert_allclose(placed.T_cam_obj[:, :3, :3], centred.T_cam_obj[:, :3, :3], atol=1e-12)
    np.testing.assert_allclose(placed.hands["right"].joints_m - centred.hands["right"].joints_m, np.tile(shift_m, (3, 21, 1)), atol=1e-6)
