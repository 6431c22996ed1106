"""Child processes for COLMAP: an abort or crash ends the child process, not this one."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from holdprep.errors import HoldprepError

_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
_POLL_S = 1.0
P = ParamSpec("P")
R = TypeVar("R")


class Children:
    """Process pool that runs module-level functions with picklable arguments; their output is written to `log`.

    `on_step` is called with the name of each function. Use as a context manager; processes are started on demand and end
    with this process, however it ends. When a child process crashes, the call raises HoldprepError with one line that
    names the log; exceptions of the function itself are raised unchanged.
    """

    def __init__(self, log: Path, num_processes: int, on_step: Callable[[str], object] = str) -> None:
        self._log, self._on_step = log, on_step
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")
        # not fork: the threads of COLMAP and torch do not survive it
        context = multiprocessing.get_context("spawn")
        init_args = (str(log), os.getpid())
        self._pool = ProcessPoolExecutor(max(1, num_processes), context, initializer=_init_child, initargs=init_args)

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):  # Ctrl-C, SIGTERM: a mapping would continue for minutes
            for process in list((self._pool._processes or {}).values()):
                process.kill()
        self._pool.shutdown(cancel_futures=True)

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run function(*args, **kwargs) in a child process and return its result."""
        self._on_step(_step_name(function))
        try:
            return self._pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool as error:
            raise self._crash(function) from error

    def map(self, function: Callable[[Any], R], items: Sequence[Any]) -> Iterator[R]:
        """Run function(item) for all items in parallel; yields the results in order."""
        self._on_step(_step_name(function))
        try:
            yield from self._pool.map(function, items)
        except BrokenProcessPool as error:
            raise self._crash(function) from error

    def _crash(self, function: Callable[..., Any]) -> HoldprepError:
        return HoldprepError(
            f"object poses: COLMAP's process crashed in {_step_name(function)}, see the end of {self._log}: "
            "try a smaller object_pose.upsample or max_features (memory), or another seed (seed=1)"
        )


def _step_name(function: Callable[..., Any]) -> str:
    """Readable name of a function or partial."""
    return str(getattr(getattr(function, "func", function), "__name__", "a step")).strip("_").replace("_", " ")


def _init_child(log: str, parent: int) -> None:
    """Initializer of each child process."""
    _exit_with_parent(parent)
    _redirect_output(log)


def _exit_with_parent(parent: int) -> None:
    """Exit when the parent process ends, even if it is killed: signalled by the kernel on Linux, by polling elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has already ended
        os._exit(1)

    def poll() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_S)
        os._exit(1)

    threading.Thread(target=poll, daemon=True).start()


def _redirect_output(log: str) -> None:
    """Redirect the file descriptors: COLMAP does not write through Python's streams."""
    target = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(target, stream)
    os.close(target)
