"""Optimisations as LightningModules that keep their own time: one iteration a training step, every loss term logged."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from torch.utils.data import DataLoader


class Iterative(pl.LightningModule):
    """`iterate` does one iteration, returns its loss terms and sets `finished`; they are logged as <prefix>/<term>."""

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

    def configure_optimizers(self) -> Any:
        """None: the iteration is its own optimiser."""
        return None

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Iterate, log, and stop when finished."""
        terms = self.iterate()
        self.history.append(terms)
        if self.trainer.logger is not None:
            logged = terms | self.circumstances()
            self.trainer.logger.log_metrics({f"{self.prefix}/{name}": value for name, value in logged.items()}, step=batch_idx)
        self.trainer.should_stop = self.finished


def fit(module: Iterative, iterations: int, logger: Logger | None, progress: bool = False, device: str = "cpu") -> None:
    """Run a module under a quiet Trainer until it is finished or has iterated enough."""
    with _quiet():
        trainer = pl.Trainer(
            accelerator="gpu" if device == "cuda" else device,
            devices=1,
            max_epochs=1,
            logger=logger or False,
            enable_checkpointing=False,
            enable_progress_bar=progress,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(range(iterations), batch_size=None))  # type: ignore[arg-type]


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
