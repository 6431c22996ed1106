"""Alignment as LightningModules: one iteration per training step, every loss term logged as align/<mode>/<term>."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from holdprep.align import hold
from holdprep.align.objective import MATCH_STEPS, Objective
from holdprep.align.problem import Mode
from holdprep.align.scene import Scene
from holdprep.align.trajectory import Trajectory
from holdprep.geometry.least_squares import Damping, LevenbergMarquardt
from holdprep.hand.lbs import HandState
from holdprep.hand.model import Side
from holdprep.optimisation import Optimisation

DAMPING = Damping(first=1e-4, least=1e-5, most=1e8, rise=100.0, fall=10.0)
STEP_TOLERANCE = 1e-5  # m and rad: about 1 % of the effect of keypoint noise
LOSS_TOLERANCE = 3e-4  # relative; smaller gains change the scale by at most 0.03 %


class SecondOrder(Optimisation):
    """Modes h and ho by Levenberg-Marquardt on reweighted residuals; the parameters are the scene."""

    def __init__(self, mode: Mode, objective: Objective) -> None:
        super().__init__(f"align/{mode}")
        self.objective, self.steps = objective, 0
        self.scene_parameters = nn.ParameterDict({name: nn.Parameter(x, False) for name, x in _tensors(objective.at.scene).items()})

    @property
    def scene(self) -> Scene:
        """The current scene."""
        return self.objective.at.scene

    def configure_optimizers(self) -> LevenbergMarquardt:
        """Levenberg-Marquardt over all unknowns."""
        return LevenbergMarquardt(self.parameters(), self.objective, self.objective.setup.problem.num_frames, DAMPING)

    def iterate(self) -> dict[str, float]:
        """One accepted step, or the end if there is none; the terms after it."""
        if self.steps and self.steps % MATCH_STEPS == 0:
            self.objective.match()
        before, optimizer = self.objective.now.total, self.optimizer()
        optimizer.step()
        self.steps += 1
        inner = optimizer.optimizer
        assert isinstance(inner, LevenbergMarquardt)
        last = inner.progress
        self.finished = last.stuck or last.moved < STEP_TOLERANCE or last.gained < LOSS_TOLERANCE * (1e-6 + before)
        for name, value in _tensors(self.scene).items():
            self.scene_parameters[name].data = value
        return self.objective.at.terms()

    def circumstances(self) -> dict[str, float]:
        """The estimated weights as weights/<term>, and each term without its weight as unweighted/<term>, to compare two sequences."""
        values = self.objective.at.unweighted
        return {f"weights/{name}": w for name, w in self.weights_used().items()} | {f"unweighted/{k}": v for k, v in values.items()}

    def on_train_start(self) -> None:
        """Set the scene from the parameters of a checkpoint, where one was read."""
        if not self.is_resumed:
            return
        scene = _with_tensors(self.scene, {name: value.data for name, value in self.scene_parameters.items()})
        self.objective.now = self.objective.evaluate(scene)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the estimated weights and the number of steps."""
        checkpoint["weights"], checkpoint["steps"] = dict(self.objective.effective), self.steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the estimated weights and the number of steps."""
        super().on_load_checkpoint(checkpoint)
        self.objective.effective, self.steps = dict(checkpoint["weights"]), int(checkpoint["steps"])

    def weights_used(self) -> dict[str, float]:
        """The current positive weights of terms, set or estimated."""
        return {name: weight for name, weight in self.objective.effective.items() if weight > 0}


def _tensors(scene: Scene) -> dict[str, torch.Tensor]:
    hands = {f"{side}_{name}": value for side, state in scene.hands.items() for name, value in vars(state).items()}
    return hands | dict(vars(scene.trajectory)) | {"log_scale": scene.log_scale, "anchors_m": scene.anchors_m}


def _with_tensors(scene: Scene, values: Mapping[str, Tensor]) -> Scene:
    hands = {side: HandState(*(values[f"{side}_{name}"] for name in vars(state))) for side, state in scene.hands.items()}
    trajectory = Trajectory(*(values[name] for name in vars(scene.trajectory)))
    return Scene(hands, values["log_scale"], trajectory, values["anchors_m"])


@dataclass(frozen=True)
class HoldStart:
    """Initial values of HOLD's methods.

    `rest_m` (T, P, 3) m are the hands' points without translation (see hold.Targets), `transl_m` their translations, `rotated_obj`
    (T, N, 3) the object's cloud rotated into every frame, in the unit of SfM, `obj_transl_m` and `obj_scale` its translations and scale.
    """

    rest_m: Mapping[Side, Tensor]
    transl_m: Mapping[Side, Tensor]
    rotated_obj: Tensor
    obj_transl_m: Tensor
    obj_scale: float


class HoldAdam(Optimisation):
    """Adam with HOLD's objective and schedule."""

    def __init__(self, mode: Mode, variant: hold.Variant, start: HoldStart, targets: hold.Targets, weights: Mapping[str, float]) -> None:
        super().__init__(f"align/{mode}")
        self.mode, self.variant = mode, variant
        self.rest_m, self.rotated_obj, self.targets, self.weights = start.rest_m, start.rotated_obj, targets, weights
        self.schedule = hold.SCHEDULES[variant][mode]
        self.hand_transl = nn.ParameterDict({side: nn.Parameter(t.clone(), mode != "o") for side, t in start.transl_m.items()})
        self.obj_transl = nn.Parameter(start.obj_transl_m.clone(), mode != "h")
        self.obj_scale = nn.Parameter(torch.tensor(start.obj_scale, dtype=start.obj_transl_m.dtype), mode == "ho")
        self.steps = 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the step of the schedule and whether the scale is free."""
        checkpoint["steps"], checkpoint["scale_is_free"] = self.steps, self.obj_scale.requires_grad

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the step of the schedule and whether the scale is free."""
        super().on_load_checkpoint(checkpoint)
        self.steps = int(checkpoint["steps"])
        self.obj_scale.requires_grad_(bool(checkpoint["scale_is_free"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over all parameters; those that are not free have no gradient and stay constant."""
        return torch.optim.Adam(self.parameters(), lr=self.schedule.lr)

    def iterate(self) -> dict[str, float]:
        """One Adam step; the terms before it."""
        self._set_scale()
        hands: dict[Side, Tensor] = {side: rest + self.hand_transl[side][:, None] for side, rest in self.rest_m.items()}
        points = None if self.mode == "h" else self.obj_scale * self.rotated_obj + self.obj_transl[:, None]
        terms = hold.losses(self.mode, self.variant, hands, points, self.targets, self.weights)
        loss = torch.stack(list(terms.values())).sum()
        optimizer = self.optimizer()
        for group in optimizer.param_groups:
            group["lr"] = self.schedule.lr_at(self.steps)
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(optimizer.optimizer, gradient_clip_val=hold.CLIP_NORM, gradient_clip_algorithm="norm")
        optimizer.step()
        self.steps += 1
        return {name: float(value.detach()) for name, value in terms.items()} | {"loss": float(loss.detach())}

    def _set_scale(self) -> None:
        """Mode o: set the initial scale at step 1 and free it at step 2000."""
        if self.mode == "o" and self.steps == 1:
            with torch.no_grad():
                self.obj_scale.fill_(self.weights["obj_scale"])
        if self.mode == "o" and self.steps == hold.FREE_SCALE_AT:
            self.obj_scale.requires_grad_(True)
