"""Numbers and the bounds they are held to: comparing, and showing to a person."""

import math
from typing import Literal

Direction = Literal["at least", "at most", "within", "is"]
Value = float | int | str | bool | None
Bound = float | tuple[float, float] | str | bool | None


def missed(value: Value, direction: Direction, bound: Bound) -> bool:
    """Whether a value is beyond a bound; what could not be had is, and a bound of None is never missed."""
    if bound is None:
        return False
    if direction == "is":
        return value != bound
    if not isinstance(value, int | float) or is_missing(value):
        return True
    low, high = bound if isinstance(bound, tuple) else (bound, bound)
    below, above = value < float(low), value > float(high)
    return {"at least": below, "at most": above, "within": below or above}[direction]


def is_missing(value: object) -> bool:
    """Whether it is None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def show(value: Value | Bound) -> str:
    """A number, a range, a flag or a word as a person reads it; what could not be had is `unknown`."""
    if isinstance(value, tuple):
        return f"{show(value[0])} to {show(value[1])}"
    if is_missing(value):
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and not value.is_integer():
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4
        return f"{value:.{digits}f}"
    return f"{value:.0f}" if isinstance(value, float) else str(value)
