"""Hydra's sweeper for a search over weights with Optuna."""

import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from holdprep.config import validation
from holdprep.config.literal import literal
from holdprep.config.schema import Config
from holdprep.errors import ConfigError, HoldprepError
from holdprep.sweeps import search, study
from holdprep.sweeps.comparison import loss
from holdprep.sweeps.launchers import Numbered, Processes, as_they_end

log = logging.getLogger("holdprep")


class Optuna(Sweeper):
    """`hydra/sweeper=optuna`: up to `n_trials` trials in the study, `n_jobs` at a time; the same command continues a search that was ended.

    Several processes may run the same command at the same time and share the study. The first job is that of the given weights.
    """

    def __init__(self, study_name: str, storage: str, n_trials: int, n_jobs: int, params: DictConfig | None, **how: Any) -> None:
        self.name, self.storage, self.n_trials, self.n_jobs = study_name, storage, n_trials, max(n_jobs, 1)
        self.params: dict[str, Any] = {str(k): v for k, v in (params or {}).items()}
        self.how = how

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's call before the search."""
        self.composed = config
        self.runner: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Search; exits in one line where the search cannot be."""
        try:
            with study.quiet():
                self._search(arguments)
        except HoldprepError as error:
            sys.exit(f"error: {error}")

    def _search(self, arguments: list[str]) -> None:
        folder = Path(str(self.composed.hydra.sweep.dir))
        parsed = OverridesParser.create().parse_overrides(arguments)
        ranges = {o.get_key_element(): o.get_value_element_as_str() for o in parsed if o.is_sweep_override()}
        fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
        cfg = validation.validate(OmegaConf.masked_copy(self.composed, [str(key) for key in self.composed if key != "hydra"]))
        _check_sequences(cfg)
        settings = study.Settings(self.name, self.storage, params=study.distributions(self.params | ranges), **self.how)
        folder.mkdir(parents=True, exist_ok=True)
        opened = study.open_study(settings, {"seqs": cfg.seqs, "score_metric": cfg.score_metric, "fixed": sorted(fixed)})
        with self.runner.kept() if isinstance(self.runner, Processes) else nullcontext():
            if study.BASELINE not in opened.user_attrs:
                self._baseline(opened, fixed, folder)
            lost = study.give_up_lost(opened)
            if lost:
                log.info("%-12s %d trials whose process has ended are run again", "search", lost)
            ordered, trials = hardest_first(fixed, opened.user_attrs[study.BASELINE], cfg.score_metric), dict[int, Any]()
            for number, result in as_they_end(self.runner, self._asked(opened, settings, ordered, trials), self.n_jobs):
                _tell(opened, trials.pop(number), float(result.return_value))
        search.conclude(opened, cfg, folder)

    def _baseline(self, opened: Any, fixed: list[str], folder: Path) -> None:
        """The job of the given weights. Raises ConfigError where it has no score."""
        job = [*fixed, f"hydra.sweep.subdir={search.GIVEN}"]
        (result,) = self.runner.launch([job], initial_job_idx=0)
        scores = search.scores_in(folder / search.GIVEN)
        if scores is None or not math.isfinite(float(result.return_value)):
            raise ConfigError(f"the given weights have no score: see {folder / search.GIVEN / 'run.log'}")
        opened.set_user_attr(study.BASELINE, scores)

    def _asked(self, opened: Any, settings: study.Settings, fixed: list[str], trials: dict[int, Any]) -> Iterator[Numbered]:
        """Jobs of new trials, which are put in `trials` by number, until the study has enough."""
        while len(counted(opened)) < self.n_trials:
            trial = opened.ask(dict(settings.params))
            study.mark_runner(trial)
            trials[trial.number] = trial
            yield trial.number, [*fixed, *search.as_overrides(trial.params), f"hydra.sweep.subdir={trial.number}"]


def _tell(opened: Any, trial: Any, value: float) -> None:
    """Tell the study the result of a trial: the loss that it has reported last. `value` is that of its job, NaN where it failed."""
    from optuna.trial import TrialState

    found = opened.get_trials(deepcopy=False)[trial.number]
    if found.user_attrs.get(study.PRUNED):
        opened.tell(trial, state=TrialState.PRUNED)
    elif math.isfinite(value):
        opened.tell(trial, found.intermediate_values[found.last_step])
    else:
        trial.set_user_attr(study.FAILED, True)
        opened.tell(trial, state=TrialState.FAIL)


def hardest_first(fixed: Sequence[str], given: Mapping[str, float], metric: str | None) -> list[str]:
    """The overrides with the sequences in the order of the given weights' scores by a ground-truth metric, the worst first.

    A trial's loss is that of its worst sequence, so that a trial to be pruned shows it after its first one. Predicted losses are not
    compared between sequences.
    """
    if metric is None:
        return list(fixed)
    names = sorted(given, key=lambda name: loss(given[name], metric), reverse=True)
    return [*(o for o in fixed if not o.startswith("seqs=")), f"seqs=[{','.join(literal(name) for name in names)}]"]


def counted(opened: Any) -> Sequence[Any]:
    """The trials of a study that count as done or at work: all except those whose process was lost."""
    from optuna.trial import TrialState

    return [
        t
        for t in opened.get_trials(deepcopy=False)
        if t.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING) or t.user_attrs.get(study.FAILED)
    ]


def _check_sequences(cfg: Config) -> None:
    """Raise ConfigError where a sequence is not ready to be aligned."""
    from holdprep.sequence import Sequence as SequenceFolder

    if not cfg.seqs:
        raise ConfigError("a search needs sequences: set seqs=[a,b]")
    needs: Mapping[str, tuple[str, str]] = {"colmap": ("object poses", "object_pose"), "fit_slerp": ("registered hands", "register")}
    for name in cfg.seqs:
        seq = SequenceFolder(cfg.data_root, name)
        if not seq.root.is_dir():
            raise ConfigError(f"seqs: {seq.root} does not exist")
        for artefact, (what, stage) in needs.items():
            if not seq.has(artefact):
                raise ConfigError(f"seqs: {name} has no {what} ({seq.path(artefact)}): run stage={stage} seq={name} first")
