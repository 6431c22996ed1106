"""Quality gates: a stage's metrics judged by the table of rules."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from holdprep.errors import ConfigError
from holdprep.quality.bounds import Bound, Direction, Value, is_missing, missed, show
from holdprep.quality.rule import Rule, Thresholds
from holdprep.quality.rules import RULES

Status = Literal["pass", "warn", "fail"]

SEVERITY: dict[Status, int] = {"pass": 0, "warn": 1, "fail": 2}


@dataclass(frozen=True)
class Gate:
    """One metric with its status. A value beyond `warn_at` warns, beyond `fail_at` fails; a bound of None is never missed.

    `advice` is the next step for the user, empty where the gate passes.
    """

    stage: str
    metric: str
    value: Value
    unit: str
    status: Status
    warn_at: Bound
    fail_at: Bound
    direction: Direction
    advice: str

    @property
    def number(self) -> str:
        """The value with its unit, as text."""
        return show(self.value) if is_missing(self.value) else f"{show(self.value)} {self.unit}".strip()

    @property
    def threshold(self) -> str:
        """The thresholds as text: `at least 90, fails below 60 %`."""
        words = {"at least": "below", "at most": "above", "within": "outside", "is": "unless"}[self.direction]
        bound = self.fail_at if self.warn_at is None else self.warn_at
        text = show(bound) if self.direction == "is" else f"{self.direction} {show(bound)}"
        if self.fail_at is None:
            return f"{text} {self.unit}".strip()
        return f"{text if self.fail_at == bound else f'{text}, fails {words} {show(self.fail_at)}'} {self.unit}".strip()

    def line(self) -> str:
        """One line: metric, number, threshold and advice."""
        return f"{self.metric} is {self.number}, should be {self.threshold}" + (f": {self.advice}" if self.advice else "")


def check_thresholds(thresholds: Thresholds) -> None:
    """Raise ConfigError for a name without a rule, or a bound of the wrong type."""
    rules = {rule.name: rule for rule in RULES}
    for name, bounds in thresholds.items():
        if name not in rules:
            near = difflib.get_close_matches(name, rules, n=1, cutoff=0.5)
            raise ConfigError(f"gates: there is no gate for a metric named '{name}'" + (f" (did you mean '{near[0]}'?)" if near else ""))
        like = next(b for b in (rules[name].warn_at, rules[name].fail_at) if b is not None)
        if any(b is not None and isinstance(b, tuple) != isinstance(like, tuple) for b in bounds):
            raise ConfigError(f"gates: {name}={list(bounds)}: two bounds like {show(like)} are needed, where it warns and where it fails")


def judge(stage: str, metrics: Mapping[str, Value], thresholds: Thresholds | None = None) -> list[Gate]:
    """The gates of a stage, in the order of its metrics; metrics without a rule have no gate. `thresholds` replace those of the table.

    A rule's name matches a metric's full name or, after a prefix such as `right.`, its end; the longest match wins.
    All modes of alignment (`align.h`, ...) share the rules of `align`. NaN or None, an unknown value, misses both bounds.
    """
    rules = {rule.metric: rule.with_bounds(thresholds or {}) for rule in RULES if rule.stage == stage.split(".")[0]}
    gates = []
    for metric in metrics:
        parts = metric.split(".")
        rule = next((rules[name] for i in range(len(parts)) if (name := ".".join(parts[i:])) in rules), None)
        if rule is not None:
            gates.append(_gate(rule, stage, metric, metrics))
    return gates


def overall(gates: Iterable[Gate]) -> Status:
    """The worst status; pass without gates."""
    return worst_of(gate.status for gate in gates)


def worst_of(statuses: Iterable[Status]) -> Status:
    """The worst of them; pass where there is none."""
    return max(statuses, key=SEVERITY.__getitem__, default="pass")


def _gate(rule: Rule, stage: str, metric: str, metrics: Mapping[str, Value]) -> Gate:
    value = metrics[metric]
    status: Status = "pass"
    if missed(value, rule.direction, rule.fail_at):
        status = "fail"
    elif missed(value, rule.direction, rule.warn_at):
        status = "warn"
    advice = "" if status == "pass" else rule.advice_on(metrics)
    return Gate(stage, metric, value, rule.unit, status, rule.warn_at, rule.fail_at, rule.direction, advice)
