"""hydra/launcher=submitit_slurm on a cluster of one node that the test starts: `HOLDPREP_SLURM=1 pytest tests/slurm`."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm import cluster
from tests.synthetic import make_sequence, write_tracker_files
from tests.test_batch import COMMAND, LAUNCH, kill_job

pytestmark = pytest.mark.skipif(
    not os.environ.get("HOLDPREP_SLURM") or not cluster.is_installed(),
    reason="HOLDPREP_SLURM=1 and Slurm are needed (apt-get install slurm-wlm munge)",
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with cluster.running(tmp_path_factory.mktemp("slurm") / "one") as found:
        yield found


def test_an_array_of_jobs_of_which_one_is_killed_and_the_batch_completed(environment: dict[str, str], tmp_path: Path):
    seq = make_sequence(("right",), frames=4)
    for name in ("a", "b", "c"):
        write_tracker_files(seq, tmp_path / "data" / name)
    options = ("slurm_partition=test", "mem_gb=1", "cpus_per_task=1", "timeout_min=10", "array_size=2")
    command = [sys.executable, str(LAUNCH), *COMMAND, "seq=all", "hydra/launcher=submitit_slurm", *(f"hydra.launcher.{o}" for o in options)]
    first = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    kill_job(tmp_path / "outputs" / "multirun", "b")
    names = subprocess.run(["squeue", "-h", "-o", "%j"], env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert set(names) <= {"holdprep"}
    text, _ = first.communicate(timeout=300)
    assert first.returncode == 1 and "2 of 3 jobs succeeded" in text and "was killed" in text and "Traceback" not in text, text
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0 and "2 of 3 sequences were up to date; 1 of 1 jobs succeeded" in again.stdout, again.stdout + again.stderr


def test_a_partition_that_does_not_exist_is_one_line(environment: dict[str, str], tmp_path: Path):
    write_tracker_files(make_sequence(("right",), frames=4), tmp_path / "data" / "a")
    command = [sys.executable, str(LAUNCH), *COMMAND, "seq=a", "hydra/launcher=submitit_slurm", "hydra.launcher.slurm_partition=none"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: hydra/launcher=submitit_slurm: ")
