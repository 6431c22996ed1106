"""Skin inside the object's known surface."""

import torch
from torch import Tensor

from holdprep.align import evidence as ev
from holdprep.align.layout import Layout
from holdprep.align.scene import Setup
from holdprep.align.terms.base import HandTerm, HandView, Noise, Residuals
from holdprep.align.terms.contact import gap_jacobian
from holdprep.hand.lbs import NUM_JOINTS

SIGMA_M = 0.003  # standard error of skin and surface
DEEPEST = 24  # vertices of a frame
STEP = 2  # every second vertex of the skin is looked at


class Penetration(HandTerm):
    """Mean over frames of the squared depths of the deepest vertices inside the surface; px^2 per m^2.

    Parts of the surface that no picture shows are guesses that may be too large, and are left out.
    """

    unit = "px^2 / m^2"

    def applies(self, setup: Setup, layout: Layout) -> bool:
        """Where the fingers are free and there is an object."""
        return layout.refine.pose and layout.with_object

    def residuals(self, view: HandView) -> Residuals:
        """(T, Q, 1) m, at most DEEPEST of a frame, 0 outside; `slopes` of the surface there and the ids `points` of the vertices, as in `contact`."""
        surface, scale, R = view.setup.surface, float(view.scene.scale), view.scene.trajectory.R_cam_obj
        assert surface is not None
        local = (view.skin.points[:, NUM_JOINTS::STEP] / scale - view.scene.trajectory.t_cam_obj[:, None]) @ R
        distance = torch.from_numpy(scale * surface.distance(local.numpy()))
        most = int((distance < 0).sum(dim=1).max())
        deepest = distance.topk(min(most, DEEPEST), dim=1, largest=False)
        at = local.gather(1, deepest.indices[..., None].expand(-1, -1, 3)).numpy()
        inside = (deepest.values < 0) & (view.problem.obj_weight > 0)[:, None]
        inside[inside.clone()] &= torch.from_numpy(surface.known(at[inside.numpy()]))
        slopes = torch.from_numpy(surface.gradient(at)) @ R.mT
        extra = {"slopes": slopes, "points": NUM_JOINTS + STEP * deepest.indices}
        return Residuals(deepest.values.clamp_max(0)[..., None], inside[..., None].double() / len(at), extra=extra)

    def jacobian(self, view: HandView, at: Residuals) -> tuple[Tensor, Tensor]:
        """Along the gradient of the surface's distance."""
        return gap_jacobian(view, view.skin, view.setup.skin[view.side], at)

    def measured(self, view: HandView, noise: Noise) -> float | None:
        """From the standard error of skin and surface; vertices of one finger penetrate together."""
        return ev.departure_weight(noise.variance_px2, SIGMA_M) / DEEPEST
