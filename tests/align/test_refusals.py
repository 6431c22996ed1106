"""What cannot be aligned, and what is said then."""

from dataclasses import replace

import pytest
import torch

from holdprep.align.problem import Refine, Weights
from holdprep.errors import HoldprepError

from .synthetic import align, grasp

STILL = Refine(rotation=False, pose=False, shape=False)


def test_object_poses_without_observations_are_not_refined():
    problem, _ = grasp(frames=20)
    o = align("o", problem, initial=align("h", problem, refine=STILL))
    with pytest.raises(HoldprepError, match=r"cannot be refined without SfM's observations.*: set align.refine_obj_pose=false"):
        align("ho", problem, initial=o, refine=Refine(obj_pose=True))


def with_hand(problem, **changes):
    return replace(problem, hands={"right": replace(problem.hands["right"], **changes)})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: replace(p, hands={}), "no hand"),
        (lambda p: replace(p, obj_weight=torch.zeros(8)), "no object: 0 of 8 frames"),
        (lambda p: with_hand(p, weight=torch.zeros(8)), "none of 8 frames shows 4 keypoints of the right hand"),
        (lambda p: with_hand(p, j2d_px=torch.zeros(7, 21, 2)), "right j2d_px has shape"),
        (lambda p: replace(p, K=torch.full((3, 3), float("nan"))), "K holds 9 values that are not finite"),
        (lambda p: replace(p, T_cam_obj=p.T_cam_obj * torch.tensor([1.0, 1, -1, 1])[:, None]), "behind the camera in 8 of 8"),
    ],
)
def test_what_cannot_be_aligned_is_said_in_one_line(spoil, message):
    problem, _ = grasp(frames=8)
    with pytest.raises(HoldprepError, match=message) as error:
        align("h", spoil(problem))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_impossible_weights_are_named(value):
    problem, _ = grasp(frames=8)
    with pytest.raises(HoldprepError, match=r"weights\.contact="):
        align("h", problem, weights=Weights(contact=value))


def test_modes_need_their_predecessor():
    problem, _ = grasp(frames=8)
    h = align("h", problem, refine=STILL)
    with pytest.raises(HoldprepError, match="mode=o starts from the state of mode=h"):
        align("o", problem)
    with pytest.raises(HoldprepError, match="needs mode o"):
        align("ho", problem, initial=h)
    longer, _ = grasp(frames=9)
    with pytest.raises(HoldprepError, match="9 frames"):
        align("o", longer, initial=h)
