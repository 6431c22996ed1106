"""frankmocap's results, written as its hand demo does, of hands whose pose and pixels are known."""

import pickle
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from holdprep.hand import lbs
from holdprep.hand.joints import OPENPOSE_FROM_MANO21
from holdprep.hand.model import SIDES, Side
from holdprep.hand.trackers import frankmocap
from tests.hand.trackers.known import MODELS, NAMES, SIZE, params

FLIP = np.array([-1.0, 1.0, 1.0])
SCALE, SHIFT, RATIO, TOP_LEFT = 5.5, np.array([0.03, -0.02]), 1.4, np.array([210, 130])


def output(size: float = 1.0) -> tuple[dict[str, Any], np.ndarray]:
    """What the demo keeps of a right hand, by the equations of frankmocap's hand_mocap_api.py and coordconv.py, and its joints' pixels
    (3, 21, 2); the hand is `size` times the model's."""
    average = replace(params("right", 0.6), betas=torch.zeros(3, 10).double())
    joints = size * lbs.forward(MODELS["right"], average).joints.numpy()
    joints = joints - joints[:, [1]]
    crop = 112 * SCALE * (joints[..., :2] + SHIFT) + 112
    pose = torch.cat([average.global_orient, average.hand_pose], dim=1).numpy()
    hand = {"pose": pose, "joints": joints[:, list(OPENPOSE_FROM_MANO21)], "camera": np.array([SCALE, *SHIFT])}
    return hand, crop / RATIO + TOP_LEFT


def mirrored(hand: dict[str, Any], px: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """The left hand in the mirror image of the same crop."""
    pose = (hand["pose"].reshape(3, 16, 3) * [1, -1, -1]).reshape(3, 48)
    crop = (px - TOP_LEFT) * RATIO
    px = TOP_LEFT + np.stack([224 - crop[..., 0], crop[..., 1]], axis=-1) / RATIO
    return {"pose": pose, "joints": hand["joints"] * FLIP, "camera": hand["camera"] * FLIP[[1, 0, 1]]}, px


def write(folder: Path, side: Side, hand: dict[str, Any]) -> None:
    """A hand in the first and last frame, none in the second."""
    folder.mkdir(parents=True)
    for t, name in enumerate(NAMES):
        found = {
            "pred_joints_smpl": hand["joints"][t].astype(np.float32), "faces": np.zeros((1538, 3), np.int64), "bbox_scale_ratio": RATIO,
            "bbox_top_left": TOP_LEFT, "pred_camera": hand["camera"].astype(np.float32), "img_cropped": np.zeros((224, 224, 3), np.uint8),
            "pred_hand_pose": hand["pose"][[t]].astype(np.float32), "pred_hand_betas": np.full((1, 10), 3.0, np.float32),
            "pred_joints_img": np.zeros((21, 3)),
        }  # fmt: skip
        other = "left_hand" if side == "right" else "right_hand"
        person = {f"{side}_hand": found if t != 1 else {}, other: {}}
        tree = OrderedDict(demo_type="hand", smpl_type="smplx", image_path=f"/a/{name}.jpg", body_bbox_list=[None], hand_bbox_list=[person])
        tree |= {"save_mesh": False, "pred_output_list": [person, None]}
        (folder / f"{name}_prediction_result.pkl").write_bytes(pickle.dumps(tree, protocol=2))


@pytest.mark.parametrize("size", [1.0, 1.2])
@pytest.mark.parametrize("side", SIDES)
def test_poses_and_pixels_are_those_of_the_file(tmp_path: Path, side: Side, size: float):
    hand, px = output(size)
    if side == "left":
        hand, px = mirrored(hand, px)
    write(tmp_path / "mocap", side, hand)
    track = frankmocap.read(tmp_path, NAMES, SIZE, MODELS)
    assert list(track.vertices_m) == [side] and any("SMPL-X" in note for note in track.notes)
    own = track.params[side]
    rows = torch.cat([own.global_orient, own.hand_pose], dim=1).numpy()
    assert np.isnan(rows[1]).all() and np.isnan(track.vertices_m[side][1]).all()
    np.testing.assert_allclose(rows[[0, 2]], hand["pose"][[0, 2]], atol=1e-6)
    np.testing.assert_allclose(track.j2d_px[side][[0, 2]], px[[0, 2]], atol=1e-3)
    posed = lbs.forward(MODELS[side], own)
    np.testing.assert_allclose(posed.vertices[[0, 2]], track.vertices_m[side][[0, 2]], atol=1e-6)
    assert np.abs(project(posed.joints.numpy(), track.K) - px)[[0, 2]].max() < 0.5  # 12500 px are almost weak perspective
    near = frankmocap.read(tmp_path / "mocap", NAMES, SIZE, MODELS, focal_px=600.0)
    mesh = lbs.forward(MODELS[side], near.params[side]).joints.numpy()[[0, 2]]
    anchor_px = project(mesh, near.K)[:, frankmocap.ANCHOR]
    np.testing.assert_allclose(anchor_px, px[[0, 2], frankmocap.ANCHOR], atol=1e-3)
    assert (np.abs(mesh[..., 2].mean(axis=1) / (600.0 * RATIO / (112 * SCALE * size)) - 1) < 1e-3).all()


def test_other_content_is_one_line(tmp_path: Path):
    with pytest.raises(HoldprepError, match="holds no <frame>_prediction_result"):
        frankmocap.read(tmp_path, NAMES, SIZE, MODELS)
    hand = {"pred_hand_pose": np.zeros((1, 45))}
    for tree, words in (
        ([], "has no 'pred_output_list'"),
        ({"pred_output_list": [None]}, "no hand in its 1 frames"),
        ({"pred_output_list": [{"left_hand": hand}]}, r"0000_prediction_result.pkl: pred_hand_pose is float64 \(1, 45\)"),
        ({"pred_output_list": [{}], "demo_type": "frank"}, "'frank' demo: run demo_handmocap"),
    ):
        (tmp_path / "0000_prediction_result.pkl").write_bytes(pickle.dumps(tree))
        with pytest.raises(HoldprepError, match=words):
            frankmocap.read(tmp_path, NAMES, SIZE, MODELS)
