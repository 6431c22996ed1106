"""Object poses and convex shape from support lines of silhouettes, by second-order least squares around a predicted motion.

A support line of a mask and the camera's centre span a plane that touches the object: with its normal n (in the camera frame) and the pose
(R, t), h(R^T n) + n . t = 0 for the object's support function h. This is linear in the shape, and its derivative by a small rotation about
the object's axes is p x R^T n for the touching point p. Where the hand hides the object, a line is a bound on one side only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import roma
import torch
from torch import Tensor

from holdprep.geometry.least_squares import Damping, Equations, Evaluation, Key, LevenbergMarquardt, Shared, Step
from holdprep.geometry.rigid import departure, from_rt
from holdprep.geometry.robust import GemanMcClure
from holdprep.object.support_lines import DIRECTIONS, SupportLines
from holdprep.object.support_shape import SupportShape

POSES: Key = ("poses",)
NEAREST_M = 0.05
CONVERGED = 1e-4  # relative decrease of the objective
OUTLIER = 4.0  # standard deviations of a line's noise
MAX_ITERATIONS = 60
_STEP_LOSS = GemanMcClure(1.0)


@dataclass(frozen=True)
class Noise:
    """Standard deviations: of a support line, of the object's motion from the predicted one, and of its acceleration.

    A line's is `line_px`; one whose residual is beyond `outlier_px` has less and less weight. Motion: rotation, and translation across
    and along the line of sight, in a frame and from one frame to the next (`step_`, with less and less weight beyond `step_outlier`
    standard deviations); `unseen` times as much in frames whose motion was not measured. `bend_` are those of the change of velocity from
    frame to frame. `deviation`: see `SupportShape.prior`.
    """

    line_px: float = 0.5
    outlier_px: float = 4.0
    rotation_rad: float = float(np.radians(20))
    across_m: float = 0.015
    depth_m: float = 0.03
    step_rotation_rad: float = float(np.radians(3))
    step_across_m: float = 0.004
    step_depth_m: float = 0.003
    step_outlier: float = 3.0
    unseen: float = 3.0
    bend_rotation_rad: float = float(np.radians(2))
    bend_m: float = 0.003
    deviation: float = 0.05

    def with_lines(self, line_px: float) -> "Noise":
        """The same with another noise of the lines."""
        return replace(self, line_px=line_px, outlier_px=max(self.outlier_px, OUTLIER * line_px))

    def of_motion(self, is_measured: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inverse covariances (T, 6, 6) of the motion in frames, and standard deviations (T - 1, 6) of its changes between frames."""
        factor = torch.where(torch.as_tensor(is_measured), 1.0, self.unseen).double()
        both = torch.maximum(factor[1:], factor[:-1])
        sd = torch.tensor([self.rotation_rad] * 3 + [self.across_m] * 2 + [self.depth_m]).double()
        step_sd = torch.tensor([self.step_rotation_rad] * 3 + [self.step_across_m] * 2 + [self.step_depth_m]).double()
        return torch.diag_embed((factor[:, None] * sd) ** -2), both[:, None] * step_sd

    @property
    def bend_sd(self) -> Tensor:
        """(6,) standard deviations of the change of velocity from frame to frame."""
        return torch.tensor([self.bend_rotation_rad] * 3 + [self.bend_m] * 3).double()

    def every(self, stride: float) -> "Noise":
        """The same for every stride-th frame."""
        return replace(
            self,
            **{name: stride * getattr(self, name) for name in ("step_rotation_rad", "step_across_m", "step_depth_m")},
            **{name: stride**2 * getattr(self, name) for name in ("bend_rotation_rad", "bend_m")},
        )


@dataclass(frozen=True)
class FitEvaluation:
    """The objective and the state at which it was evaluated; it is not a sum over frames, since steps are coupled."""

    total: float
    R: Tensor
    t: Tensor
    shape: SupportShape
    own: None = None


@dataclass(frozen=True)
class _Lines:
    """One line per direction: plane `normals` (T, Q, 3) with `scale` (T, Q), see `_planes`; `residual` (T, Q) px and `weight` (T, Q)."""

    normals: Tensor
    scale: Tensor
    residual: Tensor
    weight: Tensor


@dataclass
class SilhouetteProblem:
    """The least-squares problem of T frames for `LevenbergMarquardt`; its state is `at`.

    `T_predicted` (T, 4, 4) m is the predicted motion, `is_measured` (T,) bool where it was measured; `start` the initial state, its shape
    is kept where `shape_is_fixed`. Pose unknowns: a small rotation about the object's axes, then a translation in camera axes.
    """

    lines: SupportLines
    K: np.ndarray
    T_predicted: np.ndarray
    is_measured: np.ndarray
    shape: SupportShape
    noise: Noise = field(default_factory=Noise)
    T_start: np.ndarray | None = None
    shape_is_fixed: bool = False

    def __post_init__(self) -> None:
        known = np.isfinite(self.lines.object_px)
        self._planes = [_planes(np.where(known, px, 0.0), self.K) for px in (self.lines.object_px, self.lines.limit_px)]
        self._known, self._exact = torch.as_tensor(known), torch.as_tensor(self.lines.is_exact)
        self._R_predicted, self._t_predicted = _split(self.T_predicted)
        self._loss = GemanMcClure(self.noise.outlier_px)
        R, t = _split(self.T_predicted if self.T_start is None else self.T_start)
        self.now: Evaluation = self._evaluate(R, t, self.shape)

    @property
    def at(self) -> FitEvaluation:
        """The current state with its objective."""
        assert isinstance(self.now, FitEvaluation)
        return self.now

    @property
    def frames(self) -> int:
        return len(self.T_predicted)

    @property
    def T_cam_obj(self) -> np.ndarray:
        """(T, 4, 4) of the current state."""
        return from_rt(self.at.R.numpy(), self.at.t.numpy())

    def continued(self, noise: Noise) -> "SilhouetteProblem":
        """The same problem with another noise, from its current state."""
        return replace(self, noise=noise, shape=self.at.shape, T_start=self.T_cam_obj)

    def equations(self) -> tuple[Mapping[Key, Equations], Shared]:
        now, num_shape = self.at, 0 if self.shape_is_fixed else self.at.shape.size
        system = Equations(self.frames, 6, num_shape)
        lines = self._active(now.R, now.t, now.shape)
        by_pose, by_shape = self._derivatives(lines)
        weight = lines.weight * self._loss.weight(lines.residual) / self.noise.line_px**2
        system.add(by_pose[:, :, None], by_shape[:, :, None, :num_shape], lines.residual[..., None], weight[..., None])
        self._add_motion(system)
        if self.shape_is_fixed:
            return {POSES: system}, Shared(torch.zeros(0, 0).double(), torch.zeros(0).double())
        _, prior, gradient = now.shape.prior(self.noise.deviation)
        return {POSES: system}, Shared(prior, gradient)

    def _add_motion(self, system: Equations) -> None:
        """Add the priors of the motion. Derivatives of small rotations between frames are taken as the identity."""
        matrix, step_sd = self.noise.of_motion(self.is_measured)
        moved = self._moved(self.at.R, self.at.t)
        system.add_quadratic(matrix, moved)
        steps = (moved[1:] - moved[:-1]) / step_sd
        weight = _STEP_LOSS.of_square(steps.square().sum(dim=1, keepdim=True) / self.noise.step_outlier**2)[1]
        _add_linear(system, (-1.0, 1.0), steps, weight.sqrt() / step_sd, weight.sqrt())
        if self.frames > 2:
            bend = _bend(self.at.R, self.at.t) / self.noise.bend_sd
            _add_linear(system, (1.0, -2.0, 1.0), bend, (1 / self.noise.bend_sd).expand_as(bend), torch.ones_like(bend))

    def evaluate_step(self, step: Step) -> FitEvaluation:
        turn, shift = step.own[POSES].split(3, dim=1)
        shape = self.at.shape if self.shape_is_fixed else self.at.shape.moved(step.shared)
        return self._evaluate(self.at.R @ roma.rotvec_to_rotmat(turn), self.at.t + shift, shape)

    def accept(self, there: Evaluation, systems: Mapping[Key, Equations], damping: Tensor) -> None:
        self.now = there

    def residuals_px(self) -> np.ndarray:
        """(T, Q) distance of the exact lines from the shape's, positive where the shape is larger; NaN for other lines."""
        lines = self._active(self.at.R, self.at.t, self.at.shape)
        return torch.where(self._exact, lines.residual, torch.nan).numpy()

    def rotation_information(self) -> np.ndarray:
        """(3, 3) mean square motion of the exact lines (px^2 per rad^2) by rotations about the object's axes, translations eliminated."""
        by_pose, _ = self._derivatives(self._active(self.at.R, self.at.t, self.at.shape))
        J = torch.where(self._exact[..., None], by_pose, 0.0)
        matrix = J.mT @ J
        some = self._exact.sum(dim=1) > 6
        turn, cross, shift = matrix[some, :3, :3], matrix[some, :3, 3:], matrix[some, 3:, 3:]
        reduced = turn - cross @ torch.linalg.pinv(shift, hermitian=True) @ cross.mT
        return (reduced.sum(dim=0) / max(int(self._exact[some].sum()), 1)).numpy()

    def _evaluate(self, R: Tensor, t: Tensor, shape: SupportShape) -> FitEvaluation:
        lines = self._active(R, t, shape)
        total = float((lines.weight * self._loss.value(lines.residual)).sum())
        matrix, step_sd = self.noise.of_motion(self.is_measured)
        moved = self._moved(R, t)
        steps = ((moved[1:] - moved[:-1]) / step_sd).square().sum(dim=1) / self.noise.step_outlier**2
        motion = float((moved[:, None] @ matrix @ moved[..., None]).sum())
        motion += self.noise.step_outlier**2 * float(_STEP_LOSS.of_square(steps)[0].sum())
        motion += float((_bend(R, t) / self.noise.bend_sd).square().sum())
        prior = 0.0 if self.shape_is_fixed else shape.prior(self.noise.deviation)[0]
        return FitEvaluation(0.5 * (total / self.noise.line_px**2 + motion) + prior, R, t, shape)

    def _active(self, R: Tensor, t: Tensor, shape: SupportShape) -> _Lines:
        """Of each direction the object's own line, or the upper bound where it is exceeded. Bounds that hold have no weight."""
        (own_normals, own_scale), (limit_normals, limit_scale) = self._planes
        own = _distance_px(R, t, shape, own_normals, own_scale)
        limit = _distance_px(R, t, shape, limit_normals, limit_scale)
        exceeded = ~self._exact & (limit > 0)
        weight = self._known & (self._exact | (own < 0) | exceeded)
        return _Lines(
            torch.where(exceeded[..., None], limit_normals, own_normals),
            torch.where(exceeded, limit_scale, own_scale),
            torch.where(exceeded, limit, own),
            weight.double(),
        )

    def _derivatives(self, lines: _Lines) -> tuple[Tensor, Tensor]:
        """Derivatives of the residuals at the current state: (T, Q, 6) by the pose, (T, Q, S) by the shape."""
        size, now = lines.residual.shape, self.at
        n_obj = lines.normals @ now.R
        found = now.shape.at(n_obj.flatten(0, 1))
        px_per_m = (lines.scale / _depth_m(now.R, now.t, now.shape))[..., None]
        moment = torch.linalg.cross(found.point.view(*size, 3), n_obj)
        return torch.cat([moment, lines.normals], dim=-1) * px_per_m, found.jacobian.view(*size, -1) * px_per_m

    def _moved(self, R: Tensor, t: Tensor) -> Tensor:
        """(T, 6) departure from the predicted motion: rotation about the object's axes, translation in camera axes."""
        return torch.cat([departure(self._R_predicted.mT @ R, torch.eye(3).to(R)), t - self._t_predicted], dim=1)


def _distance_px(R: Tensor, t: Tensor, shape: SupportShape, normals: Tensor, scale: Tensor) -> Tensor:
    """(T, Q) distance of the shape's support lines from those of planes with normals (T, Q, 3) in the camera frame."""
    value = shape.value((normals @ R).flatten(0, 1)).view(scale.shape)
    return (value + (normals @ t[..., None])[..., 0]) * scale / _depth_m(R, t, shape)


def _depth_m(R: Tensor, t: Tensor, shape: SupportShape) -> Tensor:
    """(T, 1) depth of the shape's centre. With that of the frame's origin, a shape in the camera's centre would touch every plane."""
    return (R @ shape.centre + t)[:, 2:].clamp_min(NEAREST_M)


def _bend(R: Tensor, t: Tensor) -> Tensor:
    """(T - 2, 6) changes of the velocity from frame to frame: of rotation about the object's axes, of translation in camera axes."""
    turn = roma.rotmat_to_rotvec(R[:-1].mT @ R[1:])
    return torch.cat([turn[1:] - turn[:-1], t[2:] - 2 * t[1:-1] + t[:-2]], dim=1)


def _add_linear(system: Equations, factors: tuple[float, ...], residual: Tensor, slope: Tensor, root_weight: Tensor) -> None:
    """Add residuals (N, 6) of N runs of frames, whose derivative by the k-th frame of the run is factors[k] slope (N, 6), diagonal."""
    count = len(residual)
    for i, own in enumerate(factors):
        system.gradient[i : i + count] += own * slope * root_weight * residual
        for j, other in enumerate(factors[: i + 1]):
            block = torch.diag_embed(own * other * slope.square())
            if i == j:
                system.diagonal[i : i + count] += block
            else:
                system.coupled(i - j)[j : j + count] += block


def minimise(problem: SilhouetteProblem, max_iterations: int = MAX_ITERATIONS) -> SilhouetteProblem:
    """The problem at its minimum, or after `max_iterations` steps."""
    optimizer = LevenbergMarquardt([torch.zeros(1)], problem, problem.frames, Damping(first=1e-3))
    for _ in range(max_iterations):
        before = problem.now.total
        after = optimizer.step()
        if optimizer.progress.stuck or before - after < CONVERGED * before:
            break
    return problem


def _planes(offset_px: np.ndarray, K: np.ndarray) -> tuple[Tensor, Tensor]:
    """Planes through the camera's centre and image lines DIRECTIONS[q] x = offset: normals (T, Q, 3) away from the object, and lengths.

    The distance of a point from the plane, times the length and over its depth, is the distance in px from the line.
    """
    lines = np.concatenate([np.broadcast_to(DIRECTIONS, (*offset_px.shape, 2)), -offset_px[..., None]], axis=-1)
    normals = torch.as_tensor(lines @ K)
    length = normals.norm(dim=-1)
    return normals / length[..., None], length


def _split(T: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.as_tensor(T[:, :3, :3].copy()), torch.as_tensor(T[:, :3, 3].copy())
