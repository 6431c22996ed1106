"""What each source of the object's size leaves open, as a chart: intervals of 95 % on a common axis."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from holdprep.quality.chart import RIGHT, WIDTH, ticks

LEFT, ROW, AXIS = 190, 22, 34  # width of the names; height of a row and of the axis
SHOWN = (0.5, 1.6)  # of the object's size: wider intervals continue beyond the chart
SOURCES = {
    "centroid": "centroids",
    "rigid_grasp": "static grasp",
    "contact": "contact",
    "depth_order": "depth order on rays",
    "depth_maps": "depth maps",
    "all": "all of these",
}
MEASURED = {"size": "its measured size", "points": "clicked points", "marker": "printed marker"}  # of the object; they replace the hand


def size_sources(metrics: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Intervals (low, high) of the object's diameter in mm by source, from the metrics of align.o; the last one is the result's.

    Empty where the metrics have no sources or no interval, as after HOLD's methods.
    """
    found = [metrics.get(f"object.{name}") for name in ("diameter_mm", "scale", "diameter_low_mm", "diameter_high_mm")]
    if None in found:
        return {}
    diameter_mm, scale, low_mm, high_mm = np.array(found, float).tolist()
    rows = {}
    for source, name in (SOURCES | MEASURED).items():
        low, high = (metrics.get(f"scale.{source}.{side}") for side in ("low", "high"))
        if low is not None and high is not None:
            rows[name] = (low * diameter_mm / scale, high * diameter_mm / scale)
    last = "what was measured" if set(MEASURED.values()) & set(rows) else "with the hand's own errors"
    return {**rows, last: (low_mm, high_mm)} if rows else {}


def size_chart(metrics: Mapping[str, Any]) -> Markup | None:
    """The intervals as one <svg> element, with a line at the estimated diameter; None without an interval."""
    rows = size_sources(metrics)
    if not rows:
        return None
    middle = float(metrics["object.diameter_mm"])
    bounds = np.clip(np.array(list(rows.values())), SHOWN[0] * middle, SHOWN[1] * middle)
    marks = ticks(float(bounds.min()), float(bounds.max()), 6)
    height = ROW * len(rows) + AXIS

    def x(mm: float) -> float:
        return LEFT + (mm - marks[0]) / (marks[-1] - marks[0]) * (WIDTH - LEFT - RIGHT)

    parts = []
    for mark in marks:
        parts.append(f'<line class="grid" x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="0" y2="{height - AXIS}"/>')
        parts.append(f'<text x="{x(mark):.1f}" y="{height - AXIS + 15}" text-anchor="middle">{mark:g}</text>')
    for i, (name, (low, high)) in enumerate(zip(rows, bounds, strict=True)):
        y = ROW * (i + 0.5)
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<line class="range c{int(i == len(rows) - 1)}" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y}" y2="{y}"/>')
    parts.append(f'<line class="cursor" x1="{x(middle):.1f}" x2="{x(middle):.1f}" y1="0" y2="{height - AXIS}"/>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{height - 3}" text-anchor="middle">object, largest diameter (mm)</text>')
    return Markup(f'<svg class="plain" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Sources of the size">{"".join(parts)}</svg>')
