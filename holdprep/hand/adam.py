"""HOLD's published registration: Adam on a frame's rotation, translation, pose and shape, first coarse, then fine.

Losses, rates and limits are unchanged: frames are fitted one after the other, each from the result of the last one, and each part has a
new Adam and a new rule for its rate. Fingertips are patches of vertices, whose list comes with HOLD's download: here the nearest ones in
the template.
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
TIP_PATCH = 20  # vertices of a fingertip
SIZES = {"global_orient": 3, "transl": 3, "hand_pose": 45, "betas": 10}


@dataclass(frozen=True)
class Schedule:
    """Maximal number of iterations of the coarse and of the fine part each, of the first frame and of each next one.

    `shape_loss` penalises the shape's deviation from the mean.
    """

    iterations: int = 10_000
    shape_loss: bool = False
    later_iterations: int = 2_000

    def limit(self, frame: int) -> int:
        """Of the parts of a frame, by its number."""
        return self.iterations if frame == 0 else min(self.iterations, self.later_iterations)

    def total(self, frames: int) -> int:
        """Of all frames."""
        return 2 * sum(self.limit(frame) for frame in range(frames))


def tip_vertices(model: HandModel) -> Tensor:
    """Vertices of the five fingertips: the TIP_PATCH nearest to each tip in the template."""
    away = torch.cdist(model.v_template[list(MANO21_TIP_VERTICES)].double(), model.v_template.double())
    return away.topk(TIP_PATCH, largest=False).indices.flatten().cpu()


class AdamRegistration(Optimisation):
    """Fit to `target` (T, 778, 3) m without gaps. Coarse: rotation and translation; fine: all, with a further term of the fingertips.

    `free` are the parameters of the frame at work, `frame` its number; `done` and `coarse_done` those of finished frames and coarse parts.
    """

    def __init__(self, model: HandModel, target: Tensor, schedule: Schedule, prefix: str) -> None:
        super().__init__(prefix)
        self.model, self.schedule, self.target = model, schedule, target
        self.edges = torch.as_tensor(
            trimesh.Trimesh(process=False, vertices=model.v_template.cpu(), faces=model.faces.cpu()).edges_unique.copy()
        )
        self.tips = tip_vertices(model)
        self.points = HandPoints.of(model, torch.arange(778))
        self.free = nn.ParameterDict({name: nn.Parameter(torch.zeros(1, n)) for name, n in SIZES.items()})
        self.frame, self.steps = 0, 0
        self.coarse, self.part_began, self.best, self.waited = True, 0, float("inf"), 0
        self.done: list[ManoParams] = []
        self.coarse_done: list[ManoParams] = []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the state of the schedule."""
        checkpoint["schedule"] = {name: getattr(self, name) for name in ("frame", "coarse", "part_began", "best", "waited", "steps")}
        checkpoint["done"] = [[dict(vars(p)) for p in found] for found in (self.done, self.coarse_done)]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state of the schedule."""
        super().on_load_checkpoint(checkpoint)
        for name, value in checkpoint["schedule"].items():
            setattr(self, name, value)
        self.done, self.coarse_done = ([ManoParams(**p) for p in found] for found in checkpoint["done"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, at first on rotation and translation only."""
        pose = [self.free["hand_pose"], self.free["betas"]]
        return torch.optim.Adam(
            [{"params": [self.free["global_orient"], self.free["transl"]], "lr": COARSE_LR}, {"params": pose, "lr": 0.0}]
        )

    def params(self, coarse: bool = False) -> ManoParams:
        """The parameters (T, ...) of all frames, or those after their coarse parts; a frame that was not reached has those at work."""
        rows = list(self.coarse_done if coarse else self.done)
        rows += [self._current()] * (len(self.target) - len(rows))
        return ManoParams(**{name: torch.cat([getattr(row, name) for row in rows]) for name in SIZES})

    def _current(self) -> ManoParams:
        return ManoParams(**{name: value.detach().clone() for name, value in self.free.items()})

    def losses(self) -> dict[str, Tensor]:
        """The terms of the frame at work: mean squares."""
        state = to_state(self.model, ManoParams(**dict(self.free.items())))
        off = self.points.pose(state).points[:, NUM_JOINTS:] - self.target[[self.frame]]
        along = off[:, self.edges[:, 0]] - off[:, self.edges[:, 1]]
        terms = {"vertex": off.square().mean(), "edge": along.square().mean()}
        if not self.coarse:
            terms["tip"] = TIP_WEIGHT * off[:, self.tips].square().mean()
        if self.schedule.shape_loss and not self.coarse:
            terms["shape"] = SHAPE_WEIGHT * self.free["betas"].square().mean()
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
        is_over = optimizer.param_groups[0]["lr"] <= LAST_LR * (1 + 1e-9) or self.steps - self.part_began >= self.schedule.limit(self.frame)
        if is_over and self.coarse:
            self.coarse_done.append(self._current())
            self._begin(optimizer, False, [FINE_LR, FINE_LR])
        elif is_over:
            self.done.append(self._current())
            self.finished = len(self.done) == len(self.target)
            self.frame = min(len(self.done), len(self.target) - 1)
            self._begin(optimizer, True, [COARSE_LR, 0.0])

    def _begin(self, optimizer: LightningOptimizer, coarse: bool, rates: list[float]) -> None:
        """Begin a part with a new Adam: without the last one's moments, which a rate of 0 has gathered for the pose as well."""
        self.coarse, self.part_began, self.best, self.waited = coarse, self.steps, float("inf"), 0
        optimizer.optimizer.state.clear()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


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
    training.fit(module, schedule.total(int(is_valid.sum())))
    found, coarse = (scatter_params(p, is_valid) for p in (module.params(), module.params(coarse=True)))
    error = (forward(model.to(torch.float64), found).vertices - vertices_m.double()).norm(dim=-1).mean(dim=1)
    notes = [f"{model.side} hand: HOLD's published schedule, {module.steps} iterations; one shape per frame, alignment uses their mean"]
    return Registration(found, is_valid, error, history=module.history, notes=notes), coarse
