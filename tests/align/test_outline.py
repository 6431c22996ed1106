"""The outline in the alignment, on silhouettes of the model itself."""

import numpy as np
import pytest
import torch

from holdprep.align.objective import Objective
from holdprep.align.problem import HandObservation, Problem, Refine, Weights, prepare
from holdprep.align.scene import Scene, Setup
from holdprep.align.terms.base import forward_jacobian
from holdprep.align.trajectory import Trajectory
from holdprep.geometry.cameras import pinhole_K, project
from holdprep.geometry.raster import covered
from holdprep.hand import lbs
from holdprep.hand.model import HandModel, ManoParams, load_hand_model
from holdprep.hand.outline import MaskEdge, Outlines

from .synthetic import align

FRAMES, SIZE = 8, (320, 240)
K = torch.as_tensor(pinhole_K(400.0, *SIZE))


@pytest.fixture(scope="module")
def model() -> HandModel:
    return load_hand_model("right", dtype=torch.float64)


def truth(frames: int = FRAMES) -> ManoParams:
    """A flat hand that rotates slowly before the camera."""
    t = torch.linspace(0, 1, frames, dtype=torch.float64)[:, None]
    orient = torch.cat([np.pi / 2 + 0 * t, 0.2 * t, 0.3 * t], dim=1)
    place = torch.cat([0.06 + 0 * t, 0.01 * t, 0.5 + 0.03 * t], dim=1)
    return ManoParams(orient, torch.zeros(frames, 45).double(), torch.zeros(10).double(), place)


def silhouettes(model: HandModel, params: ManoParams) -> list[np.ndarray]:
    vertices = lbs.forward(model, params).vertices.numpy()
    return [covered(project(v, K.numpy()), model.faces.numpy(), SIZE) for v in vertices]


def problem_of(model: HandModel, shift_px: float, frames: int = FRAMES) -> Problem:
    """Keypoints that lie `shift_px` to the right of the hand in every frame, and scatter by 5 px; an object somewhere."""
    scatter = 5 * torch.randn(frames, 21, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    seen = project(lbs.forward(model, truth(frames)).joints, K) + torch.tensor([shift_px, 0.0]).double() + scatter
    edges = [MaskEdge.of(mask, np.zeros_like(mask)) for mask in silhouettes(model, truth(frames))]
    hand = HandObservation(model, truth(frames), seen, torch.ones(frames, 21), None, Outlines(edges, model.faces.numpy()))
    cloud = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    T = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    T[:, 2, 3] = 10.0
    return Problem(K, SIZE, {"right": hand}, cloud, T, torch.ones(frames).double())


def iou(model: HandModel, params: ManoParams) -> float:
    pairs = zip(silhouettes(model, params), silhouettes(model, truth(len(params.transl))), strict=True)
    return float(np.mean([(a & b).sum() / (a | b).sum() for a, b in pairs]))


def test_the_outline_corrects_keypoints_that_are_wrong_in_every_frame(model: HandModel):
    problem = problem_of(model, 8.0)
    with_it, without = (align("h", problem, weights=Weights(outline=w)) for w in (None, 0.0))
    assert with_it.metrics["weights.outline"] > 0
    assert "outline" not in without.losses[-1]
    assert iou(model, without.hands["right"]) < 0.85
    assert iou(model, with_it.hands["right"]) > iou(model, without.hands["right"]) + 0.05


def test_its_jacobian_equals_forward_differentiation(model: HandModel):
    ready = prepare(problem_of(model, 8.0), Weights())
    state = {"right": lbs.to_state(model, truth())}
    scene = Scene(state, torch.zeros((), dtype=torch.float64), Trajectory.of(ready))
    objective = Objective(Setup.of(ready, state), Weights(outline=1.0), Refine(shape=True), scene)
    (term,) = [term for term in objective.terms if term.name == "outline"]
    view, at = objective.at.views["right"], objective.at.residuals["outline", "right"]
    assert at.value.shape[1] > 50
    own, shared = term.jacobian(view, at)
    by_own, by_shared = forward_jacobian(lambda moved: term.residuals(moved).value, view)
    torch.testing.assert_close(own, by_own, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(shared, by_shared, rtol=1e-6, atol=1e-7)
