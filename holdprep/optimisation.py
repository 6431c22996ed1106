"""Optimisations as LightningModules: one iteration a training step, every loss term logged; and how a Trainer runs them."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.loggers import Logger
from torch.utils.data import DataLoader

LOSS = "loss"  # the term that is the sum of all


class StopWhenFlat(Callback):
    """Ends an optimisation whose loss has not fallen by `min_delta` (relative) for `patience` iterations."""

    def __init__(self, patience: int, min_delta: float) -> None:
        self.patience, self.min_delta = patience, min_delta
        self.best, self.waited = float("inf"), 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Every optimisation for itself."""
        self.best, self.waited = float("inf"), 0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Count."""
        assert isinstance(pl_module, Optimisation)
        loss = pl_module.history[-1][LOSS]
        fell = loss < self.best * (1 - self.min_delta)
        self.best, self.waited = (loss, 0) if fell else (self.best, self.waited + 1)
        trainer.should_stop = trainer.should_stop or self.waited >= self.patience


def checkpoints(folder: Path, every_n_train_steps: int) -> ModelCheckpoint:
    """Lightning checkpoints in `folder`, the newest also as last.ckpt."""
    return ModelCheckpoint(
        folder, filename="{step}", save_last=True, every_n_train_steps=every_n_train_steps, save_on_train_epoch_end=False
    )


class Optimisation(pl.LightningModule):
    """`iterate` does one iteration, returns its loss terms and sets `finished`; they are logged as <prefix>/<term>.

    Optimisation is manual: the module takes its optimizer's steps itself.
    """

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.prefix = prefix
        self.finished = False
        self.history: list[dict[str, float]] = []

    def iterate(self) -> dict[str, float]:
        """One iteration."""
        raise NotImplementedError

    def circumstances(self) -> dict[str, float]:
        """What else is logged beside an iteration's loss terms: the weights in use, for instance."""
        return {}

    def optimizer(self) -> LightningOptimizer:
        """The one that `configure_optimizers` returned."""
        found = self.optimizers()
        assert isinstance(found, LightningOptimizer)
        return found

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Iterate, log, and stop when finished."""
        terms = self.iterate()
        self.history.append(terms)
        self.log(f"{self.prefix}/{LOSS}", terms.get(LOSS, 0.0), logger=False, on_step=True, batch_size=1)  # for callbacks
        if self.trainer.loggers and batch_idx % int(getattr(self.trainer, "log_every_n_steps", 1)) == 0:
            logged = {f"{self.prefix}/{name}": value for name, value in (terms | self.circumstances()).items()}
            for logger in self.trainer.loggers:  # not by log_dict, which takes 0.4 ms for every value
                logger.log_metrics(logged, step=batch_idx)
        self.trainer.should_stop = self.finished


@dataclass(frozen=True)
class Training:
    """How optimisations are run: what their Trainer is given. `max_steps` bounds every one of them, -1 leaves its own bound; `ckpt_path` is a
    Lightning checkpoint from which it goes on, read without executing what it names."""

    loggers: Sequence[Logger] = ()
    callbacks: Sequence[Callback] = ()
    device: str = "cpu"
    max_steps: int = -1
    ckpt_path: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def fit(self, module: Optimisation, iterations: int, device: str | None = None) -> None:
        """Run a module until it is finished or has iterated enough."""
        steps = iterations if self.max_steps < 0 else min(iterations, self.max_steps)
        device = device or self.device
        settings: dict[str, Any] = {"enable_progress_bar": False, "log_every_n_steps": 1} | dict(self.options)
        with _quiet():
            trainer = pl.Trainer(
                accelerator="gpu" if device == "cuda" else device,
                devices=1,
                max_epochs=1,
                logger=list(self.loggers) or False,
                callbacks=list(self.callbacks),
                enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in self.callbacks),
                enable_model_summary=False,
                **settings,
            )
            path = None if self.ckpt_path is None else str(self.ckpt_path)
            trainer.fit(module, DataLoader(range(steps), batch_size=None), ckpt_path=path, weights_only=True)  # type: ignore[arg-type]


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's remarks about hardware, workers and loaders say nothing to who prepares a sequence."""
    log = logging.getLogger("pytorch_lightning")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="(pytorch_lightning|lightning_fabric)")  # the latter's on a host with Slurm
            warnings.filterwarnings("ignore", message=".*(configure_optimizers|does not have many workers|litlogger).*")
            yield
    finally:
        log.setLevel(level)
