"""21 keypoints in every layout that is read, of a hand whose pose is known."""

import json
from pathlib import Path

import numpy as np
import pytest

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import pinhole_K, project
from holdprep.hand import lbs
from holdprep.hand.joints import OPENPOSE_FROM_MANO21
from holdprep.hand.lifting import lift_keypoints
from holdprep.hand.model import SIDES, Side
from holdprep.hand.trackers import keypoints
from holdprep.hand.trackers.tracks import KeypointTrack
from tests.hand.trackers.known import MODELS, NAMES, SIZE, mesh

K = pinhole_K(600, *SIZE)
ORDER = list(OPENPOSE_FROM_MANO21)


def joints(side: Side = "right") -> tuple[np.ndarray, np.ndarray]:
    """(3, 21, 3) m and (3, 21, 2) px in MANO-21 order."""
    j3d = mesh(side, 0.6).joints.numpy()
    return j3d, project(j3d, K)


def read(path: Path, side: Side) -> tuple[KeypointTrack, list[str]]:
    tracks, notes = keypoints.read(path, NAMES, SIZE)
    assert list(tracks) == [side]
    return tracks[side], notes


@pytest.mark.parametrize("side", SIDES)
def test_openpose_files(tmp_path: Path, side: Side):
    """A person's hands in OpenPose's order; what was not found is zeros."""
    _, px = joints(side)
    other = "left" if side == "right" else "right"
    for t, name in enumerate(NAMES):
        rows = np.concatenate([px[t, ORDER], np.full((21, 1), 0.7)], axis=1)
        rows[4] = 0  # the thumb's tip
        person = {f"hand_{side}_keypoints_2d": rows.ravel().tolist(), f"hand_{other}_keypoints_2d": [0.0] * 63}
        (tmp_path / f"{name}_keypoints.json").write_text(json.dumps({"people": [person] if t != 1 else []}))
    track, notes = read(tmp_path, side)
    assert notes == []
    tip = np.arange(21) == 16
    np.testing.assert_allclose(track.j2d_px[[0, 2]][:, ~tip], px[[0, 2]][:, ~tip])
    assert np.isnan(track.j2d_px[1]).all() and np.isnan(track.j2d_px[:, 16]).all()
    np.testing.assert_allclose(track.confidence, np.array([[0.7], [0], [0.7]]) * ~tip)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("order", "unit", "axes", "words"), [
    (ORDER, 1.0, 1, []),
    (list(range(21)), 1000.0, 1, ["in MANO's order", "millimetres"]),
    (ORDER, 1.0, [1, -1, -1], ["OpenGL's axes in 3D"]),
])  # fmt: skip
def test_orders_units_and_axes_are_converted(tmp_path: Path, side: Side, order: list[int], unit: float, axes: object, words: list[str]):
    j3d, px = joints(side)
    arrays = {f"j2d.{side}": px[:, order], f"j3d.{side}": (unit * j3d * axes)[:, order]}
    np.savez(tmp_path / "hands.npz", **arrays)
    track, notes = read(tmp_path / "hands.npz", side)
    np.testing.assert_allclose(track.j2d_px, px)
    np.testing.assert_allclose(track.j3d_m, j3d - j3d[:, :1], atol=1e-9)
    assert (track.confidence == 1).all()
    assert len(notes) == len(words) and all(word in note for word, note in zip(words, notes, strict=True))
    inside = (track.j2d_px >= track.boxes_px[:, None, :2]) & (track.j2d_px <= track.boxes_px[:, None, 2:])
    assert inside.all()


def test_a_json_of_all_frames_is_matched_by_name(tmp_path: Path):
    px = joints()[1]
    left = joints("left")[1]
    content = {"0004": {"right": px[2, ORDER].tolist(), "left": left[2, ORDER].tolist()}, "0000": {"right": {"j2d": px[0, ORDER].tolist()}}}
    content["0099"] = {"right": px[1, ORDER].tolist()}
    (tmp_path / "hands.json").write_text(json.dumps(content))
    tracks, notes = keypoints.read(tmp_path / "hands.json", NAMES, SIZE)
    np.testing.assert_allclose(tracks["right"].j2d_px[[0, 2]], px[[0, 2]])
    np.testing.assert_allclose(tracks["left"].j2d_px[2], left[2])
    np.testing.assert_array_equal(tracks["right"].found, [True, False, True])
    np.testing.assert_array_equal(tracks["left"].found, [False, False, True])
    assert notes == ["hands.json: 1 of 3 frames are absent", "hands.json: 1 of its 3 frames are not in images/ and were left out"]


def test_names_in_a_npz(tmp_path: Path):
    px = joints()[1]
    np.savez(tmp_path / "hands.npz", **{"j2d.right": px[[2, 0]][:, ORDER], "names": np.array(["0004", "0000"])})
    np.testing.assert_allclose(read(tmp_path / "hands.npz", "right")[0].j2d_px[[0, 2]], px[[0, 2]])


def test_a_hand_is_lifted_from_pixels_alone(tmp_path: Path):
    """The mesh's joints meet the pixels that were seen; depth follows from the average hand's size."""
    j3d, px = joints()
    seen = px[:, ORDER].copy()
    seen[:, 8] = np.nan  # the index's tip
    np.savez(tmp_path / "hands.npz", **{"j2d.right": seen})
    track, _ = read(tmp_path / "hands.npz", "right")
    found = lbs.forward(MODELS["right"], lift_keypoints(MODELS["right"], track, K, None)).joints.numpy()
    off_px = np.linalg.norm(project(found, K) - px, axis=-1)
    assert off_px[:, np.arange(21) != 17].mean() < 3
    assert np.abs(found[:, 0, 2] / j3d[:, 0, 2] - 1).max() < 0.15


def test_bad_input_is_one_line(tmp_path: Path):
    px = joints()[1][:, ORDER]

    def refused(path: Path) -> str:
        with pytest.raises(HoldprepError) as error:
            keypoints.read(path, NAMES, SIZE)
        assert "\n" not in str(error.value)
        return str(error.value)

    def npz(**arrays: np.ndarray) -> Path:
        np.savez(tmp_path / "hands.npz", **{k.replace("_", "."): v for k, v in arrays.items()})
        return tmp_path / "hands.npz"

    assert "keypoints are not pixels of the image of 640 x 480: they lie within 2 px" in refused(npz(j2d_right=px / 640))
    assert "3 of 3 hands are outside" in refused(npz(j2d_right=px + 2000))
    assert "j2d.right has shape (2, 21, 2) for 3 frames" in refused(npz(j2d_right=px[:2]))
    assert "j2d has shape (20, 2), 21 keypoints" in refused(npz(j2d_right=px[:, :20]))
    assert "only joints; (frames, 21, 2 or 3) numbers" in refused(npz(joints=px))
    assert "no hand with 6 visible joints or more" in refused(npz(j2d_right=np.where(np.arange(21)[:, None] < 5, px, np.nan)))
    assert "its hand is 0.003" in refused(npz(j2d_right=px, j3d_right=0.02 * joints()[0][:, ORDER]))
    (tmp_path / "hands.npz").write_bytes((tmp_path / "hands.npz").read_bytes()[:300])
    assert "hands.npz is no .npz" in refused(tmp_path / "hands.npz")
    (tmp_path / "hands.json").write_text('{"0000": {"right": [[1, 2')
    assert "hands.json is no JSON" in refused(tmp_path / "hands.json")
    (tmp_path / "hands.json").write_text("[]")
    assert "holds no frames" in refused(tmp_path / "hands.json")
    (tmp_path / "hands.json").write_text('{"0000": {"middle": []}}')
    assert "no frame of 1 has a 'right' or 'left' hand" in refused(tmp_path / "hands.json")
    (tmp_path / "hands.json").write_text('{"0000": {"right": [["a", "b"]]}}')
    assert "frame 0000: j2d is no array of numbers" in refused(tmp_path / "hands.json")
    assert "holds no keypoints" in refused(tmp_path / "hands.txt")
    (tmp_path / "people").mkdir()
    assert "holds no frames" in refused(tmp_path / "people")
    (tmp_path / "people" / "0000.json").write_text("{}")
    assert "has no 'people'" in refused(tmp_path / "people")
