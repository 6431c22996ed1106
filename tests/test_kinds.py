"""Every kind of file that people have is read as it should be, or refused in one line."""

from pathlib import Path

import pytest

from tests.kinds import KINDS


@pytest.mark.parametrize("name", KINDS)
def test_kind(tmp_path: Path, name: str):
    KINDS[name](tmp_path)
