"""Curves over time as inline SVG, coloured by the page's style sheet (classes c0, c1, ...)."""

from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 58, 10, 10, 30
COLORS = 6
BINS = 600  # columns of a chart


@dataclass(frozen=True)
class Curve:
    """Values over `frames` (T,): `series` holds (T,) arrays by name, NaN where unknown.

    `shaded` (T,) bool marks frames that were infilled or lost.
    """

    title: str
    ylabel: str
    frames: np.ndarray
    series: dict[str, np.ndarray] = field(default_factory=dict)
    shaded: np.ndarray | None = None


def line_chart(curve: Curve) -> Markup:
    """The curve as one <svg> element; a text if there is no finite value."""
    values = np.array([v for v in curve.series.values()], dtype=float)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Markup('<p class="empty">no values</p>')
    frames = np.asarray(curve.frames, dtype=float)
    x_ticks = ticks(frames.min(), frames.max(), 8)
    y_ticks = ticks(min(finite.min(), 0.0), finite.max(), 4)
    low, high = y_ticks[0], y_ticks[-1]
    span = max(np.ptp(frames), 1.0)
    x = LEFT + (frames - frames.min()) / span * (WIDTH - LEFT - RIGHT)
    y = HEIGHT - BOTTOM - (values - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
    parts = [*_shades(x, curve.shaded), *_axes(curve.ylabel, x_ticks, y_ticks, frames.min(), span)]
    for i, row in enumerate(y):
        kept = _thinned(row)
        parts.append(f'<path class="line c{i % COLORS}" d="{_path(x[kept], row[kept])}"/>')
    label = escape(curve.title)
    parts.append(f'<line class="cursor" x1="{LEFT}" x2="{LEFT}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    place = f'data-count="{len(frames)}" data-left="{LEFT}" data-width="{WIDTH - LEFT - RIGHT}"'  # for the page's script
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}" {place}>{"".join(parts)}</svg>')


def _thinned(y: np.ndarray) -> np.ndarray:
    """Indices of the values that a chart of BINS columns can show: of each column its extremes, and where it is interrupted."""
    if len(y) <= 2 * BINS:
        return np.arange(len(y))
    kept = []
    for part in np.array_split(np.arange(len(y)), BINS):
        finite, gaps = part[np.isfinite(y[part])], part[~np.isfinite(y[part])]
        kept += [*gaps[:1], *([finite[np.argmin(y[finite])], finite[np.argmax(y[finite])]] if len(finite) else [])]
    return np.unique(kept)


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """Path data, interrupted at NaN; a single point is a dot (a line of zero length with round ends)."""
    commands, pen_down = [], False
    for i, (a, b) in enumerate(zip(x, y, strict=True)):
        if not np.isfinite(b):
            pen_down = False
            continue
        commands.append(f"{'L' if pen_down else 'M'}{a:.1f} {b:.1f}")
        if not pen_down and not (i + 1 < len(y) and np.isfinite(y[i + 1])):
            commands.append("h0")
        pen_down = True
    return "".join(commands)


def _shades(x: np.ndarray, shaded: np.ndarray | None) -> list[str]:
    if shaded is None:
        return []
    half = (x[1] - x[0]) / 2 if len(x) > 1 else 4.0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(shaded, int), [0]])))
    rects = []
    for first, after in zip(edges[::2], edges[1::2], strict=True):
        start, end = max(x[first] - half, LEFT), min(x[after - 1] + half, WIDTH - RIGHT)
        rects.append(f'<rect class="gap" x="{start:.1f}" y="{TOP}" width="{end - start:.1f}" height="{HEIGHT - TOP - BOTTOM}"/>')
    return rects


def _axes(ylabel: str, x_ticks: np.ndarray, y_ticks: np.ndarray, first: float, span: float) -> list[str]:
    parts = []
    for i, tick in enumerate(y_ticks):
        y = HEIGHT - BOTTOM - i / (len(y_ticks) - 1) * (HEIGHT - TOP - BOTTOM)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        x = LEFT + (tick - first) / span * (WIDTH - LEFT - RIGHT)
        if LEFT - 1 <= x <= WIDTH - RIGHT + 1:
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 2}" text-anchor="middle">frame</text>')
    centre = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text transform="translate(12 {centre}) rotate(-90)" text-anchor="middle">{escape(ylabel)}</text>')
    return parts


def ticks(low: float, high: float, count: int) -> np.ndarray:
    """Round numbers (steps of 1, 2 or 5 times a power of ten) that enclose [low, high] in about `count` steps."""
    span = high - low if high > low else max(abs(high), 1.0)
    power = 10.0 ** np.floor(np.log10(span / count))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= span / count)
    first, last = np.floor(low / step), np.ceil((low + span) / step - 1e-9)
    return np.round(np.arange(first, last + 1) * step, 12)
