"""Skin on the wrong side of the object: in front of it where the masks show the object, or behind it where they show the hand."""

import torch
from torch import Tensor

from holdprep.align import evidence as ev
from holdprep.align.layout import Layout
from holdprep.align.scene import Setup
from holdprep.align.terms.base import HandTerm, HandView, Noise, Residuals
from holdprep.align.terms.contact import gap_jacobian
from holdprep.geometry.robust import GemanMcClure

SIGMA_M = 0.004  # standard error of skin and surface
WIDTH_M = 0.05  # Geman-McClure: deeper on the wrong side, masks or poses are wrong


class DepthOrderTerm(HandTerm):
    """Mean over frames of Geman-McClure of the distances to the face of the object that is next to the hand; px^2 per m^2.

    A face is the plane that touches the object where a pixel's ray meets its front or back. It is held between two searches.
    """

    unit = "px^2 / m^2"

    def applies(self, setup: Setup, layout: Layout) -> bool:
        """Where the fingers are free and masks show which of hand and object is in front."""
        return layout.refine.pose and layout.with_object and setup.problem.masks is not None

    def residuals(self, view: HandView) -> Residuals:
        """(T, Q, 1) m of the rays on the wrong side, negative, or 0; no entry without rays. `slopes` and `points` as in `contact`."""
        found = view.faces
        if found is None:
            nothing = torch.zeros(view.problem.num_frames, 0, 1, dtype=torch.float64)
            return Residuals(nothing, nothing)
        scale, trajectory = view.scene.scale, view.scene.trajectory
        points = view.skin.points.gather(1, found.ids[..., None].expand(-1, -1, 3))
        normal = found.normal_obj @ trajectory.R_cam_obj.mT
        faces_m = scale * (found.point_obj @ trajectory.R_cam_obj.mT + trajectory.t_cam_obj[:, None])
        beyond = (normal * (points - faces_m)).sum(dim=-1).clamp_max(0)
        wrong = (beyond < 0) & (found.weight > 0)
        rows = wrong.double().topk(int(wrong.sum(dim=1).max()), dim=1).indices  # few rays are on the wrong side
        slopes = normal.gather(1, rows[..., None].expand(-1, -1, 3)) * wrong.gather(1, rows)[..., None]
        value, weight, ids = (x.gather(1, rows) for x in (beyond, found.weight, found.ids))
        return Residuals(value[..., None], weight[..., None], GemanMcClure(WIDTH_M), {"slopes": slopes, "points": ids})

    def jacobian(self, view: HandView, at: Residuals) -> tuple[Tensor, Tensor]:
        """Along the normals of the faces, where the skin is on the wrong side."""
        if at.extra is None:
            frames, layout = view.problem.num_frames, view.layout
            return at.value.new_zeros(frames, 0, 1, layout.own_size(view.side)), at.value.new_zeros(frames, 0, 1, layout.shared)
        return gap_jacobian(view, view.skin, view.setup.skin[view.side], at)

    def measured(self, view: HandView, noise: Noise) -> float | None:
        """From the standard error of skin and surface, and the number of independent pixels of a frame."""
        return ev.departure_weight(noise.variance_px2, SIGMA_M)
