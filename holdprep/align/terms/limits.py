"""Finger joints beyond their limits."""

import roma
import torch

from holdprep.align import evidence as ev
from holdprep.align.terms.base import HandView, Noise, Residuals
from holdprep.align.terms.pose import FingerPose
from holdprep.geometry.least_squares import Equations, Shared
from holdprep.hand.priors import LIMIT_SIGMA, beyond_limits, left_jacobian_inverse


class Limits(FingerPose):
    """Mean over frames of the squared excess of the joints' rotations over their limits; px^2 per rad^2."""

    def residuals(self, view: HandView) -> Residuals:
        """(T, 15, 3) rad; 0 within the limits."""
        beyond = beyond_limits(view.side, view.scene.hands[view.side].rotations)
        return Residuals(beyond, beyond.new_full((1,), 1 / len(beyond)))

    def add(self, view: HandView, at: Residuals, system: Equations, shared: Shared, weight: float) -> None:
        """Add each joint's block."""
        rotations = view.scene.hands[view.side].rotations[:, 1:]
        J = left_jacobian_inverse(roma.rotmat_to_rotvec(rotations)) * (at.value != 0)[..., None]
        own = torch.zeros(len(J), 15, 3, 15, 3, dtype=torch.float64)
        joints = torch.arange(15)
        own[:, joints, :, joints] = J.transpose(0, 1)
        none = torch.zeros(len(J), 15, 3, view.layout.shared, dtype=torch.float64)
        system.add(own.flatten(3), none, at.value, weight * at.weight, self.columns(view))

    def measured(self, view: HandView, noise: Noise) -> float | None:
        """From the standard deviation of a rotation beyond a limit."""
        return ev.departure_weight(noise.variance_px2, LIMIT_SIGMA)
