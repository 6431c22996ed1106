"""Optimisations under Lightning: bounds, callbacks, checkpoints that resume, and what a Trainer costs."""

from pathlib import Path

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import nn

from holdprep.geometry.least_squares import Equations, LevenbergMarquardt, Shared
from holdprep.optimisation import Optimisation, StopWhenFlat, Training, checkpoints


class Descent(Optimisation):
    """Adam on x^2."""

    def __init__(self) -> None:
        super().__init__("descent")
        self.x = nn.Parameter(torch.tensor(3.0))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)

    def iterate(self) -> dict[str, float]:
        optimizer, loss = self.optimizer(), self.x.square()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return {"loss": float(loss.detach())}


def test_max_steps_bounds_every_optimisation():
    module = Descent()
    Training(max_steps=7).fit(module, 50)
    assert len(module.history) == 7
    assert module.trainer.global_step == 7


def test_a_checkpoint_resumes_where_it_was(tmp_path: Path):
    class Killed(Descent):
        def iterate(self) -> dict[str, float]:
            if len(self.history) == 12:
                raise RuntimeError("killed")
            return super().iterate()

    whole, first, second = Descent(), Killed(), Descent()
    Training().fit(whole, 20)
    with pytest.raises(RuntimeError, match="killed"):
        Training(callbacks=[checkpoints(tmp_path, 5)]).fit(first, 20)
    assert (tmp_path / "last.ckpt").is_file()
    Training(ckpt_path=tmp_path / "last.ckpt").fit(second, 20)
    assert len(second.history) == 10
    assert float(second.x) == pytest.approx(float(whole.x), abs=1e-7)


def test_a_checkpoint_that_would_execute_something_is_refused(tmp_path: Path):
    class Planted:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"state_dict": Planted()}, tmp_path / "last.ckpt")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        Training(ckpt_path=tmp_path / "last.ckpt").fit(Descent(), 5)
    assert not (tmp_path / "executed").exists()


def test_an_optimisation_ends_where_the_loss_no_longer_falls():
    module = Descent()
    Training(callbacks=[StopWhenFlat(patience=3, min_delta=0.5)]).fit(module, 200)
    assert len(module.history) < 30


def test_losses_are_logged_by_every_logger(tmp_path: Path):
    loggers = [CSVLogger(str(tmp_path), name="", version=name) for name in ("a", "b")]
    Training(loggers, max_steps=3).fit(Descent(), 10)
    for logger in loggers:
        logger.save()
    rows = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("a", "b")]
    assert rows[0] == rows[1]
    assert "descent/loss" in rows[0][0] and len(rows[0]) == 4


class At:
    """The objective of `Line` at x."""

    own = None

    def __init__(self, x: torch.Tensor) -> None:
        self.x, self.total = x, float((x - 1).square().sum())


class Line:
    """x = 1, as a least-squares problem."""

    def __init__(self, x: nn.Parameter) -> None:
        self.x, self.now = x, At(x.data)

    def equations(self) -> tuple:
        system = Equations(2, 1, 0)
        system.add(
            torch.ones(2, 1, 1, 1).double(), torch.zeros(2, 1, 1, 0).double(), (self.now.x - 1)[:, None, None], torch.ones(1).double()
        )
        return {("x",): system}, Shared(torch.zeros(0, 0).double(), torch.zeros(0).double())

    def evaluate_step(self, step: object) -> At:
        return At(self.now.x + step.own[("x",)][:, 0])

    def accept(self, there: At, systems: object, damping: object) -> None:
        self.now, self.x.data = there, there.x


def test_damping_is_kept_in_the_optimizers_state():
    x = nn.Parameter(torch.zeros(2).double(), False)
    optimizer = LevenbergMarquardt([x], Line(x), 2)
    optimizer.step()
    state = optimizer.state_dict()
    other = LevenbergMarquardt([x], Line(x), 2)
    other.load_state_dict(state)
    assert torch.equal(other.damping, optimizer.damping)
    assert torch.allclose(x, torch.ones(2).double(), atol=1e-4)
