"""Rows of the benchmark: every metric that it names has a unit, so that no run ends without its table."""

import ast
from pathlib import Path

import pytest

from tests.benchmarks import measure

FILES = [path for path in sorted(Path(measure.__file__).parent.glob("*.py")) if "import Row, row" in path.read_text()]


def metrics(path: Path) -> list[str]:
    """The metrics that a file gives to `row` as they are."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call) and len(node.args) == 4]
    named = [node.args[2] for node in calls if isinstance(node.func, ast.Name) and node.func.id == "row"]
    return [str(node.value) for node in named if isinstance(node, ast.Constant)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_named_metric_has_a_unit(path: Path) -> None:
    for metric in metrics(path):
        assert measure.row("case", "stage", metric, 1.0)["metric"] == metric


def test_the_metrics_of_the_slow_runs_are_among_them() -> None:
    assert len(FILES) > 5
    assert {"flipped_frames", "changed_frames", "refused"} <= {metric for path in FILES for metric in metrics(path)}
