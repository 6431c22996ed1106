"""Left hands of HOLD's generator, whose shape directions have the opposite sign of x: recognised by the mesh beside them, and converted."""

from dataclasses import replace

import pytest
import torch

from holdprep.hand import hold_left, lbs
from holdprep.hand.model import ManoParams, load_hand_model

LEFT = load_hand_model("left", dtype=torch.float64)
HOLDS = replace(LEFT, shapedirs=LEFT.shapedirs * torch.tensor([-1.0, 1.0, 1.0]).double()[:, None])


def params(seed: int, per_frame: bool = False) -> ManoParams:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    return ManoParams(normal(3, 3), 0.2 * normal(3, 45), normal(*((3, 10) if per_frame else (10,))), normal(3, 3) * 0.05 + 0.6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("per_frame", [False, True])
def test_holds_left_hand_keeps_its_mesh(seed: int, per_frame: bool):
    given = params(seed, per_frame)
    truth = lbs.forward(HOLDS, given).vertices
    before_mm = 1e3 * float((lbs.forward(LEFT, given).vertices - truth).norm(dim=-1).mean())
    found, off_mm = hold_left.converted(given, LEFT)
    after_mm = 1e3 * float((lbs.forward(LEFT, found).vertices - truth).norm(dim=-1).mean())
    assert before_mm > 3 and after_mm < 0.4 * before_mm
    assert after_mm == pytest.approx(off_mm, rel=0.5)  # what the note says
    assert found.betas.shape == given.betas.shape
    wrist = (lbs.forward(LEFT, found).joints - lbs.forward(HOLDS, given).joints)[:, 0]
    assert float(wrist.norm(dim=-1).max()) < 1e-9


def test_the_mesh_beside_the_parameters_shows_whose_they_are():
    given = params(0)
    theirs, ours = lbs.forward(HOLDS, given).vertices, lbs.forward(LEFT, given).vertices
    noise = 0.003 * torch.randn(theirs.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    theirs[1], ours[1] = float("nan"), float("nan")
    assert hold_left.is_of_hold(given, LEFT, theirs) and hold_left.is_of_hold(given, LEFT, theirs + 0.5 * noise)
    assert not hold_left.is_of_hold(given, LEFT, ours) and not hold_left.is_of_hold(given, LEFT, ours + noise)
    mean = replace(given, betas=torch.zeros(10).double())
    assert not hold_left.is_of_hold(mean, LEFT, lbs.forward(HOLDS, mean).vertices)  # both conventions are one
    assert not hold_left.is_of_hold(given, load_hand_model("right", dtype=torch.float64), theirs)
