"""The objective of modes h and ho: the sum of weighted terms, as a least-squares problem that estimates its own weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from holdprep.align import evidence as ev
from holdprep.align.layout import Group, Layout
from holdprep.align.problem import Refine, Weights
from holdprep.align.scene import Scene, Setup
from holdprep.align.terms import HandTerm, SceneTerm, Term, every
from holdprep.align.terms.base import HandView, Noise, Residuals
from holdprep.geometry.least_squares import Equations, Evaluation, Key, Shared, Step
from holdprep.hand.lbs import NUM_JOINTS
from holdprep.hand.model import Side
from holdprep.hand.outline import OutlineTargets

MATCH_STEPS = 2  # steps between two searches for the outline's correspondences


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
        self.edges = self._correspondences(scene)
        self.now: Evaluation = self.evaluate(scene)

    @property
    def at(self) -> SceneEvaluation:
        """The evaluation at the current scene."""
        assert isinstance(self.now, SceneEvaluation)
        return self.now

    def evaluate(self, scene: Scene) -> SceneEvaluation:
        """All terms at a scene, under the current weights and correspondences."""
        views = {side: replace(view, edges=self.edges.get(side)) for side, view in self._views(scene).items()}
        hand_terms = [term for term in self.terms if isinstance(term, HandTerm)]
        residuals = {(term.name, side): term.residuals(view) for term in hand_terms for side, view in views.items()}
        unweighted = {term.name: sum(residuals[term.name, side].total() for side in views) / len(views) for term in hand_terms}
        unweighted |= {term.name: term.value(self.setup, scene) for term in self.terms if isinstance(term, SceneTerm)}
        return SceneEvaluation(scene, views, residuals, unweighted, self.effective)

    def match(self) -> None:
        """Update the correspondences of every hand's outline with its mask's edge, in frames with keypoints."""
        if any(term.name == "outline" for term in self.terms):
            self.edges = self._correspondences(self.at.scene)
            self.now = self.evaluate(self.at.scene)

    def _views(self, scene: Scene) -> dict[Side, HandView]:
        return {side: HandView(self.setup, self.layout, scene, side) for side in self.setup.problem.hands}

    def _correspondences(self, scene: Scene) -> dict[Side, OutlineTargets]:
        found = {}
        for side, view in self._views(scene).items() if any(term.name == "outline" for term in self.terms) else ():
            if view.hand.outlines is not None:
                targets = OutlineTargets.of(view.hand.outlines, view.skin.points[:, NUM_JOINTS:], view.K)
                shown = view.hand.weight.sum(dim=1, keepdim=True) > 0
                found[side] = replace(targets, weight=targets.weight * shown)
        return found

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
        """Accept the step, and estimate the weights that are not set from the equations and the residuals after it.

        Where the prior on finger poses reaches its upper bound, the finger poses are fixed from then on, which removes most unknowns.
        """
        assert isinstance(there, SceneEvaluation)
        estimates: dict[str, list[float]] = {term.name: [] for term in self.terms}
        tightest = np.inf
        for side, view in there.views.items():
            noise = self._noise(side, there, systems)
            tightest = min(tightest, ev.departure_weight(noise.variance_px2, ev.DEPARTURE_RAD[0]))
            for term in self.terms:
                value = term.measured(view, noise)
                if value is not None:
                    estimates[term.name].append(value)
        for name, values in estimates.items():
            if values and self.given.of(name) is None:
                self.effective = self.effective | {name: float(np.mean(values))}
        self.now, refine = replace(there, weights=self.effective), self.layout.refine
        if refine.pose and self.given.pose is None and self.effective["pose"] >= (1 - 1e-6) * tightest:
            self.layout = replace(self.layout, refine=replace(refine, pose=False))
            self.now = self.evaluate(there.scene)

    def _noise(self, side: Side, there: SceneEvaluation, systems: Mapping[Key, Equations]) -> Noise:
        """The keypoints' noise, and the share of the hand's unknowns that the data determine."""
        layout, weight = self.layout, self.setup.problem.hands[side].weight
        seen, own, hands = weight.sum(dim=1) > 0, layout.hand(side), len(there.views)
        prior = np.zeros(layout.hand_size)
        for name, columns in layout.prior_columns.items():
            prior[3:][columns] = self.effective[name] / (hands * self.setup.problem.num_frames)
        share = ev.determined_share(systems[layout.group(side)].diagonal[seen][:, own, own].numpy(), prior)
        variance = ev.keypoint_variance(there.residuals["j2d", side].value, weight, int(seen.sum()) * float(share.sum()))
        return Noise(variance, torch.from_numpy(share), seen, hands * float(weight.sum()), self.effective)
