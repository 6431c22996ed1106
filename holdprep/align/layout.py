"""Which unknown of modes h and ho stands where in the solver's equations."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from holdprep.align.problem import Refine
from holdprep.align.solver import Columns
from holdprep.hand.model import Side

Group = tuple[Side, ...]  # hands whose unknowns of a frame make one block
SCALE, FOCAL = 0, 1  # among the shared unknowns


@dataclass(frozen=True)
class Layout:
    """A frame's block holds a hand's translation and the turns of the bones that are free; one block for each hand, or, where the object's
    poses are free, one for all and the object's turn and shift at its end. Shared by all frames are the logarithm of the scale, that of the
    focal length, each hand's betas, and the `places` where hands stand still."""

    sides: tuple[Side, ...]
    refine: Refine
    with_object: bool
    places: int

    @cached_property
    def bones(self) -> list[int]:
        """Those that turn."""
        return [0] * self.refine.rotation + list(range(1, 16)) * self.refine.pose

    @cached_property
    def turns(self) -> dict[str, slice]:
        """Columns of the turns that each prior holds, after the translation's."""
        at = 3 * self.refine.rotation
        return ({"rotation": slice(0, at)} if at else {}) | ({"pose": slice(at, 3 * len(self.bones))} if self.refine.pose else {})

    @cached_property
    def hand_size(self) -> int:
        """Unknowns of one hand in one frame."""
        return 3 + 3 * len(self.bones)

    @cached_property
    def moves(self) -> bool:
        """Whether the object's poses are free."""
        return self.refine.obj_pose and self.with_object

    @cached_property
    def zooms(self) -> bool:
        """Whether the focal length is free."""
        return self.refine.focal and self.with_object

    @cached_property
    def groups(self) -> list[Group]:
        """Of the hands, one for each block of a frame."""
        return [self.sides] if self.moves else [(side,) for side in self.sides]

    def group(self, side: Side) -> Group:
        """The one that a hand is in."""
        return self.sides if self.moves else (side,)

    def size(self, group: Group) -> int:
        """Unknowns of a frame's block."""
        return self.hand_size * len(group) + 6 * self.moves

    def hand(self, side: Side) -> slice:
        """A hand's columns in its group's block."""
        first = self.hand_size * self.group(side).index(side)
        return slice(first, first + self.hand_size)

    @cached_property
    def obj(self) -> slice:
        """The object's pose in the block of all hands, where it is free."""
        return slice(self.size(self.sides) - 6, self.size(self.sides))

    def hand_and_object(self, side: Side) -> Columns:
        """A hand's columns, and the object's pose where it is free."""
        return np.r_[self.hand(side), self.obj] if self.moves else self.hand(side)

    def betas(self, side: Side) -> slice | None:
        """Shared unknowns that are a hand's shape, None where it is held."""
        first = self.with_object + self.zooms + 10 * self.sides.index(side)
        return slice(first, first + 10) if self.refine.shape else None

    @cached_property
    def at_places(self) -> slice:
        """Shared unknowns that are places, three each."""
        first = self.with_object + self.zooms + 10 * self.refine.shape * len(self.sides)
        return slice(first, first + 3 * self.places)

    @cached_property
    def shared(self) -> int:
        """How many unknowns all frames share."""
        return self.at_places.stop
