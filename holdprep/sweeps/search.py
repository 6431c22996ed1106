"""End of a search over weights: the winner as a file for `weights=`, whether it beats the given weights, the importance of every weight."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.table import Table

from holdprep.config.literal import literal
from holdprep.config.schema import Config
from holdprep.errors import HoldprepError
from holdprep.io import safeio
from holdprep.quality.evaluation import direction
from holdprep.sweeps import search_page, study
from holdprep.sweeps.comparison import Comparison, compare, relative, worst

if TYPE_CHECKING:
    import optuna

GROUP, GIVEN = "weights.", "given"  # GIVEN: folder of the job of the given weights


def as_overrides(params: Mapping[str, Any]) -> list[str]:
    """Values of a trial as overrides of its job."""
    return [f"{key}={literal(value) if isinstance(value, str) else json.dumps(value)}" for key, value in params.items()]


def scores_in(folder: Path) -> dict[str, float] | None:
    """Scores by sequence of the job in `folder`; None where it has none."""
    path = folder / "metrics.json"
    if not path.is_file():
        return None
    metrics = json.loads(path.read_text())["stages"].get("score", {}).get("metrics", {})
    found = {name: value for name, value in metrics.items() if name != "worst"}
    return {name: float(value) for name, value in found.items()} if found and all(v is not None for v in found.values()) else None


def conclude(opened: "optuna.Study", cfg: Config, folder: Path) -> None:
    """Write winner.yaml, best.yaml and search.html, and print the comparison.

    The winner is the best trial only where it is shown to be better than the given weights, else it is these (see `Comparison`).
    Raises HoldprepError where no trial has a score.
    """
    from optuna.trial import TrialState

    done = opened.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not done:
        raise HoldprepError(f"none of {len(opened.trials)} trials has a score: see run.log in the folders of {folder}")
    metric = cfg.score_metric
    given = {name: float(v) for name, v in opened.user_attrs[study.BASELINE].items()}
    scores = [relative(t.user_attrs[study.SCORES], given, metric) for t in done]
    given = relative(given, given, metric)
    found = compare(given, scores, metric)
    best = done[found.best]
    chosen = {key.removeprefix(GROUP): value for key, value in best.params.items() if key.startswith(GROUP)}
    is_better = found.verdict == "yes"
    for name, values in (("best.yaml", chosen), ("winner.yaml", chosen if is_better else {})):
        weights = cfg.weights.model_copy(update=values).model_dump()
        safeio.write_bytes_atomic(folder / name, yaml.safe_dump(weights, sort_keys=False).encode())
    importances = importances_of(opened)
    unit = "predicted loss, 1: given weights" if metric is None else f"{metric}, {direction(metric)} is better"
    _show(given, scores[found.best], found, unit, metric)
    if importances:
        print("importance: " + ", ".join(f"{key.removeprefix(GROUP)} {share:.2f}" for key, share in importances.items()))
    safeio.write_bytes_atomic(folder / "search.html", search_page.html(opened, found, importances, unit).encode())
    print(f"{len(done)} of {len(opened.trials)} trials complete; plots: {folder / 'search.html'}")
    if is_better:
        print(f"the winner: weights={folder / 'winner.yaml'}")
    else:
        print(f"the given weights are kept in {folder / 'winner.yaml'}; those of the best trial: weights={folder / 'best.yaml'}")


def importances_of(opened: "optuna.Study") -> dict[str, float]:
    """Share of every searched value in the differences between good trials and all, in falling order; empty with few trials."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    done = opened.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < study.STARTUP or len({t.value for t in done}) < 2:
        return {}
    return dict(get_param_importances(opened, evaluator=PedAnovaImportanceEvaluator()))


def _show(given: Mapping[str, float], best: Mapping[str, float], found: Comparison, unit: str, metric: str | None) -> None:
    table = Table()
    for column in ("sequence", f"given weights ({unit})", "best trial", "chosen on the others"):
        table.add_column(column)
    for name in given:
        other = found.held_out.get(name, math.nan)
        table.add_row(name, f"{given[name]:.3f}", f"{best.get(name, math.nan):.3f}", f"{other:.3f}")
    table.add_row("worst", f"{worst(given, metric):.3f}", f"{worst(best, metric):.3f}", "")
    Console().print(table)
    print(found.line())
