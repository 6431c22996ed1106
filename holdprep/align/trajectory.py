"""The object's trajectory and the camera's focal length as corrected in mode ho, and the information of SfM's observations on the poses.

SfM has estimated cloud, poses and focal length together. A focal length longer by a factor, with the object's z larger by the same
factor, gives almost the same image: the focal length is corrected along this direction. Other departures of a pose are penalised by
the information of its frame's observations, to second order about SfM's optimum.
"""

from dataclasses import dataclass, field, replace

import roma
import torch
from torch import Tensor

from holdprep.align.evidence import keypoint_variance
from holdprep.align.problem import Problem
from holdprep.align.residuals import reprojection
from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import projection_jacobian
from holdprep.geometry.rigid import skew
from holdprep.geometry.robust import GemanMcClure

MIN_OBSERVATIONS = 6  # of a frame, to correct its pose
HELD = 1e3  # information of a pose that is held, by the median of the others


@dataclass(frozen=True)
class Trajectory:
    """The object's poses and the logarithm of the focal length by SfM's.

    `R_cam_obj` (T, 3, 3) and `t_sfm` (T, 3) are the poses in the unit of SfM under a camera of SfM's focal length; `log_focal` is the
    logarithm of the ratio of the focal length to SfM's.
    """

    R_cam_obj: Tensor
    t_sfm: Tensor
    log_focal: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    @staticmethod
    def of(problem: Problem) -> "Trajectory":
        """The trajectory as SfM estimated it."""
        return Trajectory(problem.T_cam_obj[:, :3, :3], problem.T_cam_obj[:, :3, 3])

    @property
    def focal_factors(self) -> Tensor:
        """(3,) factors of `t_sfm` under the changed focal length: 1 for x and y, the ratio of focal lengths for z."""
        one = torch.ones((), dtype=torch.float64)
        return torch.stack([one, one, self.log_focal.exp()])

    @property
    def t_cam_obj(self) -> Tensor:
        """(T, 3) translations in the unit of SfM under the changed focal length."""
        return self.t_sfm * self.focal_factors

    @property
    def T_cam_obj(self) -> Tensor:
        """(T, 4, 4) poses in the unit of SfM under the changed focal length."""
        T = torch.eye(4, dtype=torch.float64).repeat(len(self.t_sfm), 1, 1)
        T[:, :3, :3], T[:, :3, 3] = self.R_cam_obj, self.t_cam_obj
        return T

    @property
    def t_by_log_focal(self) -> Tensor:
        """(T, 3), the derivative of `t_cam_obj` with respect to `log_focal`."""
        return self.t_cam_obj * torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)

    def K(self, K_sfm: Tensor) -> Tensor:
        """(3, 3) intrinsics with the changed focal length."""
        fixed = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
        return K_sfm * (fixed + self.log_focal.exp() * (1 - fixed))

    def moved(self, rotvecs: Tensor, translations: Tensor) -> "Trajectory":
        """The trajectory rotated by rotation vectors (T, 3) about the camera's axes, with (T, 3) added to `t_sfm`."""
        return replace(self, R_cam_obj=roma.rotvec_to_rotmat(rotvecs) @ self.R_cam_obj, t_sfm=self.t_sfm + translations)

    def with_focal(self, log_focal: Tensor | float) -> "Trajectory":
        """The trajectory with `log_focal` added to the logarithm of the focal length."""
        return replace(self, log_focal=self.log_focal + log_focal)

    def departure(self, problem: Problem) -> Tensor:
        """(T, 6) departures from SfM's poses: rotation vector, then translation in the unit of SfM."""
        rotvecs = roma.rotmat_to_rotvec(self.R_cam_obj @ problem.T_cam_obj[:, :3, :3].mT)
        return torch.cat([rotvecs, self.t_sfm - problem.T_cam_obj[:, :3, 3]], dim=1)


@dataclass(frozen=True)
class Information:
    """Information of SfM's observations on the poses.

    `blocks` (T, 6, 6) are the second derivatives of half the sum of squared residuals (px^2) by a pose's departure, `count` is the number
    of observations, `variance_px2` their variance per axis.
    """

    blocks: Tensor
    count: int
    variance_px2: float


def information(problem: Problem, sigma_px: float) -> Information:
    """The information on the poses of all frames; poses of frames that SfM did not register are held.

    `sigma_px` is the Geman-McClure width of the observations. Raises HoldprepError without observations.
    """
    tracks = problem.tracks
    if tracks is None:
        raise HoldprepError(
            "object poses cannot be refined without SfM's observations, which imported poses do not have: set align.refine_obj_pose=false"
        )
    rotated = (problem.T_cam_obj[tracks.frame, :3, :3] @ problem.points_obj[tracks.point][..., None])[..., 0]
    points = rotated + problem.T_cam_obj[tracks.frame, :3, 3]
    residual = reprojection(points, problem.K, tracks.px)
    J = projection_jacobian(points, problem.K) @ torch.cat([-skew(rotated), torch.eye(3).double().expand(len(rotated), 3, 3)], dim=-1)
    weighted = J * GemanMcClure(sigma_px).weight(residual)[..., None]
    blocks = torch.zeros(problem.num_frames, 6, 6, dtype=torch.float64).index_add(0, tracks.frame, weighted.mT @ J)
    seen = (torch.bincount(tracks.frame, minlength=problem.num_frames) >= MIN_OBSERVATIONS) & (problem.obj_weight > 0)
    if not bool(seen.any()):
        raise HoldprepError(f"object poses cannot be refined: none of {len(seen)} frames has {MIN_OBSERVATIONS} observations")
    blocks[~seen] = HELD * blocks[seen].diagonal(dim1=1, dim2=2).median(dim=0).values.diag()
    fitted = 6 * problem.num_frames + 3 * len(tracks.point.unique())
    return Information(blocks, len(residual), keypoint_variance(residual, torch.ones(len(residual)), fitted))
