"""Lost frames that the hand carries: rendered motion of a held object with a block of frames left out, against the truth and against held poses."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from holdprep.geometry.rigid import from_rt, rotation_angle_deg
from holdprep.object.carried import carried_by_hand, carry, fit_grasp
from holdprep.object.palm_motion import PalmMotion
from holdprep.object.reconstruction import ObjectReconstruction, RawReconstruction, assemble
from holdprep.object.trajectory import fill_gaps
from tests.object.held import K, held

FRAMES, MAX_GAP = 72, 10
METRES_PER_UNIT = 0.37
INNER, LAST = slice(25, 45), slice(50, FRAMES)


@dataclass(frozen=True)
class Lost:
    """Poses (T, 4, 4) in SfM units in an arbitrary object frame, the object's centre there, and the palm's motion (m)."""

    T_cam_obj: np.ndarray
    centre_obj: np.ndarray
    palm: PalmMotion

    def without(self, gap: slice) -> tuple[np.ndarray, np.ndarray]:
        registered = np.ones(FRAMES, bool)
        registered[gap] = False
        return np.where(registered[:, None, None], self.T_cam_obj, np.eye(4)), registered

    def errors(self, T: np.ndarray, gap: slice) -> tuple[float, float]:
        """Medians over the gap of the rotation's error (deg) and of that of the centre's position (mm)."""
        centres = [each[gap, :3, :3] @ self.centre_obj + each[gap, :3, 3] for each in (T, self.T_cam_obj)]
        off_mm = 1e3 * METRES_PER_UNIT * np.linalg.norm(centres[0] - centres[1], axis=1)
        return float(np.median(rotation_angle_deg(T[gap, :3, :3], self.T_cam_obj[gap, :3, :3]))), float(np.median(off_mm))


def lost(seed: int = 11, **motion: float) -> Lost:
    scene = held("box_plain", FRAMES, seed=seed, **motion)
    R_sfm_obj, origin = Rotation.random(rng=np.random.default_rng(seed)).as_matrix(), np.array([0.01, -0.02, 0.015])
    R, t = scene.T_cam_obj[:, :3, :3], scene.T_cam_obj[:, :3, 3]
    T = from_rt(R @ R_sfm_obj.T, (R @ origin + t) / METRES_PER_UNIT)
    return Lost(T, -R_sfm_obj @ origin / METRES_PER_UNIT, scene.palm)


@pytest.mark.parametrize(("gap", "max_deg", "max_mm"), [(INNER, 6, 10), (LAST, 11, 20)])
@pytest.mark.parametrize("seed", [11, 12])
def test_carried_poses_are_nearer_to_the_truth_than_held_ones(gap: slice, max_deg: float, max_mm: float, seed: int):
    scene = lost(seed)
    T, registered = scene.without(gap)
    found, carried = carry(T, registered, scene.centre_obj, scene.palm, scene.palm.found, MAX_GAP)
    assert np.array_equal(carried, ~registered)
    assert np.array_equal(found[registered], T[registered])
    deg, mm = scene.errors(found, gap)
    held_deg, held_mm = scene.errors(fill_gaps(T, registered, scene.centre_obj, MAX_GAP)[0], gap)
    assert deg < min(max_deg, held_deg / 2)
    assert mm < min(max_mm, held_mm)


def test_the_scale_of_a_static_grasp_has_its_standard_error():
    scenes = [lost(seed, drift_deg=2) for seed in range(11, 17)]
    grasps = [fit_grasp(scene.T_cam_obj, scene.centre_obj, scene.palm.T_cam_palm) for scene in scenes]
    off = np.array([grasp.scale / METRES_PER_UNIT - 1 for grasp in grasps if grasp is not None])
    assert len(off) == len(scenes)
    assert np.abs(off).max() < 0.03
    assert all(0.002 < grasp.scale_stderr < 0.05 for grasp in grasps if grasp is not None)


def turned_in_the_fingers(scene: Lost) -> Lost:
    """The object turns in the hand within the gap."""
    T = scene.T_cam_obj.copy()
    T[35:] = T[35:] @ from_rt(Rotation.from_euler("y", 70, degrees=True).as_matrix(), np.zeros(3))
    return replace(scene, T_cam_obj=T)


def moving_fingers(scene: Lost) -> Lost:
    tips = scene.palm.tips_palm_m.copy()
    tips[INNER] += np.linspace(0, 0.06, INNER.stop - INNER.start)[:, None, None]
    return replace(scene, palm=replace(scene.palm, tips_palm_m=tips))


def far_from_the_object(scene: Lost) -> Lost:
    """The palm does not move with the object, although it turns with it."""
    T = scene.palm.T_cam_palm.copy()
    T[:, 0, 3] += np.linspace(-0.2, 0.2, FRAMES)
    return replace(scene, palm=replace(scene.palm, T_cam_palm=T))


@pytest.mark.parametrize("break_grasp", [turned_in_the_fingers, moving_fingers, far_from_the_object])
def test_without_a_static_grasp_frames_are_held_as_before(break_grasp):
    scene = break_grasp(lost())
    T, registered = scene.without(INNER)
    found, carried = carry(T, registered, scene.centre_obj, scene.palm, scene.palm.found, MAX_GAP)
    assert not carried.any()
    assert np.array_equal(found, T)


def test_a_hand_that_hardly_turns_carries_nothing():
    scene = lost(degrees=12.0)
    T, registered = scene.without(INNER)
    assert not carry(T, registered, scene.centre_obj, scene.palm, scene.palm.found, MAX_GAP)[1].any()


def test_frames_without_a_hand_short_gaps_and_gaps_with_few_hands_are_left():
    scene = lost()
    T, registered = scene.without(INNER)
    holds = scene.palm.found.copy()
    holds[30:33] = False
    assert np.flatnonzero(~carry(T, registered, scene.centre_obj, scene.palm, holds, MAX_GAP)[1][INNER]).tolist() == [5, 6, 7]
    holds[45:] = False
    assert not carry(T, registered, scene.centre_obj, scene.palm, holds, MAX_GAP)[1].any()
    assert not carry(T, registered, scene.centre_obj, scene.palm, scene.palm.found, 20)[1].any()


def reconstruction(scene: Lost, gap: slice) -> ObjectReconstruction:
    T, registered = scene.without(gap)
    points = scene.centre_obj + np.random.default_rng(0).uniform(-0.1, 0.1, (200, 3))
    return assemble(RawReconstruction([f"{t:04d}" for t in range(FRAMES)], K, T, registered, points), MAX_GAP)


def test_carried_frames_stay_unregistered_and_are_named():
    scene = lost()
    holds = scene.palm.found.copy()
    holds[30:33] = False
    found = carried_by_hand(reconstruction(scene, INNER), scene.palm, holds, MAX_GAP)
    assert not found.registered[INNER].any()
    assert [found.origin.count(how) for how in ("hand", "interpolated", "held", "sfm")] == [17, 3, 0, FRAMES - 20]
    assert scene.errors(found.T_cam_obj, INNER)[0] < 6
