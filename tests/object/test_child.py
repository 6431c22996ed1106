"""Child processes end with their parent, however it ends; the number of threads does not change the result."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from holdprep.geometry.cameras import pinhole_K
from holdprep.object import colmap
from holdprep.object.features import Sift
from tests.synthetic import box_sequence

ROOT = Path(__file__).parent.parent.parent
PARENT = """
import sys, os, signal, time
from pathlib import Path
from holdprep.object.child import Children
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by background jobs of a shell
    with Children(Path(sys.argv[1]) / "log.txt", 1) as children:
        print(children.call(os.getpid), flush=True)
        children.call(time.sleep, 600)
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_child_does_not_outlive_its_parent(tmp_path: Path, how: signal.Signals):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as p:
        assert p.stdout is not None
        child = int(p.stdout.readline())
        assert is_alive(child)
        p.send_signal(how)
        p.wait(timeout=120)
    for _ in range(600):
        if not is_alive(child):
            break
        time.sleep(0.1)
    assert not is_alive(child)


def rows(folder: Path) -> dict[str, list[tuple]]:
    with sqlite3.connect(folder / "database.db") as database:
        tables = ("images", "cameras", "keypoints", "descriptors", "matches", "two_view_geometries")
        return {table: sorted(database.execute(f"select * from {table}").fetchall(), key=repr) for table in tables}


def test_features_and_matches_are_the_same_for_any_number_of_threads(tmp_path: Path):
    images, masks, *_ = box_sequence(8)
    names = [f"{t:03d}" for t in range(8)]
    crop, K = colmap.Crop.around(masks, 2.0), pinhole_K(500.0, images[0].shape[1], images[0].shape[0])
    found = []
    for threads in (1, 4):
        folder = tmp_path / str(threads)
        folder.mkdir()
        colmap.write_crops(folder, crop, images, masks, names)
        Sift().extract(folder, crop, K, threads)
        Sift().match(folder, [(a, b) for i, a in enumerate(names) for b in names[i + 1 : i + 4]], 4.0, 0, threads)
        found.append(rows(folder))
    assert found[0] == found[1]
    assert len(found[0]["images"]) == 8 and len(found[0]["two_view_geometries"]) >= 8
    assert np.all(np.diff([row[0] for row in found[0]["images"]]) == 1)


def test_child_processes_of_colmap_do_not_load_torch():
    """It takes 250 MB and two seconds in each of them."""
    code = "import sys, holdprep.object.sfm; print('torch' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert found.stdout == "False\n"
