"""The run's logger: Lightning's CSV, TensorBoard or W&B logger behind two calls, losses of an iteration and numbers of a stage."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from holdprep.config import Logger as LoggerConfig

log = logging.getLogger("holdprep")


class RunLog:
    """Where loss terms and metrics go; `logger` is the Lightning logger for a Trainer, or None."""

    def __init__(self, cfg: LoggerConfig, seq: str, run_dir: Path, group: str | None, config: dict[str, Any]) -> None:
        self.logger = _make(cfg, seq, run_dir, cfg.group or group, config)

    def losses(self, stage: str, step: int, terms: Mapping[str, float]) -> None:
        """Loss terms of one iteration, as <stage>/<term>."""
        if self.logger is not None:
            self.logger.log_metrics({f"{stage}/{k}": float(v) for k, v in terms.items()}, step=step)

    def summary(self, stage: str, metrics: Mapping[str, Any]) -> None:
        """A stage's final numbers: W&B's summary, a last row elsewhere."""
        values = {f"{stage}/{k}": v for k, v in metrics.items() if v is not None}
        if isinstance(self.logger, WandbLogger):
            self.logger.experiment.summary.update(values)
        elif self.logger is not None:
            numbers = {f"summary/{k}": float(v) for k, v in values.items() if isinstance(v, (int, float))}
            if numbers:
                self.logger.log_metrics(numbers, step=0)

    def close(self, status: str) -> None:
        """Write out what is buffered; `status` is success or failed."""
        if self.logger is None:
            return
        self.logger.finalize(status)
        if isinstance(self.logger, WandbLogger):
            self.logger.experiment.finish(exit_code=0 if status == "success" else 1)


def _make(cfg: LoggerConfig, seq: str, run_dir: Path, group: str | None, config: dict[str, Any]) -> Logger | None:
    if cfg.name == "none":
        return None
    if cfg.name == "tensorboard":
        try:
            board = TensorBoardLogger(str(run_dir), name="", version="tensorboard")
            board.log_hyperparams(config)
        except ImportError:
            log.warning("logger=tensorboard: tensorboard is not installed (pip install tensorboard); losses go to losses/metrics.csv")
        else:
            return board
    if cfg.name == "wandb":
        wandb_logger = _make_wandb(cfg, seq, run_dir, group, config)
        if wandb_logger is not None:
            return wandb_logger
    return CSVLogger(str(run_dir), name="", version="losses")


def _make_wandb(cfg: LoggerConfig, seq: str, run_dir: Path, group: str | None, config: dict[str, Any]) -> Logger | None:
    """W&B, or None after one line that says why not: work must not stop for want of a logger."""
    try:
        import wandb
    except ImportError:
        log.warning("logger=wandb: wandb is not installed (pip install 'holdprep[wandb]'); losses go to losses/metrics.csv")
        return None
    online = os.environ.get("WANDB_MODE", "online") == "online"
    if online and wandb.api.api_key is None:
        log.warning("logger=wandb: no API key (wandb login, or WANDB_MODE=offline); losses go to losses/metrics.csv")
        return None
    try:
        logger = WandbLogger(project=cfg.project, entity=cfg.entity, name=seq, group=group, save_dir=str(run_dir), config=config)
        logger.experiment.define_metric("trainer/global_step")
    except wandb.Error as error:
        log.warning("logger=wandb: %s; losses go to losses/metrics.csv", " ".join(str(error).split()))
        return None
    return logger
