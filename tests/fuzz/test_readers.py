"""A few damaged files for every reader, the same in every run; `python -m tests.fuzz` tries many more."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz import harness
from tests.fuzz.mutations import edits
from tests.fuzz.readers import all_readers

INPUTS, INPUTS_OF_SLOW = 60, 12


@pytest.mark.parametrize("name", sorted(all_readers()))
def test_valid_files_are_read(name: str, tmp_path: Path):
    reader = all_readers()[name]
    harness.write(reader, tmp_path / "d", "", [])
    assert harness.check(reader, tmp_path / "d", "")


@pytest.mark.parametrize("name", sorted(all_readers()))
def test_damaged_files_are_refused_in_one_line(name: str, tmp_path: Path):
    reader = all_readers()[name]

    @settings(
        max_examples=INPUTS_OF_SLOW if reader.slow else INPUTS, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck), phases=(Phase.generate,),
    )  # fmt: skip
    @given(st.sampled_from(reader.changed), edits())
    def run(target: str, changes: list[tuple[str, float, int]]) -> None:
        harness.write(reader, tmp_path / "d", target, changes)
        harness.check(reader, tmp_path / "d", target)

    run()
