"""A pruner for losses that grow with every sequence of a trial."""

from statistics import median

import optuna
from optuna.trial import FrozenTrial, TrialState


class Median(optuna.pruners.BasePruner):
    """Ends a trial whose loss after a sequence is greater than the median of the complete trials after as many sequences.

    Optuna's MedianPruner compares the least loss that a trial has reported. The loss of a trial is that of its worst sequence so far, so that
    this is always the first one, and no trial would end after the second.
    """

    def __init__(self, startup: int) -> None:
        self.startup = startup  # complete trials before any trial is ended

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial ends."""
        step = trial.last_step
        if step is None:
            return False
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        others = [t.intermediate_values[step] for t in complete if step in t.intermediate_values]
        return len(others) >= self.startup and trial.intermediate_values[step] > median(others)
