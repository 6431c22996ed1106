"""Processes of this machine that run jobs: one each, or kept for the next jobs; ended with their launcher, replaced when killed."""

import os
import signal
import sys
import time
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


def one() -> float:
    return 1.0


def slow() -> float:
    time.sleep(3)
    return 2.0


def test_the_next_job_starts_when_one_has_ended_and_after_its_result_was_taken() -> None:
    """Of two processes one has a slow job; the other runs all of the quick ones in this time, and is replaced when it is killed."""
    launcher, asked, taken, known = Processes(n_jobs=4), list[str](), list[Any](), list[int]()

    def jobs() -> Iterator[Any]:
        for job in (slow, one, killed, one, one):
            asked.append(job.__name__)
            known.append(len(taken))
            yield job

    with launcher.kept():
        warm = list(launcher.as_they_end(iter([one, one]), 2))  # a process takes seconds to start
        for job, result in launcher.as_they_end(jobs(), 2):  # type: ignore[arg-type]
            taken.append((job.__name__, result))  # type: ignore[attr-defined]
    assert len(warm) == 2
    assert asked == ["slow", "one", "killed", "one", "one"]
    assert known[:2] == [0, 0] and known == [0, 0, 1, 2, 3]
    names = [name for name, _ in taken]
    assert names[:3] == ["one", "killed", "one"] and sorted(names[3:]) == ["one", "slow"]
    assert isinstance(taken[1][1], Failed) and dict(taken)["slow"] == 2.0
