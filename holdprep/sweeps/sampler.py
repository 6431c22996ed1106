"""An Optuna sampler whose randomness depends on the seed and the trial's number alone."""

from collections.abc import Callable, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

Space = dict[str, BaseDistribution]


class ByNumber(BaseSampler):
    """A sampler that is made anew, by `make(number)`, for every trial; the rest of its state must be in the study.

    A search that is resumed goes on like one that was not interrupted, and processes that share a study do not sample the same.
    """

    def __init__(self, make: Callable[[int], BaseSampler]) -> None:
        self.make, self.inner = make, make(0)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.inner = self.make(trial.number)
        self.inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Space:
        return self.inner.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Space) -> dict[str, Any]:
        return self.inner.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        return self.inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self.inner.after_trial(study, trial, state, values)
