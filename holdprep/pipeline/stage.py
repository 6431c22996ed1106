"""A node of the stage graph: inputs, outputs and dependencies; context and result of its run."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdprep.backend import External, Values
from holdprep.config.schema import Config
from holdprep.sequence import Sequence

if TYPE_CHECKING:
    from pytorch_lightning.callbacks import Callback

    from holdprep.optimisation import Training
    from holdprep.runlog import RunLog

log = logging.getLogger("holdprep")

Metrics = dict[str, float | int | str | bool]


@dataclass(frozen=True)
class Standing:
    """The current record of a stage: that of its own run, or the measurement of foreign outputs."""

    record: dict[str, Any]
    is_foreign: bool


@dataclass(frozen=True)
class Context:
    """Input of a stage.

    `given` are the user's overrides for this sequence by key (now or in an earlier run), `named` the keys given now, `own` the overrides in
    the sequence's holdprep.yaml. `standing` holds the records of all stages, for stages that report.
    """

    cfg: Config
    seq: Sequence
    runlog: "RunLog"
    run_dir: Path
    stage: str = ""
    given: Mapping[str, str] = field(default_factory=dict)
    named: frozenset[str] = frozenset()
    own: Mapping[str, str] = field(default_factory=dict)
    standing: Mapping[str, Standing] = field(default_factory=dict)

    def note(self, text: str) -> None:
        """Log one line with the stage's name."""
        log.info("%-12s %s", self.stage, text)

    def warn(self, text: str) -> None:
        """Log a warning with the stage's name."""
        log.warning("%-12s %s", self.stage, text)

    def training(self) -> "Training":
        """Settings of the stage's optimisations: device, `trainer`, `callbacks`, and the run's loggers."""
        from holdprep.optimisation import StopWhenFlat, Training, checkpoints

        options, node = self.cfg.trainer.model_dump(), self.cfg.callbacks
        max_steps, ckpt_path = options.pop("max_steps"), options.pop("ckpt_path")
        called: list[Callback] = [] if node.early_stopping is None else [StopWhenFlat(**node.early_stopping.model_dump())]
        called += (
            [] if node.checkpoint is None else [checkpoints(self.run_dir / "checkpoints" / self.stage, **node.checkpoint.model_dump())]
        )
        return Training(self.runlog.loggers, called, self.cfg.device, max_steps, ckpt_path, options)


@dataclass
class Result:
    """Result of a stage: metrics for gates and loggers, curves with one value per frame, notes for the user."""

    metrics: Metrics = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Stage:
    """A node of the graph. Artefacts are named as in `sequence.ARTEFACTS`.

    Inputs: `needs` must exist, `uses` are read if they exist, `external` are files outside of the graph (a video, a tracker's
    folder, MANO's files); missing ones are not compared, unless their name begins with NAMED.

    Outputs: `outputs`, which exist if the stage has run, and `optional(cfg)`, which it may write with these settings; both
    determine whether it is up to date. `previews` do not.

    `settings(cfg)` are the values that change its outputs, nested as in the configuration. `remembers` are the keys (or groups, or
    nodes) that are kept for the sequence once given. `measure` computes the metrics of `run` from existing outputs. `prepare` is
    called before it is decided whether the stage must run (clicks, if requested), `inspect` after it. `importer` is the override
    that reads another tool's result instead of running the stage. `reports` marks a stage that reads all records: it runs when
    these have changed, also after a failure; `on_request` one that is not part of `stage=all` and always runs.
    """

    name: str
    run: Callable[[Context], Result]
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    optional: Callable[[Config], tuple[str, ...]] = lambda cfg: ()
    previews: tuple[str, ...] = ()
    settings: Callable[[Config], Values] = lambda cfg: {}
    remembers: tuple[str, ...] = ()
    external: Callable[[Config, Sequence], External] = lambda cfg, seq: {}
    measure: Callable[[Context], Result] | None = None
    prepare: Callable[[Context], None] | None = None
    inspect: Callable[[Context], None] | None = None
    importer: str = ""
    reports: bool = False
    on_request: bool = False


def deferred(module: str, function: str, **arguments: Any) -> Callable[..., Any]:
    """A function that is imported when it is called, to avoid slow imports for stages that are up to date."""

    def call(*args: Any) -> Any:
        return getattr(import_module(module), function)(*args, **arguments)

    return call
