"""Files in METRO's published layout, of hands whose place and projection are known."""

from pathlib import Path

import numpy as np
import pytest

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from holdprep.hand.joints import MANO21_TIP_VERTICES
from holdprep.hand.trackers import metro

K = np.array([[900.0, 0, 319.5], [0, 900, 239.5], [0, 0, 1]])
OPENPOSE_FROM_MANO21 = [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]  # the reference's list


def write_metro(folder: Path, frames: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Hands at known places before K, seen in square crops; returns vertices (camera) and j2d (full image, MANO-21)."""
    rng = np.random.default_rng(seed)
    ra = rng.normal(0, 0.04, (frames, 778, 3))
    transl = np.stack([rng.uniform(-0.1, 0.1, frames), rng.uniform(-0.1, 0.1, frames), rng.uniform(0.5, 0.9, frames)], axis=1)
    joints = rng.normal(0, 0.04, (frames, 21, 3))
    joints[:, 0], joints[:, 16:] = 0, ra[:, list(MANO21_TIP_VERTICES)]
    j2d = project(joints + transl[:, None], K)
    x, y, side = rng.uniform(0, 200, frames), rng.uniform(0, 200, frames), rng.uniform(256, 500, frames)
    boxes = np.stack([x, y, x + side, y + side], axis=1)
    crop = (j2d[:, OPENPOSE_FROM_MANO21] - boxes[:, None, :2]) * (224 / side)[:, None, None]
    np.save(folder / "v3d_ra.npy", ra.astype(np.float32))
    np.save(folder / "j2d.crop.npy", crop.astype(np.float32))
    np.save(folder / "boxes.npy", boxes)
    return ra + transl[:, None], j2d


def test_metro_hands_project_to_their_keypoints(tmp_path: Path):
    vertices, j2d = write_metro(tmp_path, 4)
    track = metro.read(tmp_path, ["a", "b", "c", "d"], K)
    np.testing.assert_allclose(track.vertices_m["right"], vertices, atol=1e-4)
    np.testing.assert_allclose(track.j2d_px["right"], j2d, atol=1e-3)
    assert track.notes == ()


def test_metro_without_a_camera_uses_the_assumed_focal_length(tmp_path: Path):
    _, j2d = write_metro(tmp_path, 3)
    track = metro.read(tmp_path, ["a", "b", "c"])
    tips = project(track.vertices_m["right"][:, list(MANO21_TIP_VERTICES)], track.K)
    # METRO's projection here is a pinhole at 0.5-0.9 m, the invented one nearly orthographic: they differ by perspective only.
    assert np.abs(tips - j2d[:, 16:]).max() < 0.15 * np.ptp(j2d[:, 16:], axis=1).max()
    boxes = np.load(tmp_path / "boxes.npy")
    assert track.K[0, 0] == pytest.approx(5000 / 256 * boxes[:, 2:].max())
    assert "assumed focal length" in track.notes[0]


def test_metro_frames_without_a_hand_are_nan_in_everything(tmp_path: Path):
    write_metro(tmp_path, 3)
    ra = np.load(tmp_path / "v3d_ra.npy")
    ra[1, 5] = np.nan
    np.save(tmp_path / "v3d_ra.npy", ra)
    track = metro.read(tmp_path, ["a", "b", "c"], K)
    np.testing.assert_array_equal(np.isnan(track.vertices_m["right"]).all(axis=(1, 2)), [False, True, False])
    np.testing.assert_array_equal(np.isnan(track.j2d_px["right"]).all(axis=(1, 2)), [False, True, False])
    assert np.isfinite(track.vertices_m["right"][[0, 2]]).all()


def test_metro_errors_are_one_line(tmp_path: Path):
    write_metro(tmp_path, 3)
    with pytest.raises(HoldprepError, match=r"v3d_ra.npy has 3 frames, there are 2 images; rerun METRO"):
        metro.read(tmp_path, ["a", "b"], K)
    boxes = np.load(tmp_path / "boxes.npy")
    np.save(tmp_path / "boxes.npy", np.where([[False], [True], [False]], np.nan, boxes))
    with pytest.raises(HoldprepError, match=r"1 of 3 boxes are NaN, first b"):
        metro.read(tmp_path, ["a", "b", "c"], K)
    np.save(tmp_path / "boxes.npy", boxes[:, :3])
    with pytest.raises(HoldprepError, match=r"boxes.npy has shape \(3, 3\), \(3, 4\) is needed"):
        metro.read(tmp_path, ["a", "b", "c"], K)
    np.save(tmp_path / "v3d_ra.npy", np.full((3, 778, 3), np.nan))
    np.save(tmp_path / "boxes.npy", boxes)
    with pytest.raises(HoldprepError, match="no frame of 3 has a hand"):
        metro.read(tmp_path, ["a", "b", "c"], K)
    np.save(tmp_path / "v3d_ra.npy", np.array({"v3d.right": np.zeros(3)}, dtype=object), allow_pickle=True)
    with pytest.raises(HoldprepError, match=r"try hand.format=hamer"):
        metro.read(tmp_path, ["a", "b", "c"], K)
