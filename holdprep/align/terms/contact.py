"""Distance of the fingertips from the object's surface."""

import torch
from torch import Tensor

from holdprep.align import evidence as ev
from holdprep.align import residuals as res
from holdprep.align.contact import TOUCHING_TIPS
from holdprep.align.layout import FOCAL, SCALE, Layout
from holdprep.align.scene import PATCH_SIZE, Setup
from holdprep.align.terms.base import HandTerm, HandView, Noise, Residuals
from holdprep.geometry.robust import SmoothNorm
from holdprep.hand.lbs import NUM_JOINTS, HandPoints, Posed

EPSILON_M = 0.003  # standard error of tip and surface; distances are squared below it, linear above


class Contact(HandTerm):
    """Mean absolute distance over contact frames and their nearest (or deepest) tips; px^2 per m."""

    unit = "px^2 / m"

    def applies(self, setup: Setup, layout: Layout) -> bool:
        """With an object."""
        return setup.surface is not None

    def residuals(self, view: HandView) -> Residuals:
        """(T, 3, 1) m; `slopes` (T, 3, 3) of the surface there, in the camera frame, and the ids `points` (T, 3) of the tips."""
        surface, scale, R = view.setup.surface, float(view.scene.scale), view.scene.trajectory.R_cam_obj
        assert surface is not None
        local = (view.posed.points[:, NUM_JOINTS:] / scale - view.scene.trajectory.t_cam_obj[:, None]) @ R
        distance = torch.from_numpy(scale * surface.distance(local.numpy()))
        best = distance.unflatten(1, (5, PATCH_SIZE)).min(dim=2)
        nearest = best.values.topk(TOUCHING_TIPS, dim=1, largest=False)
        chosen = nearest.indices * PATCH_SIZE + best.indices.gather(1, nearest.indices)
        at = local.gather(1, chosen[..., None].expand(-1, -1, 3)).numpy()
        slopes = torch.from_numpy(surface.gradient(at)) @ R.mT
        touching = view.setup.touching[view.side]
        # a guess of the surface attracts no finger, but the object's inside is known where the guess is convex
        sought = torch.from_numpy(surface.known(at)) | (nearest.values < 0)
        weight = sought[..., None] * touching[..., None] / (TOUCHING_TIPS * touching.sum().clamp_min(1))
        extra = {"slopes": slopes, "points": chosen + NUM_JOINTS}
        return Residuals(nearest.values[..., None], weight, SmoothNorm(EPSILON_M), extra)

    def jacobian(self, view: HandView, at: Residuals) -> tuple[Tensor, Tensor]:
        """Along the gradient of the surface's distance."""
        return gap_jacobian(view, view.posed, view.setup.points[view.side], at)

    def measured(self, view: HandView, noise: Noise) -> float | None:
        """From the standard error of tip and surface."""
        touching = float((view.setup.touching[view.side] > 0).sum()) / float(noise.seen.sum())
        return ev.contact_weight(noise.variance_px2, EPSILON_M, TOUCHING_TIPS, touching)


def gap_jacobian(view: HandView, posed: Posed, of: HandPoints, at: Residuals) -> tuple[Tensor, Tensor]:
    """Derivatives of signed distances (T, Q, 1) m to the object's surface, or to planes that move with it.

    `at.extra` holds the ids `points` (T, Q) of the hand's points among those of `of`, and the gradients `slopes` (T, Q, 3) of the distances
    by the points, in the camera frame.
    """
    assert at.extra is not None
    slopes, ids = at.extra["slopes"], at.extra["points"]
    points = posed.points.gather(1, ids[..., None].expand(-1, -1, 3))
    own, shared = view.slopes(posed, of, ids, slopes)
    shared[..., 0, SCALE] = res.signed_gap_by_log_scale(at.value[..., 0], slopes, points)
    scale, trajectory = view.scene.scale, view.scene.trajectory
    if view.layout.focal_free:
        shared[..., 0, FOCAL] = -scale * (slopes @ trajectory.t_by_log_focal[..., None])[..., 0]
    if view.layout.object_free:
        by_pose = res.signed_gap_by_pose(slopes, points, scale * trajectory.t_cam_obj[:, None], scale * trajectory.focal_factors)
        own = torch.cat([own, by_pose[:, :, None] * view.setup.sfm_unit], dim=-1)
    return own, shared
