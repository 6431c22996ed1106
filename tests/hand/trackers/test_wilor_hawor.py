"""WiLoR's and HaWoR's parameters, written as their programs do, of hands whose pose is known."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import roma
import torch

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from holdprep.hand import lbs
from holdprep.hand.joints import OPENPOSE_FROM_MANO21
from holdprep.hand.model import SIDES, ManoParams, Side
from holdprep.hand.trackers import hawor, wilor
from holdprep.hand.trackers.tracks import VertexTrack
from tests.hand.trackers.known import MODELS, NAMES, SIZE, mesh, params

FLIP = np.array([-1.0, 1.0, 1.0])


def network_output(side: Side, depth_m: float) -> dict[str, np.ndarray]:
    """What the networks speak: rotation vectors of the right model with the hand mean in them, turned back for a left hand.

    Its shape is not.
    """
    right = params("right", depth_m)
    turn = np.array([1, -1, -1]) if side == "left" else np.ones(3)
    return {
        "root": right.global_orient.numpy() * turn,
        "pose": (right.hand_pose + MODELS["right"].hand_mean).reshape(3, 15, 3).numpy() * turn,
        "betas": right.betas.numpy(),
        "transl": right.transl.numpy() * (FLIP if side == "left" else 1),
    }


def write_wilor(folder: Path, side: Side) -> None:
    """A hand in the first and last frame, none in the second."""
    output, found = network_output(side, 12.0), mesh(side, 12.0)
    K = np.array([[5000 / 256 * 640, 0, 320], [0, 5000 / 256 * 640, 240], [0, 0, 1]])
    for t, name in enumerate(NAMES):
        hand = {
            "hand_bbox": [1.0, 2.0, 3.0, 4.0],
            "is_right": float(side == "right"),
            "wilor_preds": {
                "pred_vertices": found.vertices[[t]].numpy() - output["transl"][[t], None],
                "pred_cam_t_full": output["transl"][[t]],
                "pred_keypoints_2d": project(found.joints[[t]].numpy(), K)[:, list(OPENPOSE_FROM_MANO21)],
                "global_orient": output["root"][t].reshape(1, 1, 3),
                "hand_pose": output["pose"][[t]],
                "betas": output["betas"][[t]],
                "scaled_focal_length": K[0, 0],
            },
        }
        np.save(folder / f"{name}.npy", np.array([hand] if t != 1 else [], dtype=object), allow_pickle=True)


def write_hawor(folder: Path, side: Side, stretches: tuple[tuple[int, int], ...] = ((0, 0), (1, 2))) -> None:
    output = network_output(side, 0.6)
    root, pose = (roma.rotvec_to_rotmat(torch.as_tensor(output[k])).float().numpy() for k in ("root", "pose"))
    for first, last in stretches:
        rows = slice(first, last + 1)
        content = {"init_root_orient": root, "init_hand_pose": pose, "init_trans": output["transl"], "init_betas": output["betas"]}
        path = folder / "cam_space" / ("1" if side == "right" else "0") / f"{first}_{last}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({k: [v[rows].tolist()] for k, v in content.items()}))
    (folder / "est_focal.txt").write_text("1200.0")
    (folder / "extracted_images").mkdir(exist_ok=True)
    for name in NAMES:  # twice as large as images/
        cv2.imwrite(str(folder / "extracted_images" / f"{name}.jpg"), np.zeros((960, 1280, 3), np.uint8))


def assert_known(track: VertexTrack, side: Side, depth_m: float, frames: list[int]) -> None:
    expected, own = mesh(side, depth_m), params(side, depth_m)
    assert list(track.vertices_m) == [side]
    np.testing.assert_array_equal(np.isfinite(track.vertices_m[side]).all(axis=(1, 2)), np.isin(range(3), frames))
    np.testing.assert_allclose(track.vertices_m[side][frames], expected.vertices[frames], atol=1e-6)
    np.testing.assert_allclose(track.j2d_px[side][frames], project(expected.joints.numpy(), track.K)[frames], atol=1e-2)
    found = track.params[side]
    again = lbs.forward(MODELS[side], ManoParams(*(x[frames] for x in (found.global_orient, found.hand_pose, found.betas, found.transl))))
    np.testing.assert_allclose(again.vertices, expected.vertices[frames], atol=1e-6)
    np.testing.assert_allclose(found.hand_pose[frames], own.hand_pose[frames], atol=1e-5)


@pytest.mark.parametrize("side", SIDES)
def test_wilor_mini(tmp_path: Path, side: Side):
    write_wilor(tmp_path, side)
    assert_known(wilor.read(tmp_path, NAMES, SIZE, MODELS), side, 12.0, [0, 2])


@pytest.mark.parametrize("side", SIDES)
def test_hawor(tmp_path: Path, side: Side):
    write_hawor(tmp_path, side)
    track = hawor.read(tmp_path, NAMES, SIZE, MODELS)
    assert_known(track, side, 0.6, [0, 1, 2])
    np.testing.assert_allclose(track.K, [[600, 0, 320], [0, 600, 240], [0, 0, 1]])


def test_hawor_frames_are_image_numbers_and_gaps_are_kept(tmp_path: Path):
    write_hawor(tmp_path, "right", ((2, 2),))
    write_hawor(tmp_path, "left", ((0, 1),))
    track = hawor.read(tmp_path, ["0004", "0000", "0006"], SIZE, MODELS)
    np.testing.assert_allclose(track.vertices_m["right"][0], mesh("right", 0.6).vertices[2], atol=1e-6)
    np.testing.assert_allclose(track.vertices_m["left"][1], mesh("left", 0.6).vertices[0], atol=1e-6)
    assert np.isnan(track.vertices_m["right"][1:]).all() and np.isnan(track.vertices_m["left"][[0, 2]]).all()
    assert track.notes == ("HaWoR: 1 of 3 frames are absent", "HaWoR: 1 of its 3 frames are not in images/ and were left out")


def test_bad_files_are_errors_of_one_line(tmp_path: Path):
    def refused(read, folder: Path) -> str:
        with pytest.raises(HoldprepError) as error:
            read(folder, NAMES, SIZE, MODELS)
        assert "\n" not in str(error.value)
        return str(error.value)

    (tmp_path / "h").mkdir()
    assert "est_focal.txt holds no focal length" in refused(hawor.read, tmp_path / "h")
    write_hawor(tmp_path / "h", "right")
    path = tmp_path / "h" / "cam_space" / "1" / "1_2.json"
    path.rename(path.with_name("1_3.json"))
    assert "1_3.json: init_root_orient has shape (1, 2, 3, 3), (1, 3, 3, 3) is needed according to its name" in refused(
        hawor.read, tmp_path / "h"
    )
    path.with_name("1_3.json").write_text(path.with_name("0_0.json").read_text()[:500])
    assert "1_3.json is no JSON" in refused(hawor.read, tmp_path / "h")
    path.with_name("1_3.json").write_text("{}")
    assert "has no numbers 'init_root_orient'" in refused(hawor.read, tmp_path / "h")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "est_focal.txt").write_text("600")
    assert "holds no <first>_<last>.json of any hand" in refused(hawor.read, tmp_path / "empty")

    (tmp_path / "w").mkdir()
    np.save(tmp_path / "w" / "0000.npy", np.array([], dtype=object), allow_pickle=True)
    assert "no hand in its 1 frames" in refused(wilor.read, tmp_path / "w")
    write_wilor(tmp_path / "w", "right")
    (hand,) = np.load(tmp_path / "w" / "0000.npy", allow_pickle=True)
    for wrong in (None, "right", [1.0, 0.0]):
        np.save(tmp_path / "w" / "0000.npy", np.array([hand | {"is_right": wrong}], dtype=object), allow_pickle=True)
        assert "0000.npy: is_right is" in refused(wilor.read, tmp_path / "w")
    np.save(tmp_path / "w" / "0000.npy", np.array([{"is_right": 1.0}], dtype=object), allow_pickle=True)
    assert "holds no 'wilor_preds'" in refused(wilor.read, tmp_path / "w")
    np.save(tmp_path / "w" / "0000.npy", np.array([{"is_right": 1.0, "wilor_preds": {}}], dtype=object), allow_pickle=True)
    assert "pred_vertices is float64 (), (1, 778, 3) numbers are needed" in refused(wilor.read, tmp_path / "w")
    write_wilor(tmp_path / "w", "right")
    data = (tmp_path / "w" / "0004.npy").read_bytes()
    (tmp_path / "w" / "0004.npy").write_bytes(data[: len(data) // 2])
    assert "0004.npy" in refused(wilor.read, tmp_path / "w")
