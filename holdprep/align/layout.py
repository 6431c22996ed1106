"""Which unknown of modes h and ho stands where in the solver's equations."""

from dataclasses import dataclass
from functools import cached_property

import torch

from holdprep.align.problem import Refine
from holdprep.geometry.least_squares import Columns
from holdprep.hand.model import Side

Group = tuple[Side, ...]  # hands whose unknowns of a frame make one block
SCALE, FOCAL = 0, 1  # among the shared unknowns


@dataclass(frozen=True)
class Layout:
    """A frame's block holds a hand's translation and the rotations of the bones that are free; one block for each hand, or, where the object's
    poses are free, one for all hands with the object's rotation and translation at its end. Shared by all frames are the logarithm of the
    scale, that of the focal length, each hand's betas, and the `anchors` about which static hands lie."""

    sides: tuple[Side, ...]
    refine: Refine
    with_object: bool
    anchors: int

    @cached_property
    def bones(self) -> list[int]:
        """Those whose rotations are free."""
        return [0] * self.refine.rotation + list(range(1, 16)) * self.refine.pose

    @cached_property
    def held_by(self) -> dict[str, slice]:
        """Columns of the rotations that each prior holds (rotation, pose), after the translation's."""
        at = 3 * self.refine.rotation
        return ({"rotation": slice(0, at)} if at else {}) | ({"pose": slice(at, 3 * len(self.bones))} if self.refine.pose else {})

    @cached_property
    def hand_size(self) -> int:
        """Unknowns of one hand in one frame."""
        return 3 + 3 * len(self.bones)

    @cached_property
    def object_free(self) -> bool:
        """Whether the object's poses are free."""
        return self.refine.obj_pose and self.with_object

    @cached_property
    def focal_free(self) -> bool:
        """Whether the focal length is free."""
        return self.refine.focal and self.with_object

    @cached_property
    def groups(self) -> list[Group]:
        """Of the hands, one for each block of a frame."""
        return [self.sides] if self.object_free else [(side,) for side in self.sides]

    def group(self, side: Side) -> Group:
        """The one that a hand is in."""
        return self.sides if self.object_free else (side,)

    def own_size(self, side: Side) -> int:
        """Unknowns of a frame that a hand's residuals may depend on: its own, and the object's pose where it is free."""
        return self.hand_size + 6 * self.object_free

    def size(self, group: Group) -> int:
        """Unknowns of a frame's block."""
        return self.hand_size * len(group) + 6 * self.object_free

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
        own, obj = self.hand(side), self.obj if self.object_free else slice(0, 0)
        return torch.cat([torch.arange(x.start, x.stop) for x in (own, obj)]) if self.object_free else own

    def betas(self, side: Side) -> slice | None:
        """Shared unknowns that are a hand's shape, None where it is held."""
        first = self.with_object + self.focal_free + 10 * self.sides.index(side)
        return slice(first, first + 10) if self.refine.shape else None

    @cached_property
    def at_anchors(self) -> slice:
        """Shared unknowns that are anchors, three each."""
        first = self.with_object + self.focal_free + 10 * self.refine.shape * len(self.sides)
        return slice(first, first + 3 * self.anchors)

    @cached_property
    def shared(self) -> int:
        """How many unknowns all frames share."""
        return self.at_anchors.stop
