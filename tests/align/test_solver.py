import numpy as np
import pytest
import torch

from holdprep.align.solver import BlockSystem, solve

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
    system = BlockSystem(FRAMES, SIZE, SHARED)
    system.add(*parts)
    if moved is not None:
        system.add_motion(parts[0], parts[1], moved, 0.7)
    per_frame, shared = solve({"hand": system}, np.zeros((SHARED, SHARED)), np.zeros(SHARED), 0.0)
    expected = dense(parts, moved, 0.7)
    assert np.abs(per_frame["hand"].ravel() - expected[:-SHARED]).max() < 1e-8
    assert np.abs(shared - expected[-SHARED:]).max() < 1e-8


def test_prior_alone_pulls_back_the_departure():
    system = BlockSystem(2, 3, 0)
    departure = torch.tensor([[0.1, -0.2, 0.3], [0.0, 0.5, 0.0]], dtype=torch.float64)
    system.add_squares(np.diag([1.0, 2.0, 3.0])[None], departure.numpy())
    step, shared = solve({"hand": system}, np.zeros((0, 0)), np.zeros(0), 0.0)
    assert np.abs(step["hand"] + departure.numpy()).max() < 1e-9
    assert shared.shape == (0,)
