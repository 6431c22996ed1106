"""Fit of `holdprep.sweeps.score` to tests/data/weight_trials.npz, and its rank correlation with the truth on sequences left out.

As a command, `python -m tests.benchmarks.weight_score`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.stats import spearmanr

from holdprep.sweeps.score import TERMS
from tests.benchmarks.weight_trials import DATA

TRUTH, RIDGE = "true.mrrpe_mm", 0.02


@dataclass(frozen=True)
class Trials:
    """The trials of one sequence and input: logarithms of the figures of TERMS plus their offsets (S, F), true errors (S,)."""

    name: str
    sequence: str
    logs: np.ndarray
    errors: np.ndarray


def load(truth: str = TRUTH) -> list[Trials]:
    """The collected trials; the first of each are the default weights."""
    found = []
    with np.load(DATA) as file:
        columns = [str(n) for n in file["names"]]
        for name, values in zip(file["sequences"], file["values"].astype(float), strict=True):
            rows = values[np.isfinite(values[:, columns.index(truth)])]
            logs = [np.log(np.nan_to_num(rows[:, columns.index(key)]) + offset) for key, (offset, _) in TERMS.items()]
            found.append(Trials(str(name), str(name).rsplit("_", 1)[0], np.stack(logs, 1), rows[:, columns.index(truth)]))
    return found


def fit(trials: Sequence[Trials]) -> np.ndarray:
    """(F,) exponents >= 0: logistic ranking of all pairs of weights of a sequence, weighted by the difference of their true errors."""
    pairs, weights = [], []
    for one in trials:
        i, j = np.triu_indices(len(one.errors), 1)
        apart = np.log1p(one.errors[i]) - np.log1p(one.errors[j])
        pairs.append((one.logs[i] - one.logs[j]) * np.sign(apart)[:, None])
        weights.append(np.abs(apart) / np.abs(apart).sum() / len(trials))
    differences, weight = np.concatenate(pairs), np.concatenate(weights)

    def objective(exponents: np.ndarray) -> float:
        return float((weight * np.logaddexp(0, -differences @ exponents)).sum() + RIDGE * (exponents**2).sum() / 2)

    start = np.zeros(len(TERMS))
    return np.asarray(minimize(objective, start, bounds=[(0, None)] * len(start)).x)


def held_out(trials: Sequence[Trials]) -> dict[str, tuple[float, float]]:
    """By trial set: Spearman's correlation with the truth, and the true error of the choice by that of the defaults.

    The exponents are fitted without the sequence, under any input.
    """
    found = {}
    for one in trials:
        exponents = fit([other for other in trials if other.sequence != one.sequence])
        predicted = one.logs @ exponents
        found[one.name] = (float(spearmanr(predicted, one.errors)[0]), float(one.errors[np.argmin(predicted)] / one.errors[0]))
    return found


def medians(found: dict[str, tuple[float, float]]) -> dict[str, float]:
    """The median correlation of `held_out` by input (default tracker, noisy keypoints), and of all."""
    inputs = sorted({name.rsplit("_", 1)[1] for name in found})
    return {kind or "all": float(np.median([r for name, (r, _) in found.items() if name.endswith(kind)])) for kind in (*inputs, "")}


if __name__ == "__main__":
    for truth in (TRUTH, "true.mpjpe_mm", "true.size_error_pct"):
        result = held_out(load(truth))
        print(
            truth, "median Spearman", ", ".join(f"{kind} {median:.2f}" for kind, median in medians(result).items()), f"({len(result)} sets)"
        )
        for name, (correlation, ratio) in result.items():
            print(f"  {name:40} {correlation:+.2f}  error of the choice / of the defaults {ratio:.2f}")
    for key, exponent in zip(TERMS, fit(load()), strict=True):
        print(f'    "{key}": ({TERMS[key][0]}, {exponent:.2f}),')
