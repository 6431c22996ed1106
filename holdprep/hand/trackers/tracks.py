"""Results of hand trackers: one hand as keypoints, or the hands of a clip as meshes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from holdprep.hand.model import ManoParams, Side


@dataclass(frozen=True)
class KeypointTrack:
    """One hand as 21 keypoints (MANO-21 order) in T frames; NaN where the hand was not found.

    `j2d_px` (T, 21, 2) pixels of the full image; `j3d_m` (T, 21, 3) metres relative to the wrist, camera axes (x right, y down,
    z away from the camera); `confidence` (T, 21) in 0..1, 0 where not found; `boxes_px` (T, 4) square x1, y1, x2, y2 around the hand.
    `j3d_sigma_m` is the standard deviation of a coordinate of `j3d_m` for a confidence of 1, where the tracker's is known.
    """

    j2d_px: np.ndarray
    j3d_m: np.ndarray
    confidence: np.ndarray
    boxes_px: np.ndarray
    j3d_sigma_m: float | None = None

    @property
    def found(self) -> np.ndarray:
        """(T,) bool: frames in which the hand was found."""
        return np.isfinite(self.j2d_px).all(axis=(1, 2))


@dataclass(frozen=True)
class VertexTrack:
    """Hands as meshes in the frames `names`; NaN where a hand was not found.

    Per side: `vertices_m` (T, 778, 3) metres in the camera frame of `K` (3, 3), `j2d_px` (T, 21, 2) full-image pixels in MANO-21
    order; where known, `joints_m` (T, 21, 3), the `confidence` (T, 21) in 0..1 of the joints (0 where not found) and the tracker's
    own MANO `params` (in `holdprep.hand.model`'s conventions). `keypoints_m` (T, 21, 3) are those of keypoint trackers, whose
    meshes are derived: 3D keypoints relative to the wrist in camera axes, NaN throughout where they are 2D only, with the standard
    deviation `keypoints_sigma_m` of a coordinate where it is known. `notes` are single lines for the user.
    """

    vertices_m: Mapping[Side, np.ndarray]
    j2d_px: Mapping[Side, np.ndarray]
    K: np.ndarray
    names: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())
    joints_m: Mapping[Side, np.ndarray] = field(default_factory=dict)
    params: Mapping[Side, ManoParams] = field(default_factory=dict)
    confidence: Mapping[Side, np.ndarray] = field(default_factory=dict)
    keypoints_m: Mapping[Side, np.ndarray] = field(default_factory=dict)
    keypoints_sigma_m: Mapping[Side, float] = field(default_factory=dict)

    def found(self, side: Side) -> np.ndarray:
        """(T,) bool: frames in which the hand of a side was found."""
        return np.isfinite(self.vertices_m[side]).all(axis=(1, 2))

    def of_sides(self, sides: tuple[Side, ...]) -> "VertexTrack":
        """The track without hands of other sides."""
        return replace(
            self,
            vertices_m={s: self.vertices_m[s] for s in sides},
            j2d_px={s: self.j2d_px[s] for s in sides},
            joints_m={s: j for s, j in self.joints_m.items() if s in sides},
            params={s: p for s, p in self.params.items() if s in sides},
        )
