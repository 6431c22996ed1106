"""search.html of a search over weights: its course, the best trial, the importance of every weight, each weight against the loss.

No script, no network.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from holdprep.sweeps.comparison import Comparison
from holdprep.viewers.page import environment, policy, source

if TYPE_CHECKING:
    import optuna

HERE = Path(__file__).parent
WIDTH, HEIGHT, LEFT, BOTTOM, MARGIN = 360, 210, 54, 26, 10  # px of a plot
FEW = 10  # up to this number of points all are shown; of more the upper tenth of the loss is cut off


def html(opened: "optuna.Study", found: Comparison, importances: Mapping[str, float], unit: str) -> str:
    """The page of a study with at least one complete trial."""
    from optuna.trial import TrialState

    done = opened.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    numbers, values = [float(t.number) for t in done], [float(t.value or 0.0) for t in done]
    plots = []
    for key in done[0].params:
        pairs = [(float(t.params[key]), v) for t, v in zip(done, values, strict=True) if isinstance(t.params.get(key), int | float)]
        if pairs:
            log = bool(getattr(done[0].distributions[key], "log", False))
            plots.append(scatter(key, [x for x, _ in pairs], [v for _, v in pairs], log=log))
    best = done[found.best]
    return (
        environment(HERE)
        .get_template("search.html.j2")
        .render(
            title=opened.study_name,
            policy=policy(""),
            style=Markup(source("theme.css") + (HERE / "index.css").read_text() + (HERE / "search.css").read_text()),
            complete=len(done),
            total=len(opened.trials),
            pruned=sum(t.state == TrialState.PRUNED for t in opened.get_trials(deepcopy=False)),
            unit=unit,
            verdict=found.line(),
            course=scatter("loss by trial; line: best so far", numbers, values, line=np.minimum.accumulate(values).tolist()),
            best=best.number,
            chosen=[(name, f"{value:.6g}") for name, value in best.params.items() if isinstance(value, int | float)],
            importances=list(importances.items()),
            plots=plots,
        )
    )


def scatter(title: str, x: Sequence[float], y: Sequence[float], line: Sequence[float] | None = None, log: bool = False) -> Markup:
    """A plot of points, and of a line over the same x; `log` makes the x axis logarithmic, with its ends labelled in the values' own unit."""
    top = float(np.quantile(y, 0.9)) if len(y) > FEW else max(y)
    (first, last), (low, high) = (min(x), max(x)), (min(y), max(top, min(y)))
    base, right = HEIGHT - BOTTOM, WIDTH - MARGIN
    places = np.log10(x) if log else np.asarray(x)
    across = LEFT + (right - LEFT) * _shares(places, places.min(), places.max())

    def at(values: Sequence[float]) -> list[tuple[float, float]]:
        """Pixels of values at the same x."""
        down = base - (base - MARGIN) * _shares(np.clip(values, low, high), low, high)
        return list(zip(across.tolist(), down.tolist(), strict=True))

    dots = "".join(f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in at(y))
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in at(line)) if line else ""
    return Markup(
        f'<figure><figcaption>{escape(title)}{" (log)" if log else ""}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}">'
        f'<path class="axis" d="M{LEFT} {MARGIN}V{base}H{right}"/>{dots}'
        + (f'<polyline class="line" points="{path}"/>' if path else "")
        + f'<text x="{LEFT}" y="{HEIGHT - 8}">{first:.3g}</text><text x="{right}" y="{HEIGHT - 8}" text-anchor="end">{last:.3g}</text>'
        f'<text x="{LEFT - 4}" y="{base}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{LEFT - 4}" y="{MARGIN + 9}" text-anchor="end">{high:.3g}</text></svg></figure>'
    )


def _shares(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values (N,) as shares of the range from `low` to `high`; 0.5 where it is empty."""
    return (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
