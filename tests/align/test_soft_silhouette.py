"""pytorch3d's soft silhouette as reference of the outline term: the same direction of descent, the same optimum."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from holdprep.align import hold
from holdprep.align.objective import Objective
from holdprep.align.problem import Refine, Weights, prepare
from holdprep.align.scene import Scene, Setup
from holdprep.align.soft_silhouette import SoftSilhouette, Windows, silhouette_loss
from holdprep.align.trajectory import Trajectory
from holdprep.errors import HoldprepError
from holdprep.hand import lbs
from holdprep.hand.model import HandModel, load_hand_model
from holdprep.optimisation import Training

from .synthetic import align
from .test_outline import FRAMES, K, iou, problem_of, truth

HAS_PYTORCH3D = True
try:
    import pytorch3d  # noqa: F401
except ImportError:
    HAS_PYTORCH3D = False
needs_pytorch3d = pytest.mark.skipif(not HAS_PYTORCH3D, reason="needs pytorch3d (holdprep/README.md, 'With pytorch3d')")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module")
def model() -> HandModel:
    return load_hand_model("right", dtype=torch.float64)


def test_a_window_is_the_mask_and_its_camera(model: HandModel):
    """The hand's vertices, seen by the window's camera, lie on the window's mask."""
    problem = problem_of(model, 0.0)
    windows = Windows.of(problem.hands["right"].outlines.edges, K)
    vertices = lbs.forward(model, truth()).vertices
    seen = vertices @ windows.K.mT
    px = (seen[..., :2] / seen[..., 2:]).round().long().clamp(0, windows.mask.shape[1] - 1)
    on = torch.stack([windows.mask[t, px[t, :, 1], px[t, :, 0]] > 0.4 for t in range(FRAMES)])
    assert float(on.double().mean()) > 0.97


@pytest.mark.skipif(HAS_PYTORCH3D, reason="pytorch3d is there")
def test_without_pytorch3d_the_error_gives_the_installation(model: HandModel):
    with pytest.raises(HoldprepError, match=r"needs pytorch3d .*: pip install --no-build-isolation"):
        align("h", problem_of(model, 5.0), method="soft_silhouette", max_iterations=1)


@needs_pytorch3d
def test_the_outline_has_the_direction_of_the_soft_silhouette(model: HandModel):
    """A hand 6 px beside its masks, in four directions: the translations in the picture's plane that both want are parallel."""
    ready = prepare(problem_of(model, 0.0, frames=2), Weights())
    windows = Windows.of(ready.hands["right"].outlines.edges, K)
    at = lbs.to_state(model, truth(2))
    for angle in np.arange(4) * np.pi / 2 + 0.3:
        shift = torch.tensor([np.cos(angle), np.sin(angle), 0.0]) * 6 * 0.5 / 400
        state = lbs.HandState(at.rotations, at.betas, at.transl + shift)
        scene = Scene({"right": state}, torch.zeros((), dtype=torch.float64), Trajectory.of(ready))
        refine = Refine(rotation=False, pose=False)
        objective = Objective(Setup.of(ready, {"right": state}), Weights(j2d=0.0, outline=1.0), refine, scene)
        (system,) = objective.equations()[0].values()
        wanted = -system.gradient[:, :2].mean(dim=0)
        moved = torch.zeros(3, device=DEVICE, requires_grad=True)
        vertices = lbs.forward(model, truth(2)).vertices.float().to(DEVICE) + shift.float().to(DEVICE) + moved
        silhouette_loss(vertices, model.faces, windows).mean().backward()
        reference = -moved.grad.cpu().double()[:2]
        assert float(torch.nn.functional.cosine_similarity(wanted, reference, dim=0)) > 0.9
        assert float(wanted @ shift[:2]) < 0 > float(reference @ shift[:2])


@needs_pytorch3d
def test_both_have_the_same_optimum(model: HandModel):
    """Keypoints that are 8 px wrong in every frame: outline and renderer bring the hand back to its masks."""
    problem = problem_of(model, 8.0, frames=2)
    refine = Refine(rotation=False, pose=False)
    outline = align("h", problem, weights=Weights(j2d=0.01, outline=1.0), refine=refine)
    training = Training(device=DEVICE)
    soft = align("h", problem, method="soft_silhouette", refine=refine, silhouette=2e5, max_iterations=40, training=training)
    assert iou(model, outline.hands["right"]) > 0.93
    assert iou(model, soft.hands["right"]) > 0.93
    px = [400 * (x.hands["right"].transl - truth(2).transl)[:, :2] / truth(2).transl[:, 2:] for x in (outline, soft)]
    assert float((px[0] - px[1]).norm(dim=1).max()) < 2.0
    assert soft.losses[-1]["silhouette"] < 0.5 * soft.losses[0]["silhouette"]


@pytest.mark.skipif(not (HAS_PYTORCH3D and torch.cuda.is_available()), reason="needs pytorch3d and a CUDA device")
def test_contact_search_by_pytorch3d_equals_the_plain_one():
    g = torch.Generator().manual_seed(0)
    hand, points = (torch.randn(5, n, 3, generator=g) for n in (778, 900))
    found = hold.nearest_squared(hand.cuda().requires_grad_(), points.cuda())
    torch.testing.assert_close(found.cpu(), hold.nearest_squared(hand, points), rtol=1e-4, atol=1e-6)
    assert found.requires_grad


def test_hands_without_masks_are_refused(model: HandModel):
    problem = problem_of(model, 0.0)
    bare = replace(problem, hands={"right": replace(problem.hands["right"], outlines=None)})
    state = {"right": lbs.to_state(model, truth())}
    with pytest.raises(HoldprepError, match="needs masks of the right hand"):
        SoftSilhouette(prepare(bare, Weights()), state, Refine(), 1.0)
