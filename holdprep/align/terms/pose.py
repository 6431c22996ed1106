"""Departure of the fingers' joint angles from the registered ones."""

from holdprep.align.terms.rotation import Rotation


class FingerPose(Rotation):
    """Mean over frames of the squared rotation vectors of the joints 1-15; px^2 per rad^2."""

    bones = slice(1, 16)
