"""The quality report of a sequence: one self-contained HTML file, for screen and print."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Template
from markupsafe import Markup

from holdprep.quality.bounds import show
from holdprep.quality.chart import COLORS, Curve, line_chart
from holdprep.quality.gates import Gate, Status, worst_of
from holdprep.quality.rules import RULES
from holdprep.quality.size_sources import size_chart
from holdprep.quality.verdict import Problem, StageReport, Verdict, problems, ranges, verdict
from holdprep.viewers.pack import as_script, packed
from holdprep.viewers.page import SCRIPTS, STYLES, environment, policy, source
from holdprep.viewers.scene import Scene

HERE = Path(__file__).parent
MOST_FRAMES = 150  # shown in the report's viewer, with the worst of every curve among them
PICTURES_BYTES = 3.5e6
WORST = 4  # frames of a curve that are shown as thumbnails
LINKS = 12  # runs of frames that are linked in a problem
NOT_RANKED = ("is_valid", "registered", "detected", "reclick")  # curves of marks, which shade the others
LOW_IS_WORSE = ("inliers", "confidence")  # besides those of rules that say "at least"


@dataclass(frozen=True)
class ReportData:
    """Content of a report. `hand_model` is "mano" or "standin"; `created` a date as text; `config_yaml` the resolved configuration.

    `curves` (T,) by `<stage>/<name>` are those of the T frames `names`; `scene` has what is shown, None without pictures. `versions` are of
    packages.
    """

    seq: str
    version: str
    hand_model: str
    created: str
    stages: list[StageReport] = field(default_factory=list)
    names: Sequence[str] = ()
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)
    scene: Scene | None = None
    config_yaml: str = ""
    notes: list[str] = field(default_factory=list)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def gates(self) -> list[Gate]:
        """All gates, in the order of the stages."""
        return [gate for stage in self.stages for gate in stage.gates]

    @property
    def status(self) -> Status:
        """The worst stage's status."""
        return worst_of(stage.status for stage in self.stages)

    @cached_property
    def problems(self) -> list[Problem]:
        """Every problem once."""
        return problems(self.stages, self.curves)

    @property
    def verdict(self) -> Verdict:
        """Trainable or not, and what to do."""
        return verdict(self.stages, self.problems)


@dataclass(frozen=True)
class Link:
    """A run of frames: its number for the viewer, and its text."""

    frame: int
    text: str


@dataclass(frozen=True)
class ChartOf:
    """A curve's chart with its worst frames."""

    curve: Curve
    svg: Markup
    worst: list[Link]


def render_report(data: ReportData) -> str:
    """The report as self-contained HTML."""
    charts = {stage: [_chart(data, curve) for curve in found] for stage, found in grouped(data.names, data.curves).items()}
    code = source(*SCRIPTS) + (HERE / "report.js").read_text()
    return _template().render(
        data=data,
        verdict=data.verdict,
        problems=[(problem, *_links(problem, data.names)) for problem in data.problems],
        charts=charts,
        size=next((size_chart(stage.metrics) for stage in data.stages if stage.name == "align.o"), None),
        colors=COLORS,
        policy=policy(code),
        code=Markup(code),
        style=_style(),
        scene=None if data.scene is None else Markup(as_script(_shown(data, data.scene, charts))),
    )


def styled(chart: Markup) -> str:
    """A chart of the report as HTML of its own, with the report's style."""
    return f'<style>{_style()}</style><figure class="size">{chart}</figure>'


def _style() -> Markup:
    return Markup(source(*STYLES) + (HERE / "report.css").read_text())


@cache
def _template() -> Template:
    env = environment(HERE)
    env.filters["show"] = show
    return env.get_template("report.html.j2")


def _shown(data: ReportData, scene: Scene, charts: Mapping[str, list[ChartOf]]) -> Any:
    worst = {link.frame for found in charts.values() for chart in found for link in chart.worst}
    first = {start for problem in data.problems for start, _ in ranges(problem.frames)[:LINKS]}
    return packed(scene.sampled(MOST_FRAMES, sorted(worst | first)), PICTURES_BYTES)


def _links(problem: Problem, names: Sequence[str]) -> tuple[list[Link], int]:
    """Links to the frames of a problem, and the number of runs without one."""
    runs = [run for run in ranges(problem.frames) if run[1] < len(names)]
    links = [Link(a, names[a] if a == b else f"{names[a]}-{names[b]}") for a, b in runs[:LINKS]]
    return links, len(runs) - len(links)


def grouped(names: Sequence[str], curves: Mapping[str, np.ndarray]) -> dict[str, list[Curve]]:
    """Charts by stage: curves of right and left hand and object with the same name are in one."""
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for key, values in curves.items():
        stage, _, name = key.rpartition("/")
        prefix, _, ending = name.rpartition(".")
        if ending not in NOT_RANKED and np.isfinite(values).any():
            title = f"{prefix}.{ending}" if prefix not in ("right", "left", "object", "") else ending
            found.setdefault(stage, {}).setdefault(title, {})[prefix if title == ending and prefix else title] = values
    frames = np.arange(len(names))
    return {
        stage: [Curve(title, unit_of(title), frames, series, _shaded(stage, curves)) for title, series in by_title.items()]
        for stage, by_title in found.items()
    }


def unit_of(name: str) -> str:
    """The unit at the end of a curve's name."""
    ending = name.rpartition("_")[2]
    return {"px": "px", "mm": "mm", "deg": "deg", "pct": "%", "iou": "", "inliers": "points"}.get(ending, "")


def _shaded(stage: str, curves: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """(T,) bool: frames in which the stage's hand is not valid, or its object not registered; in the alignment either."""
    of = ("register", "object_pose") if stage.startswith("align") else (stage,)
    marks = [v == 0 for k, v in curves.items() if k.rpartition("/")[0] in of and k.endswith(NOT_RANKED[:3])]
    return np.any(marks, axis=0) if marks else None


def _chart(data: ReportData, curve: Curve) -> ChartOf:
    lows = tuple(rule.metric for rule in RULES if rule.direction == "at least")
    sign = 1 if curve.title.endswith((*lows, *LOW_IS_WORSE)) else -1
    values = np.stack(list(curve.series.values()))
    if curve.title.endswith("area_px"):  # a change is worse than a size
        values = np.abs(np.diff(values, axis=1, prepend=values[:, :1])) / np.maximum(np.nanmedian(values, axis=1, keepdims=True), 1)
    worst = np.nanmin(np.where(np.isfinite(values), sign * values, math.inf), axis=0)
    if not np.isfinite(worst).any() or np.ptp(worst[np.isfinite(worst)]) == 0:
        return ChartOf(curve, line_chart(curve), [])
    order: list[int] = []
    for t in np.argsort(worst, kind="stable").tolist():
        if np.isfinite(worst[t]) and all(abs(t - other) > len(worst) / 40 for other in order):
            order.append(t)
        if len(order) == WORST:
            break
    links = [Link(t, f"{data.names[t]}: {_value(curve, t, sign)}") for t in order]
    return ChartOf(curve, line_chart(curve), links)


def _value(curve: Curve, t: int, sign: int) -> str:
    values = [float(v[t]) for v in curve.series.values() if np.isfinite(v[t])]
    return f"{show(min(values) if sign > 0 else max(values))} {curve.ylabel}".strip()
