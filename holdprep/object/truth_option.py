"""object_pose=truth: the true object poses of a synthetic sequence, with errors on request."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from holdprep.backend import External
from holdprep.object.option import ObjectPoseNode, PoseTask, SourcedPoses

if TYPE_CHECKING:
    from holdprep.sequence import Sequence


class TruthObjectPose(ObjectPoseNode):
    """The ground truth in place of structure from motion."""

    name: Literal["truth"]
    drop_pct: float = Field(ge=0, le=100, description="frames whose true pose is withheld (%)")
    focal_error_pct: float = Field(gt=-90, le=900, description="error of the focal length; depths follow it (%)")
    undistort: bool = Field(
        description="undistort pictures, masks and keypoints for what follows where the lens moves a corner by over 1 px"
    )

    def files(self, seq: "Sequence") -> External:
        return {"truth": seq.path("truth")}

    @property
    def uses_seed(self) -> bool:
        return True

    def find_poses(self, task: PoseTask) -> SourcedPoses:
        from holdprep.quality.truth import load_truth
        from holdprep.synth import corruption

        seq = task.seq
        found = corruption.object_reconstruction(
            load_truth(seq.path("truth")),
            seq.frame_names(),
            seq.masks("object"),
            drop_pct=self.drop_pct,
            focal_error_pct=self.focal_error_pct,
            seed=task.seed,
        )
        return SourcedPoses(found)
