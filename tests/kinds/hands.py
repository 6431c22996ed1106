"""Hands of other trackers and hand models' files."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from holdprep.errors import HoldprepError
from holdprep.hand.joints import OPENPOSE_FROM_MANO21
from holdprep.hand.model import SIDES, load_hand_model
from holdprep.hand.trackers import keypoints
from tests.hand import test_mano_files as mano
from tests.hand.trackers import test_frankmocap as frank
from tests.kinds.registry import kind

NAMES = [f"{t:04d}" for t in range(6)]
SIZE = (640, 480)
_, px = frank.output()
PX = np.concatenate([px, px + 9])[:, list(OPENPOSE_FROM_MANO21)]


@kind("hands: a depth is no confidence (MediaPipe's x, y, z)")
def depths(folder: Path) -> None:
    for depth in (np.linspace(0, -0.1, 21), np.linspace(0, 80, 21), np.linspace(-0.02, 0.3, 21)):
        path = folder / "k.json"
        rows = np.concatenate([PX, np.broadcast_to(depth[:, None], (6, 21, 1))], axis=2)
        path.write_text(json.dumps({name: {"right": rows[t].tolist()} for t, name in enumerate(NAMES)}))
        tracks, notes = keypoints.read(path, NAMES, SIZE)
        assert tracks["right"].confidence.min() == 1 and "is no confidence" in notes[0]
        assert np.abs(tracks["right"].j2d_px[:, list(OPENPOSE_FROM_MANO21)] - PX).max() < 1e-9
        path.write_text(json.dumps({name: {"right": (rows[t] / [*SIZE, 1]).tolist()} for t, name in enumerate(NAMES)}))
        with pytest.raises(HoldprepError, match=r"are not pixels of the image .*: they lie within 2 px: multiply"):
            keypoints.read(path, NAMES, SIZE)


@kind("hands: OpenPose of several people")
def several(folder: Path) -> None:
    def person(at: np.ndarray) -> dict[str, list[float]]:
        return {"hand_right_keypoints_2d": np.hstack([at, np.full((21, 1), 0.9)]).ravel().tolist(), "hand_left_keypoints_2d": [0.0] * 63}

    for t, name in enumerate(NAMES):
        people = [person(PX[t]), person(PX[t] + [180, 60])]
        (folder / f"{name}_keypoints.json").write_text(json.dumps({"people": people[:: 1 if t % 2 else -1]}))
    masks = np.zeros((6, *SIZE[::-1]), bool)
    for t, points in enumerate(PX):
        (x0, y0), (x1, y1) = points.min(axis=0).astype(int), points.max(axis=0).astype(int)
        masks[t, y0:y1, x0:x1] = True
    found, notes = keypoints.read(folder, NAMES, SIZE, {"right": list(masks)})
    assert np.abs(found["right"].j2d_px[:, list(OPENPOSE_FROM_MANO21)] - PX).max() < 1e-9
    assert any("several people" in note for note in notes)


@kind("hands: MANO's files: one side, any case and folder, .npz, every sparse type; a hand of the other side is refused")
def mano_files(folder: Path) -> None:
    for number, name in enumerate(("MANO_RIGHT.pkl", "models/mano_right.pkl", "mano_v1_2/models/MANO_RIGHT.pkl", "Mano_Right.npz")):
        mano.test_the_file_of_the_side_in_use_is_enough(folder / str(number), name)
    for form in ("csc_array", "csr_matrix", "coo_array"):
        content = mano.arrays("right")
        path = mano.write(folder / form / "MANO_RIGHT.pkl", content | {"J_regressor": getattr(scipy.sparse, form)(content["J_regressor"])})
        assert np.abs(load_hand_model("right", path.parent).J_regressor.numpy() - content["J_regressor"]).max() < 1e-6
    mano.write(folder / "wrong" / "MANO_LEFT.pkl", mano.arrays("right"))
    with pytest.raises(HoldprepError, match="holds a right hand by its geometry"):
        load_hand_model("left", folder / "wrong")


@kind("hands: frankmocap's parameters")
def frankmocap(folder: Path) -> None:
    for side in SIDES:
        for size in (1.0, 1.2):
            frank.test_poses_and_pixels_are_those_of_the_file(folder / f"{side}{size}", side, size)
