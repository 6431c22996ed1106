"""object_pose=import: object poses that another tool has found."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from holdprep.backend import External, Values
from holdprep.object.option import ObjectPoseNode, PoseTask, SourcedPoses

if TYPE_CHECKING:
    from holdprep.sequence import Sequence


class ImportObjectPose(ObjectPoseNode):
    """Another tool's reconstruction."""

    name: Literal["import"]
    path: Path | None = Field(
        description="a COLMAP model or project, nerfstudio's transforms.json, HOLD's colmap/ folder, or .npz with T_cam_obj, points_obj, K or "
        "focal_px"
    )
    max_gap: int = Field(ge=0, description="object poses are interpolated across gaps of at most this many frames, held across longer ones")
    undistort: bool = Field(
        description="undistort pictures, masks and keypoints for what follows where the lens moves a corner by over 1 px"
    )

    @property
    def is_imported(self) -> bool:
        return True

    def files(self, seq: "Sequence") -> External:
        return {"poses": self.path}

    def settings(self) -> Values:
        return self.recorded("path")

    def find_poses(self, task: PoseTask) -> SourcedPoses:
        """The poses, read in a child process: a damaged model's files may end the process that reads them."""
        from holdprep.errors import HoldprepError
        from holdprep.object.child import Children
        from holdprep.object.foreign import read_poses

        if self.path is None:
            raise HoldprepError("object_pose=import: say where the poses are: object_pose.path=<folder or .npz>")
        seq = task.seq
        with Children(seq.work_dir("object_pose") / "colmap.log", 1) as children:
            return SourcedPoses(children.call(read_poses, self.path, seq.frame_names(), seq.image_size(), self.max_gap))
