"""Interface of the terms of the alignment's objective, and their view of the scene.

The objective is in px^2: HOLD's mean squared reprojection error of a joint. Every term is a mean, so that a weight has the same effect
for a long and a short clip.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from holdprep.align.layout import Group, Layout
from holdprep.align.order import Faces
from holdprep.align.problem import HandObservation, Problem, Weights
from holdprep.align.scene import Scene, Setup
from holdprep.geometry.least_squares import Columns, Equations, Shared
from holdprep.geometry.rigid import departure
from holdprep.geometry.robust import SQUARE, Loss
from holdprep.hand.lbs import NUM_JOINTS, HandPoints, Posed
from holdprep.hand.model import Side
from holdprep.hand.outline import OutlineTargets
from holdprep.hand.slopes import rotation_slopes


@dataclass(frozen=True)
class Residuals:
    """Values (T, Q, M) with weights that make their loss a mean, (T, Q, M) or what broadcasts to it; `loss` is robust or square. `extra` is
    what the term's own Jacobian needs again."""

    value: Tensor
    weight: Tensor
    loss: Loss = SQUARE
    extra: Mapping[str, Tensor] | None = None

    def total(self) -> float:
        """The weighted loss."""
        return float((self.loss.value(self.value) * self.weight).sum())


@dataclass(frozen=True)
class Noise:
    """Noise of a hand's keypoints, estimated in an iteration.

    `variance_px2` per axis; `share` (3 or 6,) of each coordinate of translation and rotation that the data determine, not its prior; frames
    `seen` (T,) bool; number of observed `joints` of all hands; the weights `before` the update.
    """

    variance_px2: float
    share: Tensor
    seen: Tensor
    joints: float
    before: Mapping[str, float]


@dataclass(frozen=True)
class HandView:
    """One hand in a scene, posed once for all terms.

    `edges` are the outline's correspondences and `faces` those of the depth order, which are held between two searches; None without masks.
    """

    setup: Setup
    layout: Layout
    scene: Scene
    side: Side
    edges: OutlineTargets | None = None
    faces: Faces | None = None

    @property
    def problem(self) -> Problem:
        """The problem, with all hands."""
        return self.setup.problem

    @property
    def hand(self) -> HandObservation:
        """The observations of this hand."""
        return self.problem.hands[self.side]

    @cached_property
    def K(self) -> Tensor:
        """(3, 3) intrinsics with the scene's focal length."""
        return self.scene.trajectory.K(self.problem.K)

    @cached_property
    def posed(self) -> Posed:
        """Posed joints, then patches of the fingertips."""
        return self.setup.points[self.side].pose(self.scene.hands[self.side])

    @cached_property
    def skin(self) -> Posed:
        """Posed joints, then all vertices."""
        return self.setup.skin[self.side].pose(self.scene.hands[self.side])

    @cached_property
    def departure(self) -> Tensor:
        """(T, 16, 3) rad, rotation vectors from the registered to the present rotations of the bones, in their parents' frames."""
        return departure(self.scene.hands[self.side].rotations, self.setup.registered[self.side].rotations)

    @property
    def joints(self) -> Tensor:
        """(T, 21, 3) m, camera frame."""
        return self.posed.points[:, :NUM_JOINTS]

    @cached_property
    def joint_jacobians(self) -> tuple[Tensor, Tensor]:
        """Derivatives of the joints by the hand's unknowns of their frame (T, 21, 3, n), and by the shared unknowns (T, 21, 3, shared)."""
        posed, of, ids, bones = self.posed, self.setup.points[self.side], torch.arange(NUM_JOINTS)[None], self.layout.bones
        own = [torch.eye(3, dtype=torch.float64).expand(len(posed.points), NUM_JOINTS, 3, 3)]
        if bones == [0]:
            own.append(of.root_jacobian(posed, ids))
        elif bones:
            own.append(of.rotation_jacobian(posed, ids)[..., bones, :].flatten(3))
        shared = torch.zeros(len(posed.points), NUM_JOINTS, 3, self.layout.shared, dtype=torch.float64)
        if (betas := self.layout.betas(self.side)) is not None:
            shared[..., betas] = of.shape_jacobian(posed, ids)
        return torch.cat(own, dim=-1), shared

    def slopes(self, posed: Posed, of: HandPoints, ids: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of points `ids` (T, Q) along directions (T, Q, 3), as those of `joint_jacobians`: (T, Q, 1, n) and (T, Q, 1, shared)."""
        own, bones = [along], self.layout.bones
        if bones == [0]:
            own.append((along[:, :, None] @ of.root_jacobian(posed, ids))[:, :, 0])
        elif bones:
            own.append(rotation_slopes(of, posed, ids, along)[..., bones, :].flatten(2))
        shared = torch.zeros(*ids.shape, 1, self.layout.shared, dtype=torch.float64)
        if (betas := self.layout.betas(self.side)) is not None:
            shared[..., betas] = along[:, :, None] @ of.shape_jacobian(posed, ids)
        return torch.cat(own, dim=-1)[:, :, None], shared

    def moved(self, own: Tensor, shared: Tensor) -> "HandView":
        """The view after a step of this hand's unknowns (T, n), the object's pose last where it is free, and of the shared unknowns."""
        return replace(self, scene=self.scene.stepped(self.layout, self.setup.sfm_unit, {self.side: own}, shared))


class Term:
    """One term of the objective.

    `name` is that of its file; `first` the initial weight where `weights.<name>` is not set; `unit` that of the weight.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = "px^2"
    first: ClassVar[float] = 0.0

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def applies(self, setup: Setup, layout: Layout) -> bool:
        """Whether this mode has the term."""
        return True

    def starts_at(self, setup: Setup) -> float:
        """The initial weight."""
        return self.first

    def measured(self, view: HandView, noise: Noise) -> float | None:
        """The weight estimated from one hand, of which the mean over hands is used; None where it cannot be estimated."""
        return None


class HandTerm(Term):
    """A term per hand; the objective contains its mean over hands."""

    def residuals(self, view: HandView) -> Residuals:
        """Residuals of one hand."""
        raise NotImplementedError

    def columns(self, view: HandView) -> Columns:
        """Columns of the block to which the Jacobian by a frame's unknowns refers."""
        return view.layout.hand_and_object(view.side)

    def jacobian(self, view: HandView, at: Residuals) -> tuple[Tensor, Tensor]:
        """(T, Q, M, n) by a frame's unknowns and (T, Q, M, shared), by forward differentiation unless the term has its own."""
        return forward_jacobian(lambda moved: self.residuals(moved).value, view)

    def add(self, view: HandView, at: Residuals, system: Equations, shared: Shared, weight: float) -> None:
        """Add its Gauss-Newton equations, times `weight`."""
        own, common = self.jacobian(view, at)
        system.add(own, common, at.value, (at.weight * at.loss.weight(at.value)).expand_as(at.value) * weight, self.columns(view))


class SceneTerm(Term):
    """A term of the unknowns that all hands share."""

    def value(self, setup: Setup, scene: Scene) -> float:
        """Value without weight."""
        raise NotImplementedError

    def add_to(self, setup: Setup, layout: Layout, scene: Scene, systems: Mapping[Group, Equations], shared: Shared, weight: float) -> None:
        """Add its Gauss-Newton equations, times `weight`."""
        raise NotImplementedError


def forward_jacobian(residuals: Callable[[HandView], Tensor], view: HandView) -> tuple[Tensor, Tensor]:
    """Derivatives (T, Q, M, n) of residuals (T, Q, M) by the unknowns of their frame, and (T, Q, M, shared) by the shared unknowns.

    One forward pass per unknown, in all frames at once (torch.func.jvp).
    """
    frames, own, shared = view.problem.num_frames, view.layout.own_size(view.side), view.layout.shared
    zero = (torch.zeros(frames, own, dtype=torch.float64), torch.zeros(shared, dtype=torch.float64))

    def at(step: Tensor, common: Tensor) -> Tensor:
        return residuals(view.moved(step, common))

    def slope(number: int, which: int) -> Tensor:
        direction = [torch.zeros_like(x) for x in zero]
        direction[which][..., number] = 1.0
        return torch.func.jvp(at, zero, tuple(direction))[1]

    by_own = [slope(n, 0) for n in range(own)]
    by_shared = [slope(n, 1) for n in range(shared)]
    value = residuals(view)
    return (
        torch.stack(by_own, dim=-1) if by_own else value.new_zeros(*value.shape, 0),
        torch.stack(by_shared, dim=-1) if by_shared else value.new_zeros(*value.shape, 0),
    )
