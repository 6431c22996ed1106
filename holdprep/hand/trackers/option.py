"""What every option of `hand` is: the Protocol that stage hand_pose relies on, the base of its nodes, its task and its result."""

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
    """A sequence whose hands are to be tracked: which hands it may have, and the hand model of a side."""

    hands: "Hands"
    model: Callable[["Side"], "HandModel"]

    @property
    def sides(self) -> "tuple[Side, ...]":
        """The hands that are asked for."""
        return self.hands.sides

    @property
    def masked_sides(self) -> "list[Side]":
        """All hands that have masks, asked for or not."""
        sides: tuple[Side, ...] = ("right", "left")
        return [side for side in sides if self.seq.has(f"masks_{side}")]


@dataclass(frozen=True)
class TrackedHands:
    """A tracker's result: the track, by side the square `boxes_px` (T, 4) of the crops it worked on, and its own files by artefact."""

    track: "VertexTrack"
    boxes_px: "Mapping[Side, np.ndarray]" = field(default_factory=dict)
    files: "Mapping[str, np.ndarray]" = field(default_factory=dict)


@runtime_checkable
class HandTracker(BackendOption, Protocol):
    """An option of `hand`, as stage hand_pose uses it."""

    @property
    def check(self) -> bool:
        """True if one frame's hands are shown after the stage."""

    @property
    def uses_length(self) -> bool:
        """True where the result depends on `hands.length_mm`."""

    def track(self, task: HandTask) -> TrackedHands:
        """Track the hands that are asked for. Raises HoldprepError where one that must be there is in no frame."""


class Tracker(Backend):
    """The base of nodes of `hand`."""

    # what only shows a result is not recorded
    check: bool = Field(
        exclude=True, description="show one frame's hands: a picture and the numbers that show conventions (side, unit, camera)"
    )

    @property
    def uses_length(self) -> bool:
        return False

    def track(self, task: HandTask) -> TrackedHands:
        raise NotImplementedError


def select_hands(track: "VertexTrack", task: HandTask, source: Path) -> "VertexTrack":
    """The hands asked for, of a track that was read from `source`. Raises HoldprepError where it has none of them."""
    sides = tuple(s for s in task.sides if s in track.vertices_m)
    if not sides:
        from holdprep.errors import HoldprepError

        raise HoldprepError(f"{source} holds {', '.join(track.vertices_m) or 'no'} hand, hands.which={task.hands.which} asks for another")
    return track.of_sides(sides)
