"""What hand trackers, segmenters and sources of object poses have in common: their configuration node, and what they are run on.

`config.py` imports every node, and whether a stage is up to date must be known at once: modules of nodes import their implementation, and
all that is heavy (numpy, torch, OpenCV, COLMAP), inside methods.
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
NAMED = "named "  # prefix of an external file that another external file names, and that must exist together with it


class BackendOption(Protocol):
    """What every stage that runs a backend needs of the backend's node to decide whether the stage is up to date."""

    @property
    def name(self) -> str:
        """The option's name on the command line, that of its file in conf/."""

    def files(self, seq: "Sequence") -> External:
        """Files that are read from outside the stage graph; they count by their content."""

    def settings(self) -> Values:
        """Values that change the result: all but paths of files, numbers of threads and the like."""

    def outputs(self) -> tuple[str, ...]:
        """Artefacts (names of `sequence.ARTEFACTS`) that this option writes beyond those that every option of its group writes."""

    @property
    def uses_seed(self) -> bool:
        """True where the result depends on the seed."""


class Backend(Node):
    """A node that runs a backend. By default all its values decide about the stage, and no file, seed or further output does."""

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
    """What a backend is run on: a sequence, the device of its networks ("cpu" or "cuda"), and the seed of everything random."""

    seq: "Sequence"
    device: str
    seed: int
