"""COLMAP's work in processes of its own: what aborts or crashes in there ends that process, not this one."""

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
_WATCH_S = 1.0
P = ParamSpec("P")
R = TypeVar("R")


class Children:
    """Processes that run module-level functions of plain, picklable arguments and write all they say to the file `log`; `tell` is given
    the name of each.

    They end with this process, whatever ends it. Use as a context manager; processes start when there is work for them. A call whose
    process dies raises HoldprepError of one line with the log's path; what a function raises itself is raised here as it is.
    """

    def __init__(self, log: Path, num_processes: int, tell: Callable[[str], object] = str) -> None:
        self._log, self._tell = log, tell
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")
        # not fork: COLMAP's and torch's threads do not survive it
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(max(1, num_processes), context, initializer=_begin, initargs=(str(log), os.getpid()))

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):  # Ctrl-C, SIGTERM: a mapping would go on for minutes
            for process in list((self._pool._processes or {}).values()):
                process.kill()
        self._pool.shutdown(cancel_futures=True)

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """function(*args, **kwargs), computed in a child."""
        self._tell(_name(function))
        try:
            return self._pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool as dead:
            raise self._dead(function) from dead

    def map(self, function: Callable[[Any], R], items: Sequence[Any]) -> Iterator[R]:
        """function(item) of every item, side by side, in order."""
        self._tell(_name(function))
        try:
            yield from self._pool.map(function, items)
        except BrokenProcessPool as dead:
            raise self._dead(function) from dead

    def _dead(self, function: Callable[..., Any]) -> HoldprepError:
        return HoldprepError(
            f"object poses: COLMAP's process died in {_name(function)}, its last words are in {self._log}: "
            "try a smaller object_pose.upsample or max_features (memory), or another seed (seed=1)"
        )


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(getattr(function, "func", function), "__name__", "a step")).strip("_").replace("_", " ")


def _begin(log: str, parent: int) -> None:
    """What each child does first."""
    _die_with(parent)
    _speak_into(log)


def _die_with(parent: int) -> None:
    """End with the parent process, also where that is killed: by the kernel's doing on Linux, and by looking after it elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _speak_into(log: str) -> None:
    """COLMAP writes to the descriptors themselves, past Python's streams."""
    target = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(target, stream)
    os.close(target)
