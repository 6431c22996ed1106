"""The published schedule: losses against values computed by hand, the rule for the rate, convergence to an exact target."""

import pytest
import torch

from holdprep.hand import lbs
from holdprep.hand.adam import AdamRegistration, Schedule, register_adam
from holdprep.hand.model import ManoParams, load_hand_model
from holdprep.hand.registration import register
from holdprep.hand.targets import Targets


def target(frames: int) -> torch.Tensor:
    t = torch.linspace(0, 1, frames)[:, None]
    pose = 0.3 * torch.sin(3 * t + torch.arange(45) / 7)
    params = ManoParams(
        torch.cat([0.5 * t, -0.4 * t, 0.3 + 0 * t], 1), pose, 0.5 * torch.ones(10), torch.cat([0 * t, 0 * t, 0.5 + 0 * t], 1)
    )
    return lbs.forward(load_hand_model("right"), params).vertices


def test_losses_are_the_published_ones():
    model = load_hand_model("right")
    module = AdamRegistration(model, torch.zeros(2, 778, 3), Schedule(shape_loss=True), "register")
    rest = lbs.forward(model, module.params()).vertices
    module.target = rest - torch.tensor([0.0, 0.0, 0.03])  # 3 cm in front everywhere: no edge is longer
    assert module.losses()["vertex"].item() == pytest.approx(2 * 0.03**2 / 3)
    assert module.losses()["edge"].item() == pytest.approx(0, abs=1e-12)
    assert "tip" not in module.losses()
    module.coarse = False
    module.free["betas"].data += 0.0
    assert module.losses()["tip"].item() == pytest.approx(0.1 * 2 * 0.03**2 / 3)
    module.target = rest.clone()
    module.target[0, 744, 1] += 0.01  # one fingertip of one frame: it and the edges at it
    edges = int((module.edges == 744).any(dim=1).sum())
    assert module.losses()["vertex"].item() == pytest.approx(0.01**2 / (778 * 3), rel=1e-4)
    assert module.losses()["edge"].item() == pytest.approx(edges * 0.01**2 / (len(module.edges) * 3), rel=1e-4)
    assert module.losses()["tip"].item() == pytest.approx(0.1 * 0.01**2 / 15, rel=1e-4)


def test_it_approaches_the_second_order_optimum():
    model, vertices = load_hand_model("right"), target(3)
    vertices[1] = float("nan")
    found, coarse = register_adam(model, vertices, Schedule(iterations=400))
    assert found.is_valid.tolist() == [True, False, True]
    assert torch.isnan(found.params.hand_pose[1]).all()
    assert found.params.betas.shape == (3, 10)
    assert float(found.error_m[found.is_valid].max()) < 3e-3
    rigid = (lbs.forward(model.to(torch.float64), coarse).vertices - vertices)[found.is_valid].norm(dim=-1).mean()
    assert float(rigid) > float(found.error_m[found.is_valid].mean())
    assert float(coarse.hand_pose[found.is_valid].abs().max()) == 0
    exact = register(load_hand_model("right", dtype=torch.float64), Targets(vertices_m=vertices))
    assert float(exact.error_m.nanmean()) < float(found.error_m.nanmean())


def test_the_rate_decreases_on_a_plateau_and_ends_the_part():
    model = load_hand_model("right")
    found, _ = register_adam(model, target(1), Schedule(iterations=60))
    assert len(found.history) == 120
    assert "tip" not in found.history[59]
    assert "tip" in found.history[60]
