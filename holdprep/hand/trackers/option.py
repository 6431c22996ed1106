"""Interface of the options of `hand`: Protocol, base of the nodes, task and result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pydantic import Field

from holdprep.backend import Backend, BackendOption, Task

if TYPE_CHECKING:
    import numpy as np

    from holdprep.config.schema import Hands
    from holdprep.hand.model import HandModel, Side
    from holdprep.hand.trackers.tracks import VertexTrack


@dataclass(frozen=True)
class HandTask(Task):
    """A sequence to track hands in, which hands it may show, and the hand model of each side."""

    hands: "Hands"
    model: Callable[["Side"], "HandModel"]

    @property
    def sides(self) -> "tuple[Side, ...]":
        """The requested hands."""
        return self.hands.sides

    @property
    def masked_sides(self) -> "list[Side]":
        """All hands with masks, requested or not."""
        sides: tuple[Side, ...] = ("right", "left")
        return [side for side in sides if self.seq.has(f"masks_{side}")]


@dataclass(frozen=True)
class TrackedHands:
    """Result of a tracker: the track, square `boxes_px` (T, 4) of its crops by side, and its own files by artefact."""

    track: "VertexTrack"
    boxes_px: "Mapping[Side, np.ndarray]" = field(default_factory=dict)
    files: "Mapping[str, np.ndarray]" = field(default_factory=dict)


@runtime_checkable
class HandTracker(BackendOption, Protocol):
    """An option of `hand`, as stage hand_pose uses it."""

    @property
    def check(self) -> bool:
        """Whether one frame's hands are shown after the stage."""

    @property
    def uses_length(self) -> bool:
        """Whether the result depends on `hands.length_mm`."""

    def track(self, task: HandTask) -> TrackedHands:
        """Track the requested hands. Raises HoldprepError where a required hand is in no frame."""


class Tracker(Backend):
    """Base of the nodes of `hand`."""

    # not recorded, since it does not change the result
    check: bool = Field(exclude=True, description="show one frame's hands: an image and numbers to check conventions (side, unit, camera)")

    @property
    def uses_length(self) -> bool:
        return False

    def track(self, task: HandTask) -> TrackedHands:
        raise NotImplementedError


def select_hands(track: "VertexTrack", task: HandTask, source: Path) -> "VertexTrack":
    """The requested hands of a track read from `source`. Raises HoldprepError where it has none of them."""
    sides = tuple(s for s in task.sides if s in track.vertices_m)
    if not sides:
        from holdprep.errors import HoldprepError

        raise HoldprepError(f"{source} holds {', '.join(track.vertices_m) or 'no'} hand, but hands.which={task.hands.which}")
    return track.of_sides(sides)
