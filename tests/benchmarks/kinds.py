"""Kinds of files that people have: which are read as they should be."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.measure import Row
from tests.kinds import KINDS


def measure_kinds() -> Iterator[Row]:
    """1 for each kind that passes, 0 with a printed reason for each that does not, and their number."""
    passed = 0
    for name, check in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                check(Path(folder))
                is_right = 1
            except Exception as error:  # whatever a reader raises is a kind that is not read
                print(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
                is_right = 0
        passed += is_right
        yield _row(name, "right", is_right)
    yield _row("all kinds", "passed", passed)
    yield _row("all kinds", "of", len(KINDS))


def _row(case: str, metric: str, value: int) -> Row:
    return {"case": case, "stage": "input", "metric": metric, "value": float(value), "unit": ""}
