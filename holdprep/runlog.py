"""The run's loggers: any of CSV files, TensorBoard and W&B, for losses of iterations, and metrics, curves and gates of stages."""

import logging
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdprep.config.schema import Loggers
from holdprep.logs.content import Labels, Sink, StageOutcome
from holdprep.quality.gates import Status, overall, worst_of

if TYPE_CHECKING:
    import numpy as np
    from pytorch_lightning.loggers import Logger

log = logging.getLogger("holdprep")


class RunLog:
    """Loggers of a run, opened at the first use."""

    def __init__(
        self, cfg: Loggers, seq: str, run_dir: Path, group: str | None, config: dict[str, Any], labels: Labels | None = None
    ) -> None:
        self._cfg, self._seq, self._run_dir, self._group, self._config = cfg, seq, run_dir, group, config
        self._labels = labels or Labels()
        self._status: list[Status] = []

    @cached_property
    def _sinks(self) -> list[Sink]:
        wanted = [open_ for node, open_ in ((self._cfg.tensorboard, self._tensorboard), (self._cfg.wandb, self._wandb)) if node is not None]
        opened = [sink for sink in (open_() for open_ in wanted) if sink is not None]
        if self._cfg.csv is not None or len(opened) < len(wanted):  # a missing logger is replaced by CSV, so that nothing is lost
            from holdprep.logs.csv_run import CsvRun  # slow import

            opened.append(CsvRun(self._run_dir))
        return opened

    @property
    def loggers(self) -> "list[Logger]":
        """Lightning's loggers for a Trainer."""
        return [sink.logger for sink in self._sinks]

    @property
    def _is_open(self) -> bool:
        return "_sinks" in vars(self)

    def stage(self, outcome: StageOutcome) -> None:
        """Log a stage's outcome. No local file is opened for a stage that did not run."""
        self._status.append("fail" if outcome.error else overall(outcome.gates))
        if outcome.has_run or self._is_open or self._cfg.wandb is not None:
            for sink in self._sinks:
                sink.stage(outcome)

    def pictures(self, name: str, draw: "Callable[[], Mapping[str, np.ndarray]]") -> None:
        """Log pictures (H, W, 3) BGR by caption, which are drawn only where a logger shows them."""
        if self._cfg.tensorboard is not None or self._cfg.wandb is not None:
            drawn = draw()
            for sink in self._sinks:
                sink.pictures(name, drawn)

    def file(self, kind: str, path: Path) -> None:
        """Log a file of the run: report, view, overlay."""
        if self._cfg.tensorboard is not None or self._cfg.wandb is not None:
            for sink in self._sinks:
                sink.file(kind, path)

    def close(self, ended: str) -> None:
        """Finalise the loggers; `ended` is success or failed."""
        status = worst_of(self._status)
        for sink in self._sinks if self._is_open else []:
            sink.close(status, ended)

    def _tensorboard(self) -> Sink | None:
        from holdprep.logs.tensorboard_run import TensorBoardRun

        try:
            return TensorBoardRun(self._run_dir, self._config)
        except ImportError:
            log.warning("logger=tensorboard: tensorboard is not installed (pip install tensorboard); losses go to losses/metrics.csv")
            return None

    def _wandb(self) -> Sink | None:
        """W&B's run, or None after a warning with the reason."""
        try:
            import wandb
        except ImportError:
            log.warning("logger=wandb: wandb is not installed (pip install 'holdprep[wandb]'); losses go to losses/metrics.csv")
            return None
        online = os.environ.get("WANDB_MODE", "online") == "online"
        if online and wandb.api.api_key is None:
            log.warning("logger=wandb: no API key (wandb login, or WANDB_MODE=offline); losses go to losses/metrics.csv")
            return None
        from holdprep.logs.wandb_run import WandbRun

        try:
            return WandbRun(self._cfg.wandb, self._seq, self._run_dir, self._config, self._labels, self._group)
        except wandb.Error as error:
            log.warning("logger=wandb: %s; losses go to losses/metrics.csv", " ".join(str(error).split()))
            return None
