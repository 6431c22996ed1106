"""Whether the weights that a search chooses are better than the given ones, on sequences on which they were not chosen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from holdprep.quality.evaluation import direction

FOLDS, CONFIDENCE, LEAST = 5, 0.95, 3  # LEAST: sequences for an interval
WORST = 1e6  # loss of a trial that cannot be aligned: Optuna needs a number
Scores = Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """Trial `best` on all sequences; by sequence, the score of the trial that was chosen on the other folds (`held_out`).

    `change` is the mean change of the held-out loss against the given weights, in units of the given weights' mean size of score, with its
    interval `low` to `high` (NaN where there are too few sequences). `verdict` is yes, no or undecided, which it always is by the predicted
    loss (`metric` None): by that alone, weights were chosen that were worse by the truth (see conf/README.md).
    """

    metric: str | None

    best: int
    held_out: dict[str, float]
    change: float
    low: float
    high: float
    verdict: str

    def line(self) -> str:
        """The verdict in one line."""
        if not math.isfinite(self.low):
            return f"better than the given weights: {self.verdict} ({LEAST} sequences or more are needed for an interval, {len(self.held_out)} given)"
        numbers = f"change {100 * self.change:+.1f} %, {100 * CONFIDENCE:.0f} % interval {100 * self.low:+.1f} to {100 * self.high:+.1f} %"
        kind, advice = ("loss", "") if self.metric else ("predicted loss", "; only ground truth can show it: score_metric=mrrpe_mm")
        return f"better than the given weights: {self.verdict} ({kind} on sequences left out of the choice: {numbers}{advice})"


def loss(value: float, metric: str | None) -> float:
    """The quantity that a search minimises: the score, or its negative where more is better; WORST without a score."""
    if math.isnan(value):
        return WORST
    return -value if metric is not None and direction(metric) == "more" else value


def relative(scores: Scores, given: Scores, metric: str | None) -> dict[str, float]:
    """Scores that can be compared between sequences: predicted losses, which have no unit, as multiples of those of the given weights."""
    return {name: value / given[name] if metric is None else value for name, value in scores.items()}


def worst(scores: Scores, metric: str | None) -> float:
    """The score of the worst sequence."""
    return max(scores.values(), key=lambda value: loss(value, metric))


def chosen(trials: Sequence[Scores], names: Sequence[str], metric: str | None) -> int:
    """The trial whose worst score on the sequences `names` is the best, of those with equal worst the one of the best sum."""

    def order(k: int) -> tuple[float, float]:
        losses = [loss(trials[k].get(name, math.nan), metric) for name in names]
        return max(losses), sum(losses)

    return min(range(len(trials)), key=order)


def folds(names: Sequence[str]) -> list[list[str]]:
    """The sequences in at most FOLDS parts of about equal size; each alone where there are few."""
    count = min(FOLDS, len(names))
    return [list(names[k::count]) for k in range(count)]


def compare(given: Scores, trials: Sequence[Scores], metric: str | None) -> Comparison:
    """Choose among `trials` (`relative` scores by sequence) on some sequences and compare on the others with `given`, fold by fold.

    The interval is Student's, over sequences, with the variance that choices on overlapping folds have.
    With fewer than LEAST of them, where 0 is inside, or by the predicted loss, it is undecided.
    """
    names = list(given)
    held_out: dict[str, float] = {}
    for part in folds(names) if len(names) > 1 else []:
        k = chosen(trials, [name for name in names if name not in part], metric)
        held_out |= {name: trials[k].get(name, math.nan) for name in part}
    best = chosen(trials, names, metric)
    size = float(np.mean(np.abs(list(given.values())))) or 1.0
    changes = np.array([(loss(held_out[name], metric) - loss(given[name], metric)) / size for name in held_out])
    if len(changes) < LEAST:
        return Comparison(metric, best, held_out, float(changes.mean()) if len(changes) else math.nan, math.nan, math.nan, "undecided")
    shared = 1 / max(len(folds(names)) - 1, 1)  # the folds' choices share sequences: Nadeau and Bengio's correction of the variance
    mean, stderr = float(changes.mean()), float(changes.std(ddof=1) * math.sqrt(1 / len(changes) + shared))
    half = stderr * float(stats.t.ppf((1 + CONFIDENCE) / 2, len(changes) - 1))
    verdict = "undecided" if metric is None else "yes" if mean + half < 0 else "no" if mean - half > 0 else "undecided"
    return Comparison(metric, best, held_out, mean, mean - half, mean + half, verdict)
