"""What loggers get: the outcome of a stage, the labels of a run, and the one spelling of every number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from holdprep.quality.gates import Gate, Status

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

GATE_COLUMNS = ("stage", "metric", "value", "should be", "status", "advice")


@dataclass(frozen=True)
class Labels:
    """How a run is named among others: its `stage`, the settings in which it `differs` from the other jobs of its sweep, `tags`."""

    stage: str = ""
    differs: Mapping[str, str] = field(default_factory=dict)
    tags: Sequence[str] = ()

    def name(self, seq: str) -> str:
        """The run's name: sequence, stage, and what differs in the sweep."""
        return " ".join([seq, *([self.stage] if self.stage else []), *(f"{k}={v}" for k, v in self.differs.items())])


@dataclass(frozen=True)
class StageOutcome:
    """The outcome of a stage for loggers: metrics, curves over the frames `names`, gates; `has_run` is false where it was up to date."""

    stage: str
    metrics: Mapping[str, Any]
    curves: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    gates: Sequence[Gate] = ()
    has_run: bool = True
    error: str | None = None

    @property
    def values(self) -> dict[str, Any]:
        """The known metrics by their full name."""
        return {key(self.stage, name): value for name, value in self.metrics.items() if value is not None}

    @property
    def numbers(self) -> dict[str, float]:
        """The metrics that are numbers."""
        return {name: float(value) for name, value in self.values.items() if isinstance(value, int | float)}

    def columns(self) -> dict[str, Sequence[float | None]]:
        """The curves that have a value for every frame."""
        frames = max((len(curve) for curve in self.curves.values()), default=0)
        return {name: curve for name, curve in self.curves.items() if len(curve) == frames}


class Sink(Protocol):
    """One place that a run is logged to."""

    @property
    def logger(self) -> "Logger":
        """Lightning's logger, for the losses of iterations."""

    def stage(self, outcome: StageOutcome) -> None:
        """Log a stage's metrics, curves and gates."""

    def pictures(self, name: str, pictures: Mapping[str, np.ndarray]) -> None:
        """Log pictures (H, W, 3) BGR by caption."""

    def file(self, kind: str, path: Path) -> None:
        """Log a file of the run: report, view or movie."""

    def close(self, status: Status, ended: str) -> None:
        """End the run, whose gates have this status; `ended` is success or failed."""


def key(stage: str, name: str) -> str:
    """The full name of a stage's metric: `align/ho/contact.gap_mm`."""
    return f"{stage.replace('.', '/')}/{name}"


def gate_rows(gates: Sequence[Gate]) -> list[list[str]]:
    """The table of gates, with GATE_COLUMNS."""
    return [[g.stage.replace(".", "/"), g.metric, g.number, g.threshold, g.status, g.advice] for g in gates]
