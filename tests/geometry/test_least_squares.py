"""The arrow system against dense least squares, and Levenberg-Marquardt on a function that needs its damping."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from holdprep.geometry.least_squares import Equations, LevenbergMarquardt, Shared, solve

FRAMES, SIZE, SHARED, POINTS = 5, 4, 2, 3


def random_parts(seed):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    return draw(FRAMES, POINTS, 3, SIZE), draw(FRAMES, POINTS, 3, SHARED), draw(FRAMES, POINTS, 3), draw(FRAMES, POINTS, 3).square()


def dense(parts, moved, motion_weight):
    """The same equations as one dense weighted least-squares problem."""
    own, shared, residual, weight = parts
    rows, right, weights = [], [], []
    for t in range(FRAMES):
        row = np.zeros((POINTS * 3, FRAMES * SIZE + SHARED))
        row[:, t * SIZE : (t + 1) * SIZE] = own[t].reshape(-1, SIZE)
        row[:, -SHARED:] = shared[t].reshape(-1, SHARED)
        rows.append(row)
        right.append(residual[t].reshape(-1))
        weights.append(weight[t].reshape(-1))
    if moved is not None:
        for t in range(FRAMES - 1):
            rows.append(rows[t + 1] - rows[t])
            right.append(moved[t].reshape(-1))
            weights.append(np.full(POINTS * 3, motion_weight))
    A, b, w = np.concatenate(rows), np.concatenate(right), np.sqrt(np.concatenate(weights))
    return np.linalg.lstsq(A * w[:, None], -b * w, rcond=None)[0]


@pytest.mark.parametrize("with_motion", [False, True])
def test_arrow_system_equals_dense_least_squares(with_motion):
    parts = random_parts(0)
    moved = random_parts(1)[2][1:] if with_motion else None
    system = Equations(FRAMES, SIZE, SHARED)
    system.add(*parts)
    if moved is not None:
        system.add_differences(parts[0], parts[1], moved, 0.7)
    nothing = Shared(torch.zeros(SHARED, SHARED).double(), torch.zeros(SHARED).double())
    step = solve({"hand": system}, nothing, torch.zeros(FRAMES).double())
    expected = dense(parts, moved, 0.7)
    assert np.abs(step.own["hand"].numpy().ravel() - expected[:-SHARED]).max() < 1e-8
    assert np.abs(step.shared.numpy() - expected[-SHARED:]).max() < 1e-8


def test_prior_alone_pulls_back_the_departure():
    system = Equations(2, 3, 0)
    departure = torch.tensor([[0.1, -0.2, 0.3], [0.0, 0.5, 0.0]], dtype=torch.float64)
    system.add_quadratic(torch.diag(torch.tensor([1.0, 2.0, 3.0])).double(), departure)
    step = solve({"hand": system}, Shared(torch.zeros(0, 0).double(), torch.zeros(0).double()), torch.zeros(2).double())
    assert (step.own["hand"] + departure).abs().max() < 1e-9
    assert step.shared.shape == (0,)


class Valley:
    """Rosenbrock's function of a pair of unknowns a frame, as two residuals; frames start at different places."""

    def __init__(self, start):
        self.x = torch.nn.Parameter(start, False)
        self.now = self.at(start)

    def at(self, x):
        residual = torch.stack([10 * (x[:, 1] - x[:, 0] ** 2), 1 - x[:, 0]], dim=1)
        own = 0.5 * residual.square().sum(dim=1)
        return SimpleNamespace(x=x, residual=residual, own=own, total=float(own.sum()))

    def equations(self):
        x, T = self.now.x, len(self.now.x)
        J = torch.stack(
            [torch.stack([-20 * x[:, 0], torch.full((T,), 10.0).double()], 1), torch.tensor([[-1.0, 0]]).double().expand(T, 2)], 1
        )
        system = Equations(T, 2, 0)
        system.add(J[:, :, None], torch.zeros(T, 2, 1, 0).double(), self.now.residual[..., None], torch.ones(1).double())
        return {("x",): system}, Shared(torch.zeros(0, 0).double(), torch.zeros(0).double())

    def evaluate_step(self, step):
        return self.at(self.now.x + step.own[("x",)])

    def accept(self, there, systems, damping):
        self.now = there


def test_the_optimizer_descends_to_the_minimum_and_damps_frames_by_themselves():
    problem = Valley(torch.tensor([[-1.2, 1.0], [0.9, 0.8], [3.0, -4.0]], dtype=torch.float64))
    optimizer = LevenbergMarquardt([problem.x], problem, 3)
    totals = [problem.now.total]
    for _ in range(60):
        totals.append(optimizer.step())
        if optimizer.progress.stuck or optimizer.progress.moved < 1e-12:
            break
    assert totals == sorted(totals, reverse=True)
    assert torch.allclose(problem.now.x, torch.ones(3, 2).double(), atol=1e-8)
