"""object_pose=silhouettes: poses and shape from silhouettes and the hand's motion, for objects without texture."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from holdprep.backend import External
from holdprep.object.holding_hand import files_of_hands, holding_hand
from holdprep.object.option import ObjectPoseNode, PoseTask, SourcedPoses

if TYPE_CHECKING:
    from holdprep.object.reconstruction import ObjectReconstruction
    from holdprep.sequence import Sequence


class SilhouettesObjectPose(ObjectPoseNode):
    """Poses and a visual hull from the object's masks, near the motion of the hand that holds it; needs stage hand_pose."""

    name: Literal["silhouettes"]
    focal_px: float | None = Field(
        gt=0,
        description="focal length in pixels of images/ if known (then fixed); null = estimated, from the pictures' EXIF if that has one",
    )
    held_out_every: int = Field(
        ge=2, description="one frame in so many is held out of the shape, to measure whether it predicts silhouettes"
    )
    max_gap: int = Field(ge=0, description="object poses are interpolated across gaps of at most this many frames, held across longer ones")

    @property
    def undistort(self) -> bool:
        """False: no lens is estimated."""
        return False

    def files(self, seq: "Sequence") -> External:
        return files_of_hands(seq)

    def find_poses(self, task: PoseTask) -> SourcedPoses:
        return SourcedPoses(self.reconstruct(task))

    def reconstruct(self, task: PoseTask) -> "ObjectReconstruction":
        """The reconstruction. Raises HoldprepError without a hand, or where it hides too much of the object."""
        from holdprep.errors import HoldprepError
        from holdprep.geometry.cameras import usual_camera
        from holdprep.object import silhouettes

        seq = task.seq
        if not seq.has("v3d"):
            raise HoldprepError("object poses from silhouettes follow the hand: run stage=hand_pose first")
        K = usual_camera(seq.image_size(), self.focal_px or seq.read_frames().get("focal_px"))
        palm = holding_hand(task, K).palm
        options = silhouettes.SilhouetteOptions(self.held_out_every, self.max_gap, progress=True)
        return silhouettes.reconstruct(seq.frame_names(), seq.masks("object"), seq.hand_pixels(), palm, K, options)
