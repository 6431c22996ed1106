"""Overlapping fingers are moved apart along the line between their bones; others are unchanged."""

import numpy as np
import pytest
import torch

from holdprep.hand import lbs
from holdprep.hand.model import SIDES, HandModel, ManoParams, load_hand_model
from holdprep.hand.registration import register
from holdprep.hand.separation import Separation, finger_radii
from holdprep.hand.targets import Targets
from holdprep.quality.self_penetration import self_penetration_mm

ZERO = torch.zeros(10, dtype=torch.float64)


@pytest.fixture(scope="module", params=SIDES)
def model(request: pytest.FixtureRequest) -> HandModel:
    return load_hand_model(request.param, dtype=torch.float64)


def posed(model: HandModel, spread_rad: float, frames: int = 1) -> ManoParams:
    """Fingers bent by 0.3 rad at each joint; the index finger's knuckle spread towards the middle finger."""
    sign = 1.0 if model.side == "right" else -1.0
    pose = torch.zeros(frames, 15, 3, dtype=torch.float64)
    pose[:, 0, 1] = sign * spread_rad
    place = torch.tensor([[0.0, 0.0, 0.5]], dtype=torch.float64).expand(frames, 3)
    return ManoParams(torch.zeros(frames, 3, dtype=torch.float64), pose.flatten(1), ZERO, place)


def crossing(model: HandModel, frames: int = 1) -> ManoParams:
    """The spread, of either sign, that brings the index finger deepest into the middle finger."""
    both = [posed(model, s, frames) for s in (-0.5, 0.5)]
    return max(both, key=lambda p: float(self_penetration_mm(model, lbs.forward(model, p).vertices).max()))


def test_radii_are_half_a_fingers_breadth(model: HandModel):
    radii_mm = 1e3 * finger_radii(model, ZERO)
    assert radii_mm.min() > 5 and radii_mm.max() < 14
    thinner = ZERO.clone()
    thinner[2] = 2.0
    assert not torch.allclose(finger_radii(model, thinner), finger_radii(model, ZERO))


def test_a_relaxed_hand_has_no_targets(model: HandModel):
    joints = lbs.forward(model, posed(model, 0.0)).joints
    found = Separation.of(joints, 0.8 * finger_radii(model, ZERO))
    assert found is None or float((found.target_m - joints.gather(1, found.ids[..., None].expand(-1, -1, 3))).abs().max()) < 1e-3


def test_targets_move_two_crossed_capsules_apart_by_their_overlap():
    """Two straight fingers 10 mm apart with radii of 8 mm: each moves by half of 16 - 1.5 - 10 mm along the line between them."""
    joints = torch.full((1, 21, 3), 1.0, dtype=torch.float64)
    joints += torch.arange(21, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.0, 0.0])  # all others far away
    for k, joint in enumerate((1, 2, 3, 17)):
        joints[0, joint] = torch.tensor([0.03 * k, 0.0, 0.0])
    for k, joint in enumerate((4, 5, 6, 18)):
        joints[0, joint] = torch.tensor([0.03 * k, 0.01, 0.0])
    found = Separation.of(joints, torch.full((5,), 0.008, dtype=torch.float64))
    assert found is not None
    moved = found.target_m - joints.gather(1, found.ids[..., None].expand(-1, -1, 3))
    used = found.weight[0] > 0
    size = moved[0].norm(dim=-1)[used]
    np.testing.assert_allclose(size.max(), 0.00225, atol=1e-6)
    index = torch.isin(found.ids[0], torch.tensor([1, 2, 3, 17])) & used
    assert bool((moved[0, index, 1] <= 0).all()) and bool((moved[0, used & ~index, 1] >= 0).all())


def test_registration_separates_intersecting_fingers(model: HandModel):
    """Keypoints of crossed fingers, as confused by a tracker: the overlap is reduced to less than half, by a few mm of joint motion."""
    frames = 8
    joints = lbs.forward(model, crossing(model, frames)).joints
    given = Targets(j3d_m=joints - joints[:, :1], relative=True, j3d_sigma_m=0.006)
    found = register(model, given)
    before = self_penetration_mm(model, lbs.forward(model, crossing(model, frames)).vertices).max()
    after = self_penetration_mm(model, lbs.forward(model, found.params).vertices).max()
    assert before > 6
    assert after < 0.6 * before
    ours = lbs.forward(model, found.params).joints
    assert float((ours - ours[:, :1] - joints + joints[:, :1]).norm(dim=-1).mean()) < 0.006
