"""A node of the stage graph: what it reads, makes and depends on; what its run is given and what it hands back."""

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
    """What a stage has to show for itself now: the record of its own run, or the measurement of what others made in its place."""

    record: dict[str, Any]
    is_foreign: bool


@dataclass(frozen=True)
class Context:
    """What a stage is given.

    `given` are the settings that a person gave for this sequence, by key, as Hydra overrides (now or in an earlier run), `named` the keys
    given now, `own` those of the sequence's holdprep.yaml. `standing` is filled for stages that report on the others.
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
        """One line to screen and log, under the stage's name."""
        log.info("%-12s %s", self.stage, text)

    def warn(self, text: str) -> None:
        """One line that the user should read."""
        log.warning("%-12s %s", self.stage, text)

    def training(self) -> "Training":
        """How the stage's optimisations are run: on the device requested, by `trainer` and `callbacks`, logged by the run's loggers."""
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
    """What a stage reports: numbers for gates and loggers, one value a frame for the report's curves, lines for the reader."""

    metrics: Metrics = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Stage:
    """A node of the graph. Artefacts are named as in `sequence.ARTEFACTS`.

    What it reads: `needs` must be there, `uses` are read if they are, `external` names files outside the graph (a video, a tracker's
    folder, MANO's files); one that is gone is nothing to compare with, unless its name begins with NAMED.

    What it makes: `outputs`, whose presence means that it has run, and `optional(cfg)`, which these settings may make; both decide
    whether it is up to date. `previews` never do.

    `settings(cfg)` are the values that change its outputs, nested as the configuration is. `remembers` are the keys (or groups, or nodes)
    that stay with the sequence once given. `measure` computes the numbers of `run` from the outputs of others. `prepare` is what the
    user does before it is known whether the stage must run (clicks, where they are requested), `inspect` what is shown after it.
    `importer` is the override that reads what another tool made in the stage's place.
    `reports` marks a stage that reads what all others recorded: it runs whenever that has changed, after a failure too; `on_request` one
    that is no part of `stage=all` and always runs.
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
    """A function that is imported when it is called: to find that a stage is up to date must not take seconds of imports."""

    def call(*args: Any) -> Any:
        return getattr(import_module(module), function)(*args, **arguments)

    return call
