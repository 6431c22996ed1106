"""The file of rerun is written where rerun-sdk is installed."""

from pathlib import Path

import pytest

from tests.viewers.scenes import small_scene

pytest.importorskip("rerun")

from holdprep.viewers import rerun_file


def test_a_scene_is_written_whole(tmp_path: Path):
    rerun_file.write([small_scene(4, lost=(2,))], tmp_path / "a.rrd")
    assert (tmp_path / "a.rrd").read_bytes()[:3] == b"RRF" and len(list(tmp_path.iterdir())) == 1
