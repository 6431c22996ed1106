"""Rotation jumps, gap filling, frame pairs and pixel conventions, against closed forms."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from holdprep.geometry.rigid import from_rt, rotation_angle_deg
from holdprep.object.colmap import Crop
from holdprep.object.pairs import select_pairs
from holdprep.object.trajectory import disagreement_deg, fill_gaps, rotation_jumps, trusted_frames

T = 40
ALL = np.ones(T, bool)
FLIP = Rotation.from_euler("x", 60, degrees=True)


def rotating(step_deg: float = 4.0) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 0.5, T)
    return Rotation.from_rotvec(np.radians(step_deg * np.arange(T) + noise)[:, None] * [0.0, 1.0, 0.0]).as_matrix()


def flipped(R: np.ndarray, frames: slice) -> np.ndarray:
    R = R.copy()
    R[frames] = R[frames] @ FLIP.as_matrix()
    return R


@pytest.mark.parametrize("step_deg", [0.0, 4.0, 25.0])
def test_constant_rotation_is_no_jump(step_deg: float) -> None:
    assert rotation_jumps(rotating(step_deg), ALL) == []
    assert trusted_frames(rotating(step_deg), ALL).all()


def test_a_flipped_segment_is_dropped_and_both_sides_remain() -> None:
    R = flipped(rotating(), slice(12, 16))
    assert rotation_jumps(R, ALL) == [(11, 12), (15, 16)]
    assert np.flatnonzero(~trusted_frames(R, ALL)).tolist() == [12, 13, 14, 15]


def test_the_shorter_side_of_a_permanent_flip_is_dropped() -> None:
    assert np.flatnonzero(~trusted_frames(flipped(rotating(), slice(0, 9)), ALL)).tolist() == list(range(9))


def test_disagreement_ignores_the_object_frame_and_finds_the_flip() -> None:
    R = rotating()
    rotated = flipped(R, slice(5, 8)) @ Rotation.from_euler("xyz", (10, 70, -30), degrees=True).as_matrix()
    a, b = ({f"{t}": from_rt(M, np.zeros(3)) for t, M in enumerate(stack)} for stack in (R, rotated))
    angles = disagreement_deg(a, b)
    assert [angles[f"{t}"] for t in (5, 6, 7)] == pytest.approx([60] * 3)
    assert max(angles[f"{t}"] for t in range(T) if not 5 <= t < 8) < 1e-4


def test_short_gaps_are_interpolated() -> None:
    centre = np.array([0.3, -0.2, 0.5])
    R = Rotation.from_rotvec(np.radians(3.0 * np.arange(T))[:, None] * [0.0, 0.0, 1.0]).as_matrix()
    centre_cam = np.array([0.1, 0.0, 2.0]) + np.arange(T)[:, None] * [0.01, 0.02, -0.01]
    poses = from_rt(R, centre_cam - R @ centre)
    known = ALL.copy()
    known[[0, 1, 10, 11, 12, 39]] = False
    hidden = np.where(known[:, None, None], poses, np.eye(4))
    full, origin = fill_gaps(hidden, known, centre, max_gap=3)
    assert full[2:39] == pytest.approx(poses[2:39], abs=1e-9)
    assert full[0] == pytest.approx(poses[2])
    assert full[39] == pytest.approx(poses[38])
    assert [origin[t] for t in (0, 2, 11, 39)] == ["held", "", "interpolated", "held"]
    assert rotation_angle_deg(full[11, :3, :3], R[11]) < 1e-4


def test_long_gaps_hold_the_nearest_known_pose() -> None:
    R = rotating()
    poses = from_rt(R, np.tile([0.0, 0.0, 2.0], (T, 1)))
    known = ALL.copy()
    known[[5, 6, 20, 21, 22, 23]] = False
    full, origin = fill_gaps(poses, known, np.zeros(3), max_gap=3)
    assert [t for t, how in enumerate(origin) if how == "interpolated"] == [5, 6]
    assert [t for t, how in enumerate(origin) if how == "held"] == [20, 21, 22, 23]
    assert full[[20, 21, 22, 23]] == pytest.approx(poses[[19, 19, 24, 24]])
    assert fill_gaps(poses, known, np.zeros(3), max_gap=4)[1].count("held") == 0


def test_crop_preserves_pixel_centres() -> None:
    mask = np.zeros((60, 80), bool)
    mask[20:40, 30:50] = True
    crop = Crop.around([mask], 2.0)
    dot = np.zeros((60, 80, 3), np.float32)
    dot[27, 41] = 1.0
    enlarged = crop.cut(dot, interpolation=2)[..., 0]
    y, x = np.mgrid[: enlarged.shape[0], : enlarged.shape[1]]
    centroid = np.array([(x * enlarged).sum(), (y * enlarged).sum()]) / enlarged.sum()
    assert crop.to_window(np.array([41, 27])) == pytest.approx(centroid, abs=1e-4)
    assert crop.from_window(centroid) == pytest.approx([41, 27], abs=1e-4)


def test_pairs_for_any_number_of_frames() -> None:
    rng = np.random.default_rng(0)
    places = rng.normal(size=(10, 50, 128)) * 100  # the camera revisits the same ten places
    names = [f"{t}" for t in range(60)]
    descriptors = {name: (places[t % 10] + rng.normal(size=(50, 128))).astype(np.float32) for t, name in enumerate(names)}
    assert len(select_pairs(names[:5], descriptors, 40, 0)) == 10
    pairs = select_pairs(names, descriptors, 8, 0)
    assert {(f"{t}", f"{t + 1}") for t in range(59)} <= set(pairs)
    retrieved = [(int(a), int(b)) for a, b in pairs if int(b) - int(a) > 2]
    assert retrieved
    assert all((b - a) % 10 == 0 for a, b in retrieved)
    assert len(pairs) <= 60 * 8
