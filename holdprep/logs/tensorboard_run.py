"""The run in TensorBoard: losses, metrics with hyperparameters, curves over frames, pictures, and the table of gates."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.loggers import TensorBoardLogger

from holdprep.logs.content import GATE_COLUMNS, StageOutcome, gate_rows
from holdprep.quality.gates import Gate, Status


class TensorBoardRun:
    """Events in <run>/tensorboard; `config` are the hyperparameters. Raises ImportError where tensorboard is not installed."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        self.logger = TensorBoardLogger(str(run_dir), name="", version="tensorboard", default_hp_metric=False)
        self._board: Any = self.logger.experiment  # raises where tensorboard is missing
        self._config, self._metrics, self._gates = dict(config), dict[str, float](), list[Gate]()

    def stage(self, outcome: StageOutcome) -> None:
        """Metrics as scalars at step 0, curves with the frame as step."""
        self._gates += outcome.gates
        self._metrics |= outcome.numbers
        if outcome.numbers:
            self.logger.log_metrics(outcome.numbers, step=0)
        for name, curve in outcome.columns().items() if outcome.has_run else ():
            for t, value in enumerate(curve):
                if value is not None and math.isfinite(value):
                    self._board.add_scalar(f"{outcome.stage.replace('.', '/')}/frames/{name}", value, t)

    def pictures(self, name: str, pictures: Mapping[str, np.ndarray]) -> None:
        """Pictures by name and caption."""
        for caption, picture in pictures.items():
            self._board.add_image(f"{name}/{caption}", picture[..., ::-1].copy(), 0, dataformats="HWC")

    def file(self, kind: str, path: Path) -> None:
        """The path of a file as text."""
        self._board.add_text(kind, str(path))

    def close(self, status: Status, ended: str) -> None:
        """Hyperparameters with the final metrics, and the table of gates."""
        self.logger.log_hyperparams(self._config, self._metrics)
        if self._gates:
            rows = [GATE_COLUMNS, ("---",) * len(GATE_COLUMNS), *gate_rows(self._gates)]
            self._board.add_text("gates", "\n".join("| " + " | ".join(row) + " |" for row in rows))
        self.logger.finalize(ended)
