"""Reports of a trial, from the process that runs its job, to the study: scores of its sequences, and whether it should be ended early."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from holdprep.sweeps import study
from holdprep.sweeps.comparison import loss, relative, worst

if TYPE_CHECKING:
    import optuna

    from holdprep.sweeps.trial import Report


def reporter(run_dir: Path, metric: str | None) -> "Report | None":
    """The report of the trial whose job runs in `run_dir`, which is named by its number; None for other jobs. `metric` is `score_metric`."""
    if not HydraConfig.initialized() or not run_dir.name.isdigit():
        return None
    sweeper = HydraConfig.get().sweeper
    if not str(sweeper.get("_target_")).endswith(".Optuna"):
        return None
    opened = _opened(str(sweeper.storage), str(sweeper.study_name), str(sweeper.pruner))
    number, given = int(run_dir.name), opened.user_attrs[study.BASELINE]

    def report(scores: Mapping[str, float]) -> bool:
        with study.quiet():
            trial = _trial(opened, number)
            trial.set_user_attr(study.SCORES, dict(scores))
            trial.report(loss(worst(relative(scores, given, metric), metric), metric), step=len(scores))
            is_pruned = trial.should_prune()
            if is_pruned:
                trial.set_user_attr(study.PRUNED, True)
        return bool(is_pruned)

    return report


def _trial(opened: "optuna.Study", number: int) -> "optuna.Trial":
    import optuna

    # the study's random sampler has no state, so that this makes no second sample
    return optuna.Trial(opened, opened.get_trials(deepcopy=False)[number]._trial_id)


@lru_cache(maxsize=4)
def _opened(storage: str, name: str, pruner: str) -> "optuna.Study":
    import optuna

    with study.quiet():
        return optuna.load_study(
            study_name=name, storage=study.storage_of(storage), sampler=optuna.samplers.RandomSampler(), pruner=study.pruner_of(pruner)
        )
