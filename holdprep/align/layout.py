"""Positions of the unknowns of modes h and ho in the solver's equations."""

from dataclasses import dataclass
from functools import cached_property

import torch

from holdprep.align.problem import Refine
from holdprep.geometry.least_squares import Columns
from holdprep.hand.model import Side

Group = tuple[Side, ...]  # hands whose unknowns of a frame form one block
SCALE, FOCAL = 0, 1  # indices among the shared unknowns


@dataclass(frozen=True)
class Layout:
    """Layout of the unknowns: blocks per frame, and unknowns shared by all frames.

    A frame's block holds a hand's translation and the rotations of the free bones. There is one block per hand, or, where the object's
    poses are free, one block of all hands with the object's rotation and translation at its end. Shared unknowns are the logarithms of
    scale and focal length, each hand's betas, and the `anchors`, positions of static hands on the object.
    """

    sides: tuple[Side, ...]
    refine: Refine
    with_object: bool
    anchors: int

    @cached_property
    def bones(self) -> list[int]:
        """Indices of the bones whose rotations are free."""
        return [0] * self.refine.rotation + list(range(1, 16)) * self.refine.pose

    @cached_property
    def prior_columns(self) -> dict[str, slice]:
        """Columns of the rotations under each prior (rotation, pose), counted after the translation's."""
        at = 3 * self.refine.rotation
        return ({"rotation": slice(0, at)} if at else {}) | ({"pose": slice(at, 3 * len(self.bones))} if self.refine.pose else {})

    @cached_property
    def hand_size(self) -> int:
        """Number of unknowns of one hand in one frame."""
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
        """Groups of hands, one per block of a frame."""
        return [self.sides] if self.object_free else [(side,) for side in self.sides]

    def group(self, side: Side) -> Group:
        """The group of a hand."""
        return self.sides if self.object_free else (side,)

    def own_size(self, side: Side) -> int:
        """Number of a frame's unknowns on which a hand's residuals may depend: its own, and the object's pose where it is free."""
        return self.hand_size + 6 * self.object_free

    def size(self, group: Group) -> int:
        """Number of unknowns of a frame's block."""
        return self.hand_size * len(group) + 6 * self.object_free

    def hand(self, side: Side) -> slice:
        """A hand's columns in its group's block."""
        first = self.hand_size * self.group(side).index(side)
        return slice(first, first + self.hand_size)

    @cached_property
    def obj(self) -> slice:
        """Columns of the object's pose in the block of all hands, where it is free."""
        return slice(self.size(self.sides) - 6, self.size(self.sides))

    def hand_and_object(self, side: Side) -> Columns:
        """A hand's columns, and those of the object's pose where it is free."""
        own, obj = self.hand(side), self.obj if self.object_free else slice(0, 0)
        return torch.cat([torch.arange(x.start, x.stop) for x in (own, obj)]) if self.object_free else own

    def betas(self, side: Side) -> slice | None:
        """Indices of a hand's shape among the shared unknowns, None where it is fixed."""
        first = self.with_object + self.focal_free + 10 * self.sides.index(side)
        return slice(first, first + 10) if self.refine.shape else None

    @cached_property
    def at_anchors(self) -> slice:
        """Indices of the anchors among the shared unknowns, three each."""
        first = self.with_object + self.focal_free + 10 * self.refine.shape * len(self.sides)
        return slice(first, first + 3 * self.anchors)

    @cached_property
    def shared(self) -> int:
        """Number of unknowns shared by all frames."""
        return self.at_anchors.stop
