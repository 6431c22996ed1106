"""A rule of the quality gates: a metric's bounds, and the advice for a missed one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from holdprep.quality.bounds import Bound, Direction, Value

Thresholds = Mapping[str, tuple[Bound, Bound]]  # (warn_at, fail_at) by stage.metric


@dataclass(frozen=True)
class Rule:
    """A line of the table: the bounds of a stage's metric.

    Where the cause of a missed bound is another metric's value, `by_cause` has that metric, and the advice by its values.
    """

    stage: str
    metric: str
    unit: str
    direction: Direction
    warn_at: Bound
    fail_at: Bound
    advice: str
    by_cause: tuple[str, Mapping[str, str]] | None = None

    @property
    def name(self) -> str:
        """The key of the rule in `Thresholds`."""
        return f"{self.stage}.{self.metric}"

    def advice_on(self, metrics: Mapping[str, Value]) -> str:
        """The advice that fits a stage's metrics."""
        if self.by_cause is None:
            return self.advice
        metric, advice = self.by_cause
        return advice.get(str(metrics.get(metric)), self.advice)

    def with_bounds(self, thresholds: Thresholds) -> "Rule":
        """The rule with the bounds in `thresholds`, unchanged if it has none there."""
        warn_at, fail_at = thresholds.get(self.name, (self.warn_at, self.fail_at))
        return replace(self, warn_at=warn_at, fail_at=fail_at)
