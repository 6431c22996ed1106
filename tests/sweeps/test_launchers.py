"""Processes of this machine that run jobs: one each, or kept for the next jobs; ended with their launcher, replaced when killed."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdprep.sweeps.jobs import Failed
from holdprep.sweeps.launchers import Processes

cloudpickle = pytest.importorskip("cloudpickle", reason="pip install 'holdprep[sweep]' brings cloudpickle")


@pytest.fixture(autouse=True)
def by_value() -> Iterator[None]:
    """The processes do not import this module: its functions are sent as code."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def pid() -> float:
    return float(os.getpid())


def killed() -> float:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0.0


def wrong() -> float:
    raise ValueError("no\nvalue")


def run(launcher: Processes, *jobs: Callable[[], float]) -> list[Any]:
    return list(launcher.run(jobs))  # type: ignore[arg-type]


def is_alive(process: float) -> bool:
    return Path("/proc", str(int(process))).exists()


def test_each_job_of_a_batch_has_its_own_process() -> None:
    found = run(Processes(n_jobs=1), pid, pid)
    assert found[0] != found[1]
    assert not any(is_alive(process) for process in found)


def test_kept_processes_run_the_next_jobs_and_end() -> None:
    launcher = Processes(n_jobs=1)
    with launcher.kept():
        first, failed = run(launcher, pid, wrong)
        assert failed == Failed("ValueError: no value")
        assert run(launcher, pid, pid) == [first, first]
    assert not is_alive(first)
    assert run(launcher, pid) != [first]


def test_a_kept_process_that_is_killed_fails_its_job_and_is_replaced() -> None:
    launcher = Processes(n_jobs=1)
    with launcher.kept():
        before = run(launcher, pid)[0]
        (failed,) = run(launcher, killed)
        assert isinstance(failed, Failed) and "killed by SIGKILL" in failed.error
        after = run(launcher, pid)[0]
    assert after != before
    assert not is_alive(after)
