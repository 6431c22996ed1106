"""The object's trajectory and the camera's focal length where mode ho may correct them, and how well SfM's observations know the poses.

SfM has fitted cloud, poses and focal length together. A focal length that is longer by a factor lets the object stand that much farther
away, and hardly changes its picture: the correction moves along this valley. Off it, a pose is held by what its frame's observations
know about it, to second order about SfM's optimum.
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

MIN_OBSERVATIONS = 6  # of a frame, whose pose is not known better than its neighbours' else
HELD = 1e3  # times a seen frame's information, where a pose stays as it is


@dataclass(frozen=True)
class Trajectory:
    """`R_cam_obj` (T, 3, 3) and `t_sfm` (T, 3), the object's poses in the unit of SfM before a camera of SfM's focal length; `log_focal` is the
    logarithm of the focal length in units of that."""

    R_cam_obj: Tensor
    t_sfm: Tensor
    log_focal: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    @staticmethod
    def of(problem: Problem) -> "Trajectory":
        """SfM's own."""
        return Trajectory(problem.T_cam_obj[:, :3, :3], problem.T_cam_obj[:, :3, 3])

    @property
    def farther(self) -> Tensor:
        """(3,) by which `t_sfm` is multiplied under the changed focal length."""
        one = torch.ones((), dtype=torch.float64)
        return torch.stack([one, one, self.log_focal.exp()])

    @property
    def t_cam_obj(self) -> Tensor:
        """(T, 3) in the unit of SfM, before the camera with the changed focal length."""
        return self.t_sfm * self.farther

    @property
    def T_cam_obj(self) -> Tensor:
        """(T, 4, 4) of both."""
        T = torch.eye(4, dtype=torch.float64).repeat(len(self.t_sfm), 1, 1)
        T[:, :3, :3], T[:, :3, 3] = self.R_cam_obj, self.t_cam_obj
        return T

    @property
    def t_by_log_focal(self) -> Tensor:
        """(T, 3), the derivative of `t_cam_obj`."""
        return self.t_cam_obj * torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)

    def K(self, K_sfm: Tensor) -> Tensor:
        """(3, 3) intrinsics with the changed focal length."""
        fixed = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
        return K_sfm * (fixed + self.log_focal.exp() * (1 - fixed))

    def moved(self, turns: Tensor, shifts: Tensor) -> "Trajectory":
        """Turned by rotation vectors (T, 3) about the camera's axes, and `t_sfm` moved by (T, 3)."""
        return replace(self, R_cam_obj=roma.rotvec_to_rotmat(turns) @ self.R_cam_obj, t_sfm=self.t_sfm + shifts)

    def zoomed(self, log_focal: Tensor | float) -> "Trajectory":
        """With a focal length that is longer by that."""
        return replace(self, log_focal=self.log_focal + log_focal)

    def departure(self, problem: Problem) -> Tensor:
        """(T, 6) from SfM's poses: rotation vector, and translation in the unit of SfM."""
        turned = roma.rotmat_to_rotvec(self.R_cam_obj @ problem.T_cam_obj[:, :3, :3].mT)
        return torch.cat([turned, self.t_sfm - problem.T_cam_obj[:, :3, 3]], dim=1)


@dataclass(frozen=True)
class Information:
    """What SfM's observations say: `blocks` (T, 6, 6), second derivatives of half their squared pixels by a pose's departure; `count` of
    them, and their `variance_px2` per axis."""

    blocks: Tensor
    count: int
    variance_px2: float


def information(problem: Problem, sigma_px: float) -> Information:
    """Of all frames; poses of frames that SfM did not see are held. `sigma_px` is the Geman-McClure width of the observations.

    Raises HoldprepError where the observations are not known.
    """
    tracks = problem.tracks
    if tracks is None:
        raise HoldprepError(
            "object poses cannot be refined without SfM's observations, which imported poses do not have: set align.refine_obj_pose=false"
        )
    turned = (problem.T_cam_obj[tracks.frame, :3, :3] @ problem.points_obj[tracks.point][..., None])[..., 0]
    points = turned + problem.T_cam_obj[tracks.frame, :3, 3]
    residual = reprojection(points, problem.K, tracks.px)
    J = projection_jacobian(points, problem.K) @ torch.cat([-skew(turned), torch.eye(3).double().expand(len(turned), 3, 3)], dim=-1)
    weighted = J * GemanMcClure(sigma_px).weight(residual)[..., None]
    blocks = torch.zeros(problem.num_frames, 6, 6, dtype=torch.float64).index_add(0, tracks.frame, weighted.mT @ J)
    seen = (torch.bincount(tracks.frame, minlength=problem.num_frames) >= MIN_OBSERVATIONS) & (problem.obj_weight > 0)
    if not bool(seen.any()):
        raise HoldprepError(f"object poses cannot be refined: none of {len(seen)} frames has {MIN_OBSERVATIONS} observations")
    blocks[~seen] = HELD * blocks[seen].diagonal(dim1=1, dim2=2).median(dim=0).values.diag()
    fitted = 6 * problem.num_frames + 3 * len(tracks.point.unique())
    return Information(blocks, len(residual), keypoint_variance(residual, torch.ones(len(residual)), fitted))
