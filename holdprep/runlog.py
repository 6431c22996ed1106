"""The run's logger: Lightning's CSV, TensorBoard or W&B logger behind two calls, losses of an iteration and numbers of a stage."""

import logging
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdprep.config import Logger as LoggerConfig

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

log = logging.getLogger("holdprep")


class RunLog:
    """Where loss terms and metrics go. The logger behind it is opened when there is something to log."""

    def __init__(self, cfg: LoggerConfig, seq: str, run_dir: Path, group: str | None, config: dict[str, Any]) -> None:
        self._cfg = cfg
        self._open = partial(_make, cfg, seq, run_dir, cfg.group or group, config)
        self._opened: Logger | None = None
        self._is_open = False

    @property
    def logger(self) -> "Logger | None":
        """The Lightning logger for a Trainer, or None."""
        if not self._is_open:
            self._opened, self._is_open = self._open(), True
        return self._opened

    def losses(self, stage: str, step: int, terms: Mapping[str, float]) -> None:
        """Loss terms of one iteration, as <stage>/<term>."""
        if self.logger is not None:
            self.logger.log_metrics({f"{stage}/{k}": float(v) for k, v in terms.items()}, step=step)

    def summary(self, stage: str, metrics: Mapping[str, Any], has_run: bool = True) -> None:
        """A stage's final numbers: W&B's summary, a last row elsewhere. A local file is not opened for a stage that did not run."""
        values = {f"{stage}/{k}": v for k, v in metrics.items() if v is not None}
        if not values or not (has_run or self._is_open or self._cfg.name == "wandb") or self.logger is None:
            return
        if self._is_wandb():
            _experiment(self.logger).summary.update(values)
            return
        numbers = {f"summary/{k}": float(v) for k, v in values.items() if isinstance(v, (int, float))}
        if numbers:
            self.logger.log_metrics(numbers, step=0)

    def close(self, status: str) -> None:
        """Write out what is buffered; `status` is success or failed."""
        if self._opened is None:
            return
        self._opened.finalize(status)
        if self._is_wandb():
            _experiment(self._opened).finish(exit_code=0 if status == "success" else 1)

    def _is_wandb(self) -> bool:
        return type(self._opened).__name__ == "WandbLogger"


def _experiment(logger: Any) -> Any:
    """W&B's run behind its logger."""
    return logger.experiment


def _make(cfg: LoggerConfig, seq: str, run_dir: Path, group: str | None, config: dict[str, Any]) -> "Logger | None":
    if cfg.name == "none":
        return None
    from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger  # takes seconds

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


def _make_wandb(cfg: LoggerConfig, seq: str, run_dir: Path, group: str | None, config: dict[str, Any]) -> "Logger | None":
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
    from pytorch_lightning.loggers import WandbLogger

    try:
        logger = WandbLogger(project=cfg.project, entity=cfg.entity, name=seq, group=group, save_dir=str(run_dir), config=config)
        logger.experiment.define_metric("trainer/global_step")
    except wandb.Error as error:
        log.warning("logger=wandb: %s; losses go to losses/metrics.csv", " ".join(str(error).split()))
        return None
    return logger
