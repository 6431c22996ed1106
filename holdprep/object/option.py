"""What every option of `object_pose` is: the Protocol that stage object_pose relies on, the base of its nodes, and its task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from holdprep.backend import Backend, BackendOption, External, Task

if TYPE_CHECKING:
    from holdprep.hand.model import HandModel, Side
    from holdprep.object.reconstruction import ObjectReconstruction
    from holdprep.quality.gates import Gate
    from holdprep.sequence import Sequence as SequenceFolder


@dataclass(frozen=True)
class PoseTask(Task):
    """A sequence whose object is to be reconstructed; `judge` gives a reconstruction's quality gates, `note` writes a line to the log.

    `hand_model` gives the hand model of each side.
    """

    judge: "Callable[[ObjectReconstruction], Sequence[Gate]]"
    note: Callable[[str], None]
    hand_model: "Callable[[Side], HandModel]"


@dataclass(frozen=True)
class SourcedPoses:
    """A source's result: the reconstruction, and which settings were tried, in words, where there were several."""

    reconstruction: "ObjectReconstruction"
    tried: str | None = None


@runtime_checkable
class ObjectPoseSource(BackendOption, Protocol):
    """An option of `object_pose`, as stage object_pose uses it."""

    @property
    def undistort(self) -> bool:
        """True if what follows is to see pictures, masks and keypoints without the lens's distortion."""

    @property
    def is_imported(self) -> bool:
        """True if another tool found the poses: advice names that tool."""

    def files_for_lost_frames(self, seq: "SequenceFolder") -> External:
        """Files that are read, in addition to `files`, only where frames have no measured pose."""

    def find_poses(self, task: PoseTask) -> SourcedPoses:
        """The object's poses, cloud and camera. Raises HoldprepError where there are none."""


class ObjectPoseNode(Backend):
    """The base of nodes of `object_pose`."""

    @property
    def is_imported(self) -> bool:
        return False

    def files_for_lost_frames(self, seq: "SequenceFolder") -> External:
        return {}

    def find_poses(self, task: PoseTask) -> SourcedPoses:
        raise NotImplementedError
