"""The object: poses and sparse cloud from the video."""

from holdprep.object.sfm import ModelSummary, ObjectReconstruction, reconstruct

__all__ = ["ModelSummary", "ObjectReconstruction", "reconstruct"]
