"""COLMAP's work in processes of its own: what aborts or crashes in there ends that process, not this one."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from holdprep.errors import HoldprepError

P = ParamSpec("P")
R = TypeVar("R")


class Children:
    """Processes that run module-level functions of plain, picklable arguments and write all they say to the file `log`; `tell` is given
    the name of each.

    Use as a context manager; processes start when there is work for them. A call whose process dies raises HoldprepError of one line
    with the log's path; what a function raises itself is raised here as it is.
    """

    def __init__(self, log: Path, num_processes: int, tell: Callable[[str], object] = str) -> None:
        self._log, self._tell = log, tell
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")
        # not fork: COLMAP's and torch's threads do not survive it
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(max(1, num_processes), context, initializer=_speak_into, initargs=(str(log),))

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, *_: object) -> None:
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


def _speak_into(log: str) -> None:
    """COLMAP writes to the descriptors themselves, past Python's streams."""
    target = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(target, stream)
    os.close(target)
