"""search.html of a search over weights: its course, the importance of every weight, and each weight against the loss. No script, no network."""

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from holdprep.sweeps.comparison import Comparison

if TYPE_CHECKING:
    import optuna

WIDTH, HEIGHT, MARGIN = 360, 200, 34  # px of a plot
STYLE = "body{font:15px sans-serif;margin:2em;max-width:1200px}figure{display:inline-block;margin:.5em}td{padding:.1em .8em}"


def html(opened: "optuna.Study", found: Comparison, importances: Mapping[str, float], unit: str) -> str:
    """The page of a study with at least one complete trial."""
    from optuna.trial import TrialState

    done = opened.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    numbers, values = [float(t.number) for t in done], [float(t.value or 0.0) for t in done]
    course = scatter("loss by trial; line: best so far", numbers, values, line=np.minimum.accumulate(values).tolist())
    rows = "".join(
        f"<tr><td>{escape(key)}</td><td>{share:.2f}</td><td><svg width=200 height=12><rect width={200 * share:.0f} height=12 fill=#468 />"
        "</svg></td></tr>"
        for key, share in importances.items()
    )
    plots = []
    for key in done[0].params:
        pairs = [(t.params[key], v) for t, v in zip(done, values, strict=True) if isinstance(t.params.get(key), int | float)]
        if pairs:
            log = bool(getattr(done[0].distributions[key], "log", False))
            plots.append(scatter(key + (" (log)" if log else ""), [np.log10(x) if log else x for x, _ in pairs], [v for _, v in pairs]))
    best = done[found.best]
    chosen = "".join(f"<tr><td>{escape(k)}</td><td>{v:.6g}</td></tr>" for k, v in best.params.items() if isinstance(v, int | float))
    return (
        f"<!doctype html><meta charset=utf-8><title>{escape(opened.study_name)}</title><style>{STYLE}</style>"
        f"<h1>{escape(opened.study_name)}</h1><p>{len(done)} of {len(opened.trials)} trials complete; loss: {escape(unit)}</p>"
        f"<p><b>{escape(found.line())}</b></p>{course}<h2>Importance</h2><table>{rows}</table>"
        f"<h2>Loss by weight</h2>{''.join(plots)}<h2>Winner: trial {best.number}</h2><table>{chosen}</table>"
    )


def scatter(title: str, x: list[float], y: list[float], line: list[float] | None = None) -> str:
    """A plot of points, and of a line over the same x; the upper tenth of y is cut off."""
    top = float(np.quantile(y, 0.9)) if len(y) > 9 else max(y)
    (left, right), (low, high) = (min(x), max(x)), (min(y), max(top, min(y)))

    def at(a: float, b: float) -> tuple[float, float]:
        across = (a - left) / (right - left) if right > left else 0.5
        up = (min(b, high) - low) / (high - low) if high > low else 0.5
        return MARGIN + across * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - up * (HEIGHT - 2 * MARGIN)

    dots = "".join("<circle cx={:.1f} cy={:.1f} r=3 fill=#468 fill-opacity=.6 />".format(*at(a, b)) for a, b in zip(x, y, strict=True))
    path = " ".join("{:.1f},{:.1f}".format(*at(a, b)) for a, b in zip(x, line or [], strict=False))
    ends = (
        f"<text x={MARGIN} y={HEIGHT - 12}>{left:.3g}</text><text x={WIDTH - MARGIN} y={HEIGHT - 12} text-anchor=end>{right:.3g}</text>"
        f"<text x=2 y={HEIGHT - MARGIN}>{low:.3g}</text><text x=2 y={MARGIN}>{high:.3g}</text>"
    )
    drawn = f"{dots}<polyline points='{path}' fill=none stroke=#c40 />" if path else dots
    return f"<figure><figcaption>{escape(title)}</figcaption><svg width={WIDTH} height={HEIGHT} font-size=11>{drawn}{ends}</svg></figure>"
