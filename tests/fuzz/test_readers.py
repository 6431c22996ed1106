"""A few damaged files for every reader, the same in every run; `python -m tests.fuzz` tries many more."""

from pathlib import Path

import pytest

from tests.fuzz import harness, many
from tests.fuzz.readers import all_readers

INPUTS, INPUTS_OF_SLOW = 60, 12
NATIVE = sorted(name for name, reader in all_readers().items() if reader.is_native)


@pytest.mark.parametrize("name", sorted(all_readers()))
def test_valid_files_are_read(name: str, tmp_path: Path):
    reader = all_readers()[name]
    harness.write_valid(reader, tmp_path)
    assert harness.check(reader, tmp_path, "")


@pytest.mark.parametrize("name", sorted(set(all_readers()) - set(NATIVE)))
def test_damaged_files_are_refused_in_one_line(name: str, tmp_path: Path):
    reader = all_readers()[name]
    harness.write_valid(reader, tmp_path)
    for seed in range(INPUTS_OF_SLOW if reader.slow else INPUTS):
        harness.try_one(reader, tmp_path, seed)


@pytest.mark.parametrize("name", NATIVE)
def test_damaged_files_of_native_readers_are_refused_in_one_line(name: str, tmp_path: Path):
    inputs, _, found = many.run(name, INPUTS, 0, tmp_path / "keep")
    assert inputs == INPUTS and not found
