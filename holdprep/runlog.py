"""The run's loggers: any of Lightning's CSV, TensorBoard and W&B loggers, for losses of iterations and metrics of stages."""

import logging
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdprep.config.schema import Loggers

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

log = logging.getLogger("holdprep")


class RunLog:
    """Loggers of loss terms and metrics, opened at the first use."""

    def __init__(self, cfg: Loggers, seq: str, run_dir: Path, group: str | None, config: dict[str, Any]) -> None:
        self._cfg, self._seq, self._run_dir, self._group, self._config = cfg, seq, run_dir, group, config

    @cached_property
    def loggers(self) -> "list[Logger]":
        """Lightning's loggers for a Trainer."""
        found = [self._tensorboard()] if self._cfg.tensorboard is not None else []
        found += [self._wandb()] if self._cfg.wandb is not None else []
        opened = [logger for logger in found if logger is not None]
        if self._cfg.csv is not None or len(opened) < len(found):  # a missing logger is replaced by CSV, so that losses are not lost
            from pytorch_lightning.loggers import CSVLogger  # slow import

            opened.append(CSVLogger(str(self._run_dir), name="", version="losses"))
        return opened

    @property
    def _is_open(self) -> bool:
        return "loggers" in vars(self)

    def summary(self, stage: str, metrics: Mapping[str, Any], has_run: bool = True) -> None:
        """Log a stage's final metrics: W&B's summary, a last row elsewhere. No local file is opened for a stage that did not run."""
        values = {f"{stage}/{k}": v for k, v in metrics.items() if v is not None}
        if not values or not (has_run or self._is_open or self._cfg.wandb is not None):
            return
        numbers = {f"summary/{k}": float(v) for k, v in values.items() if isinstance(v, (int, float))}
        for logger in self.loggers:
            if _is_wandb(logger):
                _experiment(logger).summary.update(values)
            elif numbers:
                logger.log_metrics(numbers, step=0)

    def close(self, status: str) -> None:
        """Finalise the loggers; `status` is success or failed."""
        for logger in self.loggers if self._is_open else []:
            logger.finalize(status)
            if _is_wandb(logger):
                _experiment(logger).finish(exit_code=0 if status == "success" else 1)

    def _tensorboard(self) -> "Logger | None":
        from pytorch_lightning.loggers import TensorBoardLogger

        try:
            board = TensorBoardLogger(str(self._run_dir), name="", version="tensorboard")
            board.log_hyperparams(self._config)
        except ImportError:
            log.warning("logger=tensorboard: tensorboard is not installed (pip install tensorboard); losses go to losses/metrics.csv")
            return None
        return board

    def _wandb(self) -> "Logger | None":
        """W&B's logger, or None after a warning with the reason."""
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

        node = self._cfg.wandb
        assert node is not None
        try:
            logger = WandbLogger(
                project=node.project,
                entity=node.entity,
                name=self._seq,
                group=node.group or self._group,
                save_dir=str(self._run_dir),
                config=self._config,
            )
            logger.experiment.define_metric("trainer/global_step")
        except wandb.Error as error:
            log.warning("logger=wandb: %s; losses go to losses/metrics.csv", " ".join(str(error).split()))
            return None
        return logger


def _is_wandb(logger: "Logger") -> bool:
    return type(logger).__name__ == "WandbLogger"


def _experiment(logger: Any) -> Any:
    """The W&B run of a logger."""
    return logger.experiment
