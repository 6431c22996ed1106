"""HOLD's published registration: Adam on every frame's rotation, translation, pose and shape, first coarse, then fine.

Its losses, rates and limits are unchanged; frames are fitted in parallel, not one after the other from the previous result. Adam treats
every parameter separately and the loss is a sum over frames, so that frames are coupled only by the plateau of the common learning rate.
"""

from dataclasses import dataclass
from typing import Any

import torch
import trimesh
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from holdprep.hand.frames import scatter_params
from holdprep.hand.joints import MANO21_TIP_VERTICES
from holdprep.hand.lbs import NUM_JOINTS, HandPoints, forward, to_state
from holdprep.hand.model import HandModel, ManoParams
from holdprep.hand.registration import Registration
from holdprep.hand.targets import Targets, check
from holdprep.optimisation import Optimisation, Training

COARSE_LR, FINE_LR, LAST_LR = 0.1, 0.01, 1e-5
PATIENCE, FACTOR = 30, 0.1
TIP_WEIGHT, SHAPE_WEIGHT = 0.1, 0.01


@dataclass(frozen=True)
class Schedule:
    """Maximal number of iterations of the coarse and of the fine part each; `shape_loss` penalises the shape's deviation from the mean."""

    iterations: int = 10_000
    shape_loss: bool = False


class AdamRegistration(Optimisation):
    """Fit to `target` (T, 778, 3) m without gaps. Coarse: rotation and translation; fine: all, with a further term of the fingertips."""

    def __init__(self, model: HandModel, target: Tensor, schedule: Schedule, prefix: str) -> None:
        super().__init__(prefix)
        self.model, self.schedule = model, schedule
        self.edges = torch.as_tensor(
            trimesh.Trimesh(process=False, vertices=model.v_template.cpu(), faces=model.faces.cpu()).edges_unique.copy()
        )
        self.tips = torch.tensor(MANO21_TIP_VERTICES)
        self.points = HandPoints.of(model, torch.arange(778))
        self.target = target
        frames = len(target)
        sizes = {"global_orient": 3, "transl": 3, "hand_pose": 45, "betas": 10}
        self.free = nn.ParameterDict({name: nn.Parameter(torch.zeros(frames, n)) for name, n in sizes.items()})
        self.coarse, self.part_began, self.best, self.waited = True, 0, float("inf"), 0
        self.coarse_params: ManoParams | None = None
        self.steps = 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the state of the schedule."""
        checkpoint["schedule"] = {name: getattr(self, name) for name in ("coarse", "part_began", "best", "waited", "steps")}
        checkpoint["coarse_params"] = None if self.coarse_params is None else dict(vars(self.coarse_params))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state of the schedule."""
        super().on_load_checkpoint(checkpoint)
        for name, value in checkpoint["schedule"].items():
            setattr(self, name, value)
        self.coarse_params = None if checkpoint["coarse_params"] is None else ManoParams(**checkpoint["coarse_params"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, at first on rotation and translation only."""
        pose = [self.free["hand_pose"], self.free["betas"]]
        return torch.optim.Adam(
            [{"params": [self.free["global_orient"], self.free["transl"]], "lr": COARSE_LR}, {"params": pose, "lr": 0.0}]
        )

    def params(self) -> ManoParams:
        """The current parameters."""
        return ManoParams(**{name: value.detach().clone() for name, value in self.free.items()})

    def losses(self) -> dict[str, Tensor]:
        """The terms: mean squares per frame, summed over frames."""
        state = to_state(self.model, ManoParams(**dict(self.free.items())))
        off = self.points.pose(state).points[:, NUM_JOINTS:] - self.target
        frames = len(self.target)
        along = off[:, self.edges[:, 0]] - off[:, self.edges[:, 1]]
        terms = {"vertex": frames * off.square().mean(), "edge": frames * along.square().mean()}
        if not self.coarse:
            terms["tip"] = TIP_WEIGHT * frames * off[:, self.tips].square().mean()
        if self.schedule.shape_loss and not self.coarse:
            terms["shape"] = SHAPE_WEIGHT * frames * self.free["betas"].square().mean()
        return terms

    def iterate(self) -> dict[str, float]:
        """One Adam step; the terms before it."""
        optimizer, terms = self.optimizer(), self.losses()
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.steps += 1
        self._schedule(optimizer, float(loss.detach()))
        return {name: float(value.detach()) for name, value in terms.items()} | {"loss": float(loss.detach())}

    def _schedule(self, optimizer: LightningOptimizer, loss: float) -> None:
        """Update the rate by ReduceLROnPlateau's rule with its defaults; a part ends at the last rate or iteration."""
        better = loss < self.best * (1 - 1e-4)
        self.best, self.waited = (loss, 0) if better else (self.best, self.waited + 1)
        if self.waited > PATIENCE:
            self.waited = 0
            for group in optimizer.param_groups:
                group["lr"] *= FACTOR
        is_over = optimizer.param_groups[0]["lr"] <= LAST_LR * (1 + 1e-9) or self.steps - self.part_began >= self.schedule.iterations
        if is_over and self.coarse:
            self.coarse, self.part_began, self.best, self.waited = False, self.steps, float("inf"), 0
            self.coarse_params = self.params()
            for group in optimizer.param_groups:
                group["lr"] = FINE_LR
        elif is_over:
            self.finished = True


def register_adam(
    model: HandModel,
    vertices_m: Tensor,
    schedule: Schedule | None = None,
    *,
    training: Training | None = None,
    prefix: str = "register",
) -> tuple[Registration, ManoParams]:
    """Registration by the published schedule on meshes (T, 778, 3) m, NaN where there is none, and the parameters after its coarse part.

    Each frame has its own shape. Raises HoldprepError where the targets are not a hand of the model's side in metres.
    """
    schedule, training = schedule or Schedule(), training or Training()
    device = training.device
    is_valid = check(model, Targets(vertices_m=vertices_m)) & torch.isfinite(vertices_m).all(dim=(1, 2))
    module = AdamRegistration(model.to(device, torch.float32), vertices_m[is_valid].float().to(device), schedule, prefix)
    training.fit(module, 2 * schedule.iterations)
    found, coarse = (scatter_params(p, is_valid) for p in (module.params(), module.coarse_params or module.params()))
    error = (forward(model.to(torch.float64), found).vertices - vertices_m.double()).norm(dim=-1).mean(dim=1)
    notes = [f"{model.side} hand: HOLD's published schedule, {module.steps} iterations; one shape per frame, alignment uses their mean"]
    return Registration(found, is_valid, error, history=module.history, notes=notes), coarse
