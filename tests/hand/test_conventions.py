"""The checks of a tracker's conventions, on hands of known pose."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from holdprep.geometry.cameras import project
from holdprep.hand import lbs
from holdprep.hand.conventions import Conventions, bend_deg, examine, mesh_joints
from holdprep.hand.joints import OPENPOSE_FROM_MANO21
from holdprep.hand.model import SIDES, HandModel, ManoParams, Side, load_hand_model
from holdprep.hand.targets import lengths_m

MODELS = {side: load_hand_model(side, dtype=torch.float64) for side in SIDES}
K, SIZE = np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]]), (640, 480)


def params(model: HandModel, closed: float) -> ManoParams:
    """A hand at 0.6 m; 0 flat, 1 the mean pose, 2 twice as closed."""
    return ManoParams(
        torch.tensor([[0.3, -0.5, 0.8]], dtype=torch.float64),
        (closed - 1) * model.hand_mean[None],
        torch.zeros(1, 10, dtype=torch.float64),
        torch.tensor([[0.05, 0.02, 0.6]], dtype=torch.float64),
    )


def mesh(side: Side, closed: float = 1.0) -> np.ndarray:
    return lbs.forward(MODELS[side], params(MODELS[side], closed)).vertices[0].numpy()


def examined(side: Side, vertices: np.ndarray, j2d: np.ndarray | None = None, given: ManoParams | None = None) -> Conventions:
    seen = project(mesh_joints(MODELS[side], vertices), K) if j2d is None else j2d
    return examine(MODELS[side], vertices, seen, K, SIZE, given)


@pytest.mark.parametrize("side", SIDES)
def test_a_correct_hand_gives_no_warning(side: Side):
    flat = examined(side, mesh(side, 0), given=params(MODELS[side], 0))
    rest = MODELS[side].v_template[None]
    assert flat.length_mm == pytest.approx(1e3 * float(lengths_m(MODELS[side], rest)[0]), abs=0.01)
    assert flat.wrist_m[2] == pytest.approx(0.6 + float((MODELS[side].J_regressor[0] @ rest[0])[2]), abs=1e-6)
    np.testing.assert_allclose(flat.wrist_px, project(flat.wrist_m[None], K)[0])
    assert flat.keypoint_max_px < 1e-9
    assert flat.palm_mm < 1e-3 < 10 < flat.mirrored_mm
    assert flat.flat_deg < 8 < 20 < flat.mean_deg  # a twist, which bones do not show, stays
    assert flat.params_mm < 1e-9 < 10 < flat.params_flat_mm
    average = examined(side, mesh(side))
    mean_turn = MODELS[side].hand_mean.reshape(15, 3).norm(dim=1).square().mean().sqrt().rad2deg()
    assert 0.8 * float(mean_turn) < average.flat_deg < 1.05 * float(mean_turn)
    assert average.mean_deg < 0.5 * average.flat_deg
    assert flat.warnings() == average.warnings() == []
    assert "\n" not in "".join(flat.lines()) and len(flat.lines()) == 6 and len(average.lines()) == 5


@pytest.mark.parametrize("side", SIDES)
def test_fingers_bend_to_the_palm(side: Side):
    bends = [bend_deg(lbs.forward(MODELS[side], params(MODELS[side], c)).joints[0].numpy(), side) for c in (0, 1, 2)]
    assert abs(bends[0]) < 10 < bends[1] < bends[2]
    other: Side = "left" if side == "right" else "right"
    joints = lbs.forward(MODELS[side], params(MODELS[side], 1)).joints[0].numpy()
    assert bend_deg(joints, other) == pytest.approx(-bends[1])
    assert bend_deg(joints * [-1, 1, 1], other) == pytest.approx(bends[1])


def test_each_wrong_convention_gives_a_warning():
    right = mesh("right")
    wrong = {
        "looks like a left one": examined("right", right * [-1, 1, 1]),
        "is its unit the metre": examined("right", 1e3 * right),
        "behind the camera": examined("right", right * [1, -1, -1]),
        "far outside the image": examined("right", right + np.array([2.0, 0, 0])),
        "another joint order": examined("right", right, project(mesh_joints(MODELS["right"], right), K)[list(OPENPOSE_FROM_MANO21)]),
    }
    for text, found in wrong.items():
        assert text in "; ".join(found.warnings()), text
    given = params(MODELS["right"], 1)
    with_mean = replace(given, hand_pose=given.hand_pose + MODELS["right"].hand_mean)
    assert "subtract the model's hand mean" in examined("right", right, given=with_mean).warnings()[0]
    unknown = examined("right", right, np.full((21, 2), np.nan))
    assert unknown.warnings() == [] and np.isnan(unknown.keypoint_px)
