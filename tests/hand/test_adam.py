"""The published schedule: losses against values computed by hand, the rule for the rate, convergence to an exact target."""

import pytest
import torch

from holdprep.hand import lbs
from holdprep.hand.adam import AdamRegistration, Schedule, register_adam, tip_vertices
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
    assert module.losses()["vertex"].item() == pytest.approx(0.03**2 / 3)
    assert module.losses()["edge"].item() == pytest.approx(0, abs=1e-12)
    assert "tip" not in module.losses()
    module.coarse = False
    module.free["betas"].data += 2.0
    assert module.losses()["shape"].item() == pytest.approx(0.01 * 4)
    module.free["betas"].data -= 2.0
    assert module.losses()["tip"].item() == pytest.approx(0.1 * 0.03**2 / 3)
    module.target = rest.clone()
    module.target[0, 744, 1] += 0.01  # one vertex of one fingertip: it and the edges at it
    edges = int((module.edges == 744).any(dim=1).sum())
    assert module.losses()["vertex"].item() == pytest.approx(0.01**2 / (778 * 3), rel=1e-4)
    assert module.losses()["edge"].item() == pytest.approx(edges * 0.01**2 / (len(module.edges) * 3), rel=1e-4)
    assert module.losses()["tip"].item() == pytest.approx(0.1 * 0.01**2 / (100 * 3), rel=1e-4)  # of five patches of 20 vertices


def published(target_m: torch.Tensor, limits: list[int]) -> list[tuple[list[float], float]]:
    """The published schedule in torch's own words: losses and rotation's x after each frame."""
    model = load_hand_model("right")
    edges = AdamRegistration(model, target_m, Schedule(), "").edges
    tips = tip_vertices(model)
    sizes = {"global_orient": 3, "hand_pose": 45, "betas": 10, "transl": 3}
    free, found = {name: torch.zeros(1, n, requires_grad=True) for name, n in sizes.items()}, []
    for goal, limit in zip(target_m, limits, strict=True):
        losses = []
        for names, rate in ((("global_orient", "transl"), 0.1), (tuple(sizes), 0.01)):
            adam = torch.optim.Adam([free[name] for name in names], lr=rate)
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, patience=30)
            for _ in range(limit):
                off = lbs.forward(model, ManoParams(**free)).vertices[0] - goal
                loss = off.square().mean() + (off[edges[:, 0]] - off[edges[:, 1]]).square().mean()
                loss = loss + (0.1 * off[tips].square().mean() if rate == 0.01 else 0)
                adam.zero_grad()
                loss.backward()
                adam.step()
                plateau.step(loss.detach())
                losses.append(float(loss))
                if adam.param_groups[0]["lr"] <= 1e-5 * (1 + 1e-9):
                    break
        found.append((losses, float(free["global_orient"][0, 0])))
    return found


def test_iterations_are_those_of_the_published_schedule():
    """Frame by frame, each from the last one; each part with a new Adam and a new plateau. The numbers are those of `published`."""
    vertices = target(2)
    found, _ = register_adam(load_hand_model("right"), vertices, Schedule(iterations=40, later_iterations=25))
    (first, x_first), (second, x_second) = published(vertices, [40, 25])
    losses = [terms["loss"] for terms in found.history]
    assert len(losses) == len(first) + len(second)
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(first + second), rtol=2e-3, atol=1e-9)
    assert found.params.global_orient[:, 0].tolist() == pytest.approx([x_first, x_second], abs=1e-4)
    assert second[0] < 0.05 * first[0]  # the second frame starts from the first one's hand
    recorded = [first[i] for i in (0, 39, 40, 79)] + [second[i] for i in (0, 24, 25, 49)]
    assert recorded == pytest.approx([8.3447e-2, 4.763e-4, 3.8225e-4, 2.1416e-5, 1.6444e-3, 5.1092e-4, 7.0875e-4, 1.04127e-4], rel=1e-2)


def test_it_approaches_the_second_order_optimum():
    model, vertices = load_hand_model("right"), target(2)
    vertices[0] = float("nan")
    found, coarse = register_adam(model, vertices, Schedule(iterations=250))
    assert found.is_valid.tolist() == [False, True]
    assert torch.isnan(found.params.hand_pose[0]).all()
    assert found.params.betas.shape == (2, 10)
    assert float(found.error_m[1]) < 3e-3
    rigid = (lbs.forward(model.to(torch.float64), coarse).vertices - vertices)[1].norm(dim=-1).mean()
    assert float(rigid) > float(found.error_m[1])
    assert float(coarse.hand_pose[1].abs().max()) == 0
    exact = register(load_hand_model("right", dtype=torch.float64), Targets(vertices_m=vertices))
    assert float(exact.error_m.nanmean()) < float(found.error_m.nanmean())


def test_the_rate_decreases_on_a_plateau_and_ends_the_part():
    model = load_hand_model("right")
    found, _ = register_adam(model, target(1), Schedule(iterations=60))
    assert len(found.history) == 120
    assert "tip" not in found.history[59]
    assert "tip" in found.history[60]
