"""The run as CSV files in its folder: losses/metrics.csv, curves over frames, and gates."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.loggers import CSVLogger

from holdprep.io.atomic import write_bytes_atomic
from holdprep.logs.content import GATE_COLUMNS, StageOutcome, gate_rows
from holdprep.quality.gates import Gate, Status


class CsvRun:
    """losses/metrics.csv (losses of iterations, metrics in the last rows), losses/frames.<stage>.csv, losses/gates.csv."""

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / "losses"
        self.logger = CSVLogger(str(run_dir), name="", version="losses")
        self._gates: list[Gate] = []

    def stage(self, outcome: StageOutcome) -> None:
        """Add a row of metrics, and write the curves of a stage that ran."""
        self._gates += outcome.gates
        if outcome.numbers:
            self.logger.log_metrics(dict(outcome.numbers), step=0)
        columns = outcome.columns()
        if outcome.has_run and columns:
            rows = zip(*columns.values(), strict=True)
            _write(self._folder / f"frames.{outcome.stage}.csv", ["frame", *columns], ([t, *row] for t, row in enumerate(rows)))

    def pictures(self, name: str, pictures: Mapping[str, np.ndarray]) -> None:
        """Nothing: CSV files hold no pictures."""

    def file(self, kind: str, path: Path) -> None:
        """Nothing: the files are in the sequence's and the run's folder."""

    def close(self, status: Status, ended: str) -> None:
        """Write the table of gates and finish."""
        if self._gates:
            _write(self._folder / "gates.csv", GATE_COLUMNS, gate_rows(self._gates))
        self.logger.finalize(ended)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(path, text.getvalue().encode())
