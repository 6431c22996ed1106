"""Alignment as LightningModules: one iteration a training step, every loss term logged as align/<mode>/<term>."""

from collections.abc import Mapping

import numpy as np
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from scipy.linalg import LinAlgError
from torch import Tensor, nn

from holdprep.align import hold
from holdprep.align.layout import Group
from holdprep.align.objective import Objective, Scene
from holdprep.align.order import DepthOrder
from holdprep.align.problem import Mode, SettledWeights
from holdprep.align.scale import ESTIMATORS, Choice, choose, estimate
from holdprep.align.solver import BlockSystem, solve
from holdprep.align.surface import Surface
from holdprep.align.tracks import HandTrack, ScaleEstimate
from holdprep.hand.model import Side
from holdprep.iterate import Iterative

STEP_TOLERANCE = 1e-5  # m and rad: a hundredth of what a keypoint's noise does
LOSS_TOLERANCE = 3e-4  # relative; the last ten thousandths move a scale by 0.03 % at most
MIN_DAMPING, MAX_DAMPING = 1e-5, 1e8
MATCH_STEPS = 2  # steps between two searches for the outline's correspondences


class SecondOrder(Iterative):
    """Modes h and ho by Levenberg-Marquardt on reweighted residuals: a step is taken only if the robust objective falls."""

    def __init__(self, mode: Mode, objective: Objective, scene: Scene) -> None:
        super().__init__(f"align/{mode}")
        self.objective, self.scene = objective, scene
        self.damping, self.steps = 10 * MIN_DAMPING, 0
        objective.match_outlines(scene)
        self.residuals = objective.residuals(scene)
        self.terms = objective.terms(scene, self.residuals)

    def iterate(self) -> dict[str, float]:
        """One accepted step, or the discovery that none is left; the terms after it."""
        if self.steps and self.steps % MATCH_STEPS == 0:
            self._match()
        self.steps += 1
        systems, own, gradient = self.objective.equations(self.scene, self.residuals)
        while self.damping < MAX_DAMPING:
            if self._try(systems, own, gradient):
                self.damping = max(self.damping / 10, MIN_DAMPING)
                self.objective.measure(systems, self.residuals)
                self.terms = self.objective.terms(self.scene, self.residuals)
                return self.terms
            self.damping *= 100
        self.finished = True
        return self.terms

    def circumstances(self) -> dict[str, float]:
        """The weights in use, which the data set, as weights/<term>; and each term without its weight, as unweighted/<term>: curves of two
        sequences are compared by these."""
        used = self.weights_used()
        unweighted = {f"unweighted/{name}": self.terms[name] / value for name, value in used.items()}
        return {f"weights/{name}": value for name, value in used.items()} | unweighted

    def weights_used(self) -> dict[str, float]:
        """The weight of every term that has one now: given, or measured."""
        return {name: value for name in self.terms if (value := float(getattr(self.objective.weights, name, 0.0))) > 0}

    def _match(self) -> None:
        """New correspondences of outlines, and the terms under them."""
        self.objective.match_outlines(self.scene)
        self.residuals = self.objective.residuals(self.scene)
        self.terms = self.objective.terms(self.scene, self.residuals)

    def _try(self, systems: Mapping[Group, BlockSystem], own: np.ndarray, gradient: np.ndarray) -> bool:
        try:
            per_group, shared = solve(systems, own, gradient, self.damping)
        except LinAlgError:
            return False
        scene = self.objective.step(self.scene, per_group, shared)
        residuals = self.objective.residuals(scene)
        terms = self.objective.terms(scene, residuals)
        if not terms["loss"] <= self.terms["loss"]:
            return False
        small = max(abs(d).max() for d in per_group.values()) < STEP_TOLERANCE and (len(shared) == 0 or abs(shared).max() < STEP_TOLERANCE)
        self.finished = bool(small) or self.terms["loss"] - terms["loss"] < LOSS_TOLERANCE * (1e-6 + self.terms["loss"])
        self.scene, self.residuals, self.terms = scene, residuals, terms
        return True


class ObjectScale(Iterative):
    """Mode o: one estimator of the scale a step, then the choice; `result` is the estimate."""

    def __init__(
        self, tracks: Mapping[Side, HandTrack], surface: Surface, orders: Mapping[Side, DepthOrder], estimator: Choice, seed: int
    ) -> None:
        super().__init__("align/o")
        self.tracks, self.surface, self.orders, self.seed = tracks, surface, orders, seed
        self.todo = list(ESTIMATORS) if estimator == "auto" else [estimator]
        self.estimates: dict[str, ScaleEstimate] = {}
        self.result: ScaleEstimate | None = None

    def iterate(self) -> dict[str, float]:
        """The next estimator's scale, standard error and figures; nothing where it found nothing to measure."""
        name = self.todo.pop(0)
        around = self.estimates["centroid"].scale if "centroid" in self.estimates else None
        found = estimate(name, self.tracks, self.surface, self.seed, around, self.orders)
        self.estimates[name] = found
        self.finished = not self.todo
        if self.finished:
            self.result = choose(self.estimates)
        if not np.isfinite(found.stderr_ratio):  # nothing was measured
            return {}
        values = {"scale": found.scale, "stderr_pct": 100 * found.stderr_ratio, **found.figures}
        return {f"{name}.{key}": value for key, value in values.items()}


class HoldAdam(Iterative):
    """HOLD's objective and schedule. `rest_m` are the hands' points (T, P, 3) without translation (see hold.Targets), `turned_obj` the cloud."""

    def __init__(
        self,
        mode: Mode,
        variant: hold.Variant,
        rest_m: Mapping[Side, Tensor],
        transl_m: Mapping[Side, Tensor],
        turned_obj: Tensor,
        obj_transl_m: Tensor,
        obj_scale: float,
        targets: hold.Targets,
        weights: SettledWeights,
    ) -> None:
        super().__init__(f"align/{mode}")
        self.mode, self.variant = mode, variant
        self.rest_m, self.turned_obj, self.targets, self.weights = rest_m, turned_obj, targets, weights
        self.schedule = hold.SCHEDULES[variant][mode]
        self.hand_transl = nn.ParameterDict({side: nn.Parameter(t.clone(), mode != "o") for side, t in transl_m.items()})
        self.obj_transl = nn.Parameter(obj_transl_m.clone(), mode != "h")
        self.obj_scale = nn.Parameter(torch.tensor(obj_scale, dtype=obj_transl_m.dtype), mode == "ho")
        self.steps = 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over everything; what is not free has no gradient and stays."""
        return torch.optim.Adam(self.parameters(), lr=self.schedule.lr)

    def iterate(self) -> dict[str, float]:
        """One Adam step; the terms before it."""
        self._condition()
        hands: dict[Side, Tensor] = {side: rest + self.hand_transl[side][:, None] for side, rest in self.rest_m.items()}
        points = None if self.mode == "h" else self.obj_scale * self.turned_obj + self.obj_transl[:, None]
        terms = hold.losses(self.mode, self.variant, hands, points, self.targets, self.weights)
        loss = torch.stack(list(terms.values())).sum()
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        for group in optimizer.param_groups:
            group["lr"] = self.schedule.lr_at(self.steps)
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(optimizer.optimizer, gradient_clip_val=hold.CLIP_NORM, gradient_clip_algorithm="norm")
        optimizer.step()
        self.steps += 1
        return {name: float(value.detach()) for name, value in terms.items()} | {"loss": float(loss.detach())}

    def _condition(self) -> None:
        """Mode o sets its first scale at step 1 and frees it at step 2000."""
        if self.mode == "o" and self.steps == 1:
            with torch.no_grad():
                self.obj_scale.fill_(self.weights.obj_scale)
        if self.mode == "o" and self.steps == hold.FREE_SCALE_AT:
            self.obj_scale.requires_grad_(True)
