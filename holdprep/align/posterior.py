"""The probability of the object's scale: estimates with heavy-tailed errors, and the systematic errors of the hand that all of them share.

All estimators compare the object with the hand. An error of the hand's length or depth therefore changes each of them by the same factor,
and agreement between estimators does not reveal it. The probability is tabulated over the logarithm of the scale.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from holdprep.align.tracks import ScaleEstimate

Likelihood = Callable[[np.ndarray], np.ndarray]  # logarithms of a likelihood (G,) at log scales (G,)
STEP, REACH = 0.002, 0.8  # of the log scales, about the mean of the estimates
FREEDOM = 4.0  # of Student's t
OUTLIER_SHARE, OUTLIER_STD = 0.1, 0.2  # of estimates with another error than they state, and the standard deviation of that
NORMAL_95, TAIL = 1.96, 0.025  # a normal distribution's 95 %; probability on each side of them

LENGTH_STD = 0.05  # of adult hand lengths about their mean (ANSUR II 2012: 193 +- 10 mm in men, 181 +- 10 mm in women)
MEASURED_LENGTH_STD = 0.015  # of a length measured with a ruler, whose wrist is not exactly the model's
# A tracker places hidden joints among the visible ones: the hand looks too small, and is estimated too far away. Error of the log scale per
# share of the keypoints that are not observed in contact frames: mean and standard deviation, on rendered hands that the model cannot
# represent, with the default tracker (`python -m tests.benchmarks --calibration`)
HIDDEN_MEAN, HIDDEN_STD = 0.15, 0.165


@dataclass(frozen=True)
class HandErrors:
    """Systematic errors of the log scale by the hand: standard deviation by its length, mean and standard deviation by its tracker."""

    length_std: float
    tracker_mean: float
    tracker_std: float

    @staticmethod
    def of(hidden_share: float, length_is_measured: bool) -> "HandErrors":
        """The errors for a share in [0, 1] of keypoints that the tracker does not observe in frames with contact."""
        length = MEASURED_LENGTH_STD if length_is_measured else LENGTH_STD
        return HandErrors(length, HIDDEN_MEAN * hidden_share, HIDDEN_STD * hidden_share)

    @property
    def std(self) -> float:
        """Of both together."""
        return float(np.hypot(self.length_std, self.tracker_std))


@dataclass(frozen=True)
class Posterior:
    """Probabilities (G,), of unit sum, of log scales (G,) in steps of STEP."""

    log_scales: np.ndarray
    probability: np.ndarray

    @staticmethod
    def of(estimates: Sequence[ScaleEstimate], others: Likelihood | None = None) -> "Posterior":
        """The product of the estimates' likelihoods, Student's t about each, mixed with a wide normal distribution for wrong ones, and `others`.

        A single estimate without other evidence has nothing to disagree with: its likelihood is not mixed.
        """
        means = np.array([np.log(e.scale) - e.bias for e in estimates])
        stds = np.maximum([e.stderr_ratio for e in estimates], STEP)
        log_scales = _around(means.mean())
        away = log_scales - means[:, None]
        stated = (1 + np.square(away / stds[:, None]) / FREEDOM) ** (-(FREEDOM + 1) / 2) / stds[:, None]
        wrong = np.exp(-0.5 * np.square(away / OUTLIER_STD)) / OUTLIER_STD
        share = 0.0 if len(estimates) == 1 and others is None else OUTLIER_SHARE
        total = np.log((1 - share) * stated + share * wrong).sum(axis=0)
        return Posterior(log_scales, _normalised(total if others is None else total + others(log_scales)))

    @staticmethod
    def by(likelihood: Likelihood, around: float) -> "Posterior":
        """The probabilities by one likelihood alone, about the log scale `around`."""
        log_scales = _around(around)
        return Posterior(log_scales, _normalised(likelihood(log_scales)))

    @property
    def bounds(self) -> tuple[float, float]:
        """The scales between which the true one lies with a probability of 95 %."""
        return float(np.exp(self.quantile(TAIL))), float(np.exp(self.quantile(1 - TAIL)))

    def quantile(self, share: float) -> float:
        """The log scale below which the true one lies with a probability."""
        return float(np.interp(share, np.cumsum(self.probability) - 0.5 * self.probability, self.log_scales))

    @property
    def stderr_ratio(self) -> float:
        """Half the width of the interval of 95 %, as a standard deviation."""
        return (self.quantile(1 - TAIL) - self.quantile(TAIL)) / (2 * NORMAL_95)

    def with_hand(self, errors: HandErrors) -> "Posterior":
        """The probabilities after the hand's systematic errors, which move the estimated scale by a common factor."""
        away = self.log_scales[:, None] - (self.log_scales - errors.tracker_mean)
        kernel = np.exp(-0.5 * np.square(away / max(errors.std, STEP)))
        spread = kernel @ self.probability
        return Posterior(self.log_scales, spread / spread.sum())


def _around(log_scale: float) -> np.ndarray:
    return log_scale + np.arange(-REACH, REACH + STEP / 2, STEP)


def _normalised(log_likelihood: np.ndarray) -> np.ndarray:
    likelihood = np.exp(log_likelihood - log_likelihood.max())
    return np.asarray(likelihood / likelihood.sum())
