"""Common interface of hand trackers, segmenters and sources of object poses: configuration node and task.

The configuration imports every node, and the check whether a stage is up to date must be fast: modules of nodes import their implementation
and large packages (numpy, torch, OpenCV, COLMAP) inside methods.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from holdprep.node import Node

if TYPE_CHECKING:
    from holdprep.sequence import Sequence

External = dict[str, Path | None]
Values = Mapping[str, Any]
NAMED = "named "  # prefix of an external file that is named in another external file and must exist with it


class BackendOption(Protocol):
    """Interface of a backend's node by which a stage decides whether it is up to date."""

    @property
    def name(self) -> str:
        """The option's name on the command line and of its file in conf/."""

    def files(self, seq: "Sequence") -> External:
        """Files from outside of the stage graph that are read; they are compared by content."""

    def settings(self) -> Values:
        """Values that change the result: all except paths of files, numbers of threads and the like."""

    def outputs(self) -> tuple[str, ...]:
        """Artefacts (names of `sequence.ARTEFACTS`) that this option writes in addition to those of all options of its group."""

    @property
    def uses_seed(self) -> bool:
        """Whether the result depends on the seed."""


class Backend(Node):
    """Base of nodes that run a backend. By default all values change the result; there is no file, seed or further output."""

    def files(self, seq: "Sequence") -> External:
        return {}

    def settings(self) -> Values:
        return self.recorded()

    def outputs(self) -> tuple[str, ...]:
        return ()

    @property
    def uses_seed(self) -> bool:
        return False


@dataclass(frozen=True)
class Task:
    """Input of a backend: a sequence, the device of its networks ("cpu" or "cuda"), and the random seed."""

    seq: "Sequence"
    device: str
    seed: int
