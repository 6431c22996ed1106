"""The objective of modes h and ho: the sum of weighted terms, as a least-squares problem that estimates its own weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from holdprep.align import evidence as ev
from holdprep.align.layout import Group, Layout
from holdprep.align.metrics import depth_order_rays
from holdprep.align.order import Faces
from holdprep.align.problem import Refine, Weights
from holdprep.align.scene import Scene, Setup
from holdprep.align.terms import HandTerm, SceneTerm, Term, every
from holdprep.align.terms.base import HandView, Noise, Residuals
from holdprep.geometry.least_squares import Equations, Evaluation, Key, Shared, Step
from holdprep.hand.lbs import NUM_JOINTS
from holdprep.hand.model import Side
from holdprep.hand.outline import OutlineTargets

MATCH_STEPS = 4  # steps between two searches for correspondences, of which those of the outline take longer than a step


@dataclass(frozen=True)
class SceneEvaluation:
    """The terms at a scene: each hand's view and residuals, every term's unweighted value (a mean over hands), and the `weights` in use."""

    scene: Scene
    views: Mapping[Side, HandView]
    residuals: Mapping[tuple[str, Side], Residuals]
    unweighted: Mapping[str, float]
    weights: Mapping[str, float]

    @property
    def total(self) -> float:
        """The objective, px^2."""
        return sum(self.weights[name] * value for name, value in self.unweighted.items())

    @property
    def own(self) -> Tensor | None:
        """None: frames share the scale and neighbouring frames are coupled, so that there is no loss per frame."""
        return None

    def terms(self) -> dict[str, float]:
        """Weighted terms, px^2, and their sum as `loss`."""
        return {name: self.weights[name] * value for name, value in self.unweighted.items()} | {"loss": self.total}


class Objective:
    """The terms that apply, their weights, and the scene; weights that are not set start from `measured`, those of the previous mode."""

    def __init__(self, setup: Setup, weights: Weights, refine: Refine, scene: Scene, measured: Mapping[str, float] | None = None) -> None:
        self.setup, self.given = setup, weights
        self.layout = Layout(tuple(setup.problem.hands), refine, setup.surface is not None, len(scene.anchors_m))
        self.terms: list[Term] = [term for cls in every() if (term := cls(weights)).applies(setup, self.layout)]
        first = {term.name: term.starts_at(setup) for term in self.terms} | dict(measured or {})
        self.effective = {term.name: first[term.name] if (w := weights.of(term.name)) is None else w for term in self.terms}
        self.matched = self._correspondences(scene)
        self.now: Evaluation = self.evaluate(scene)

    @property
    def at(self) -> SceneEvaluation:
        """The evaluation at the current scene."""
        assert isinstance(self.now, SceneEvaluation)
        return self.now

    def evaluate(self, scene: Scene) -> SceneEvaluation:
        """All terms at a scene, under the current weights and correspondences."""
        views = {
            side: replace(view, edges=edges, faces=faces)
            for side, view in self._views(scene).items()
            for edges, faces in [self.matched[side]]
        }
        hand_terms = [term for term in self.terms if isinstance(term, HandTerm)]
        residuals = {(term.name, side): term.residuals(view) for term in hand_terms for side, view in views.items()}
        unweighted = {term.name: sum(residuals[term.name, side].total() for side in views) / len(views) for term in hand_terms}
        unweighted |= {term.name: term.value(self.setup, scene) for term in self.terms if isinstance(term, SceneTerm)}
        return SceneEvaluation(scene, views, residuals, unweighted, self.effective)

    def match(self) -> None:
        """Update the correspondences: of every hand's outline with its mask's edge, and of its skin with the object's faces."""
        if self._matching:
            self.matched = self._correspondences(self.at.scene)
            self.now = self.evaluate(self.at.scene)

    def _views(self, scene: Scene) -> dict[Side, HandView]:
        return {side: HandView(self.setup, self.layout, scene, side) for side in self.setup.problem.hands}

    @property
    def _matching(self) -> set[str]:
        """Terms that apply and have correspondences."""
        return {"outline", "order"} & {term.name for term in self.terms}

    def _correspondences(self, scene: Scene) -> dict[Side, tuple[OutlineTargets | None, Faces | None]]:
        """Of every hand, with the outline in frames with keypoints, and with the object's faces where masks show the depth order."""
        return {
            side: (self._edges(view) if "outline" in self._matching else None, self._faces(view) if "order" in self._matching else None)
            for side, view in self._views(scene).items()
        }

    @staticmethod
    def _edges(view: HandView) -> OutlineTargets | None:
        if view.hand.outlines is None:
            return None
        targets = OutlineTargets.of(view.hand.outlines, view.skin.points[:, NUM_JOINTS:], view.K)
        return replace(targets, weight=targets.weight * (view.hand.weight.sum(dim=1, keepdim=True) > 0))

    def _faces(self, view: HandView) -> Faces | None:
        surface, trajectory = self.setup.surface, view.scene.trajectory
        assert surface is not None
        problem = replace(view.problem, K=view.K, T_cam_obj=trajectory.T_cam_obj)
        order = depth_order_rays(problem, view.side, view.scene.hands[view.side], surface)
        return None if order is None or not len(order.frame) else Faces.of(order, surface, problem.num_frames)

    def equations(self) -> tuple[Mapping[Key, Equations], Shared]:
        """Each group's equations, and those of the shared unknowns."""
        layout, share = self.layout, 1 / len(self.at.views)
        shared = Shared(torch.zeros(layout.shared, layout.shared).double(), torch.zeros(layout.shared).double())
        frames = self.setup.problem.num_frames
        systems: dict[Group, Equations] = {group: Equations(frames, layout.size(group), layout.shared) for group in layout.groups}
        for term in self.terms:
            weight = self.effective[term.name]
            if weight == 0:
                continue
            if isinstance(term, SceneTerm):
                term.add_to(self.setup, layout, self.at.scene, systems, shared, weight)
            elif isinstance(term, HandTerm):
                for side, view in self.at.views.items():
                    term.add(view, self.at.residuals[term.name, side], systems[layout.group(side)], shared, share * weight)
        return systems, shared

    def evaluate_step(self, step: Step) -> SceneEvaluation:
        """The evaluation after a step of the solver."""
        layout, own = self.layout, dict[Side, Tensor]()
        for side in layout.sides:
            block = step.own[layout.group(side)]
            own[side] = block[:, layout.hand_and_object(side)]
        return self.evaluate(self.at.scene.stepped(layout, self.setup.sfm_unit, own, step.shared))

    def accept(self, there: Evaluation, systems: Mapping[Key, Equations], damping: Tensor) -> None:
        """Accept the step, and estimate the weights that are not set from the equations and the residuals after it."""
        assert isinstance(there, SceneEvaluation)
        estimates: dict[str, list[float]] = {term.name: [] for term in self.terms}
        for side, view in there.views.items():
            noise = self._noise(side, there, systems)
            for term in self.terms:
                value = term.measured(view, noise)
                if value is not None:
                    estimates[term.name].append(value)
        for name, values in estimates.items():
            if values and self.given.of(name) is None:
                self.effective = self.effective | {name: float(np.mean(values))}
        self.now = replace(there, weights=self.effective)

    def _noise(self, side: Side, there: SceneEvaluation, systems: Mapping[Key, Equations]) -> Noise:
        """The keypoints' noise, and the share of the hand's translation and rotation that the data determine.

        Free fingers are not counted: the registration has fitted them to the keypoints, and here all terms but `j2d` move them.
        """
        layout, weight = self.layout, self.setup.problem.hands[side].weight
        seen, hands = weight.sum(dim=1) > 0, len(there.views)
        first, prior = layout.hand(side).start, np.zeros(3 + 3 * layout.refine.rotation)
        own = slice(first, first + len(prior))
        if layout.refine.rotation:
            prior[3:] = self.effective["rotation"] / (hands * self.setup.problem.num_frames)
        share = ev.determined_share(systems[layout.group(side)].diagonal[seen][:, own, own].numpy(), prior)
        variance = ev.keypoint_variance(there.residuals["j2d", side].value, weight, int(seen.sum()) * float(share.sum()))
        return Noise(variance, torch.from_numpy(share), seen, hands * float(weight.sum()), self.effective)
