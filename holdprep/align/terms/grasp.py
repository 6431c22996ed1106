"""Drift of a static hand on the object."""

import torch
from torch import Tensor

from holdprep.align import evidence as ev
from holdprep.align import residuals as res
from holdprep.align.layout import FOCAL, SCALE, Layout
from holdprep.align.scene import Setup
from holdprep.align.terms.base import HandTerm, HandView, Noise, Residuals
from holdprep.geometry.least_squares import Equations, Shared
from holdprep.geometry.robust import GemanMcClure

FIRST = 4e4  # px^2 per m^2


class Grasp(HandTerm):
    """Mean over frames of Geman-McClure of the distance between the hand's centroid and its anchor on the object, while it is static there;
    px^2 per m^2."""

    unit = "px^2 / m^2"
    first = FIRST

    def applies(self, setup: Setup, layout: Layout) -> bool:
        """With an object; 0 without static stretches."""
        return setup.surface is not None

    def starts_at(self, setup: Setup) -> float:
        """0 where no hand is static."""
        return self.first if setup.static_grasp_id else 0.0

    def residuals(self, view: HandView) -> Residuals:
        """(T, 1, 3) m; 0 where the hand moves on the object."""
        trajectory, static = view.scene.trajectory, view.setup.static_grasp_id.get(view.side)
        weight = torch.zeros(view.problem.num_frames, dtype=torch.float64) if static is None else (static >= 0).double()
        loss = GemanMcClure(self.weights.grasp_sigma_m)
        weight = weight[:, None, None] / view.problem.num_frames
        if static is None:
            return Residuals(torch.zeros(view.problem.num_frames, 1, 3, dtype=torch.float64), weight, loss)
        centroid = view.joints.mean(dim=1)
        away = res.drift(centroid, trajectory.R_cam_obj, view.scene.scale * trajectory.t_cam_obj, self._anchors(view, static))
        return Residuals(torch.where(static[:, None] >= 0, away, 0.0)[:, None], weight, loss)

    def jacobian(self, view: HandView, at: Residuals) -> tuple[Tensor, Tensor]:
        """Derivative of the centroid minus that of the anchor."""
        own, shared = (J.mean(dim=1, keepdim=True) for J in view.joint_jacobians)
        static, trajectory, scale = view.setup.static_grasp_id[view.side], view.scene.trajectory, view.scene.scale
        shared[:, 0, :, SCALE] = -scale * trajectory.t_cam_obj
        if view.layout.focal_free:
            shared[:, 0, :, FOCAL] = -scale * trajectory.t_by_log_focal
        anchors = view.layout.at_anchors
        for number, first in enumerate(range(anchors.start, anchors.stop, 3)):
            shared[:, 0, :, first : first + 3] = torch.where((static == number)[:, None, None], -trajectory.R_cam_obj, 0.0)
        if view.layout.object_free:
            by_pose = res.drift_by_pose(trajectory.R_cam_obj, self._anchors(view, static), scale * trajectory.focal_factors)
            own = torch.cat([own, by_pose[:, None] * view.setup.sfm_unit], dim=-1)
        return own, shared

    def add(self, view: HandView, at: Residuals, system: Equations, shared: Shared, weight: float) -> None:
        """Add the equations if the hand has a static stretch."""
        if view.side in view.setup.static_grasp_id:
            super().add(view, at, system, shared, weight)

    def measured(self, view: HandView, noise: Noise) -> float | None:
        """From the centroid's drift in static stretches."""
        drift_m = view.setup.drift_m.get(view.side)
        return None if drift_m is None else ev.departure_weight(noise.variance_px2, drift_m)

    def _anchors(self, view: HandView, static: Tensor) -> Tensor:
        return view.scene.anchors_m[static.clamp_min(0)]
