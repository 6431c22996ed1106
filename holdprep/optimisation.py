"""Optimisations as LightningModules: one iteration per training step, every loss term logged; and their Trainer."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.loggers import Logger
from threadpoolctl import threadpool_limits
from torch.utils.data import DataLoader

LOSS = "loss"  # the term that is the sum of all


class StopWhenFlat(Callback):
    """Callback that ends an optimisation whose loss has not decreased by `min_delta` (relative) for `patience` iterations."""

    def __init__(self, patience: int, min_delta: float) -> None:
        self.patience, self.min_delta = patience, min_delta
        self.best, self.waited = float("inf"), 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset at the start of every optimisation."""
        self.best, self.waited = float("inf"), 0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Count iterations without a decrease."""
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
    """Base of optimisations: `iterate` does one iteration, returns its loss terms and sets `finished`; logged as <prefix>/<term>.

    Optimisation is manual: the module calls its optimizer.
    """

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.prefix = prefix
        self.finished = False
        self.is_resumed = False  # from a checkpoint
        self.history: list[dict[str, float]] = []

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember that the parameters are a checkpoint's."""
        self.is_resumed = True

    def iterate(self) -> dict[str, float]:
        """One iteration; returns its loss terms."""
        raise NotImplementedError

    def circumstances(self) -> dict[str, float]:
        """Further values to log with an iteration's loss terms, for example the weights in use."""
        return {}

    def optimizer(self) -> LightningOptimizer:
        """The optimizer from `configure_optimizers`."""
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
            for logger in self.trainer.loggers:  # log_dict takes 0.4 ms per value
                logger.log_metrics(logged, step=batch_idx)
        self.trainer.should_stop = self.finished


@dataclass(frozen=True)
class Training:
    """Settings of the Trainer of optimisations.

    `max_steps` bounds the iterations, -1: only the module's own bound; `ckpt_path` is a Lightning checkpoint to resume from, read without
    executing code.
    """

    loggers: Sequence[Logger] = ()
    callbacks: Sequence[Callback] = ()
    device: str = "cpu"
    max_steps: int = -1
    ckpt_path: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def fit(self, module: Optimisation, iterations: int, device: str | None = None) -> None:
        """Run a module until it is finished, for at most `iterations`."""
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
def one_thread() -> Iterator[None]:
    """Run torch, and the BLAS of numpy and scipy, on one thread: results do not depend on the number of threads, and blocks of single frames
    are too small to share.

    Two threads of torch took 1.5 to 2 times as long on a clip of 103 frames; a banded Cholesky factor on a machine with other work 100 times.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Lightning's messages about hardware, workers and loaders."""
    log = logging.getLogger("pytorch_lightning")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="(pytorch_lightning|lightning_fabric)")  # lightning_fabric warns on hosts with Slurm
            warnings.filterwarnings("ignore", message=".*(configure_optimizers|does not have many workers|litlogger).*")
            yield
    finally:
        log.setLevel(level)
