"""What one rigid shape says of a frame's object mask, from the other frames' masks, carried by the object's poses.

A point of space is excluded by a frame that shows background there; pixels of hands are unknown. A pixel shows the object if few frames exclude
some point on its ray: a visual hull (Laurentini 1994) that counts its frames, so that single wrong masks decide nothing. A frame has no vote
about itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from scipy.ndimage import map_coordinates

from holdprep.geometry.cameras import project, rays
from holdprep.geometry.lens import Lens
from holdprep.geometry.rigid import apply, invert
from holdprep.object.plausibility import MASK_LOST_PCT, cloud_outside_pct

CELLS = 72  # of the grid, along each side
EXTENT = 1.5  # of the object's extent: the grid's side
STEPS = 64  # along a ray
RAYS = 320  # along the image's longer side
HAND_PX = 3  # uncertainty of a hand's edge
NEUTRAL = 0.1  # share of the frames that exclude a point, at which it is as likely inside as outside
PRIOR_FRAMES = 3.0  # weight of this share: points that few frames show, beside the hand, are uncertain
_OUTSIDE, _INSIDE, _UNKNOWN = 1, 0, -1


@dataclass(frozen=True)
class PosedMasks:
    """Masks (H, W) bool of the object and of all hands in T frames, poses (T, 4, 4) and the camera; masks are as the lens shows them."""

    objects: Sequence[np.ndarray]
    hands: Sequence[np.ndarray]
    T_cam_obj: np.ndarray
    K: np.ndarray
    lens: Lens | None = None

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height of the masks."""
        height, width = self.objects[0].shape
        return width, height

    def px(self, t: int, points: np.ndarray) -> np.ndarray:
        """Pixels (N, 2) of points (N, 3) of the object in frame `t`."""
        px = project(apply(self.T_cam_obj[t], points), self.K)
        return px if self.lens is None else self.lens.distorted_points(px)

    def votes(self, t: int, points: np.ndarray) -> np.ndarray:
        """(N,) int8: what frame `t` says of points (N, 3) of the object; nothing of those beside hands or outside of the image."""
        obj, hand = self.objects[t], self.hands[t]
        near = cv2.dilate(hand.astype(np.uint8), np.ones((2 * HAND_PX + 1,) * 2, np.uint8)) > 0
        labels = np.where(obj, _INSIDE, np.where(near, _UNKNOWN, _OUTSIDE)).astype(np.int8)
        x, y = np.round(self.px(t, points)).T
        seen = (x >= 0) & (x < self.size[0]) & (y >= 0) & (y < self.size[1])
        found = np.full(len(points), _UNKNOWN, np.int8)
        found[seen] = labels[y[seen].astype(np.intp), x[seen].astype(np.intp)]
        return found

    def extent(self, frames: Sequence[int], centre: np.ndarray) -> float:
        """Extent of the object's masks in the unit of the poses, at the depth of `centre` (3,): a high percentile of `frames`."""
        found = []
        for t in frames:
            ys, xs = np.nonzero(self.objects[t])
            if len(ys):
                found.append(max(np.ptp(ys), np.ptp(xs)) * apply(self.T_cam_obj[t], centre[None])[0, 2] / self.K[0, 0])
        return float(np.percentile(found, 90)) if found else 0.0


def whole_masks(posed: PosedMasks, frames: Sequence[int], points_obj: np.ndarray) -> list[int]:
    """Those of `frames` whose masks lack no part of the object by its cloud (N, 3), and hold any: they may vote."""
    px = np.array([posed.px(t, points_obj) for t in frames])
    outside_pct = cloud_outside_pct(px, [posed.objects[t] for t in frames], [posed.hands[t] for t in frames])
    return [t for t, pct in zip(frames, outside_pct, strict=True) if pct <= MASK_LOST_PCT]


class RigidShape:
    """The space about the object, with the number of frames that see and that exclude each of its points.

    `frames` are those whose masks have a vote, `points_obj` (N, 3) the object's cloud.
    """

    def __init__(self, posed: PosedMasks, frames: Sequence[int], points_obj: np.ndarray) -> None:
        self._posed, self._frames = posed, frozenset(frames)
        self._centre = np.median(points_obj, axis=0)
        self._half = EXTENT / 2 * max(posed.extent(frames, self._centre), float(np.ptp(points_obj, axis=0).max()))
        axis = np.linspace(-self._half, self._half, CELLS)
        self._grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3) + self._centre
        self._outside, self._known = np.zeros(len(self._grid), np.int32), np.zeros(len(self._grid), np.int32)
        for t in frames:
            self._count(posed.votes(t, self._grid), 1)

    def _count(self, votes: np.ndarray, sign: int) -> None:
        self._outside += sign * (votes == _OUTSIDE)
        self._known += sign * (votes != _UNKNOWN)

    def excluded(self, t: int) -> np.ndarray:
        """(H, W) float32 of frame `t`: the smallest share of the other frames that exclude a point on a pixel's ray; 1 away from the object."""
        own = self._posed.votes(t, self._grid) if t in self._frames else None
        outside = self._outside if own is None else self._outside - (own == _OUTSIDE)
        known = self._known if own is None else self._known - (own != _UNKNOWN)
        share = ((outside + PRIOR_FRAMES * NEUTRAL) / (known + PRIOR_FRAMES)).astype(np.float32)
        return self._least_on_rays(t, share)

    def _least_on_rays(self, t: int, share: np.ndarray) -> np.ndarray:
        """(H, W) float32 smallest value on the rays of a frame's pixels; 1 outside of the region in which values are below one half."""
        (width, height), step = self._posed.size, max(1, round(max(self._posed.size) / RAYS))
        inside = self._posed.px(t, self._grid[share < 0.5])
        whole = np.ones((-(-height // step), -(-width // step)), np.float32)
        if not len(inside):
            return cv2.resize(whole, (width, height))
        low, high = np.floor(inside.min(axis=0) / step) - 2, np.ceil(inside.max(axis=0) / step) + 3
        (x1, y1), (x2, y2) = (np.clip(v, 0, whole.shape[::-1]).astype(int).tolist() for v in (low, high))
        px = step * np.stack(np.meshgrid(np.arange(x1, x2), np.arange(y1, y2)), axis=-1).reshape(-1, 2).astype(np.float64)
        T = self._posed.T_cam_obj[t]
        depth = apply(T, self._centre[None])[0, 2] + 1.2 * self._half * np.linspace(-1, 1, STEPS)
        ray = rays(px if self._posed.lens is None else self._posed.lens.points(px), self._posed.K)
        least, volume = np.ones(len(px), np.float32), share.reshape((CELLS,) * 3)
        for z in depth:
            at = (apply(invert(T), ray * z) - self._centre + self._half) * ((CELLS - 1) / (2 * self._half))
            least = np.minimum(least, map_coordinates(volume, at.T, order=1, mode="constant", cval=1.0))
        whole[y1:y2, x1:x2] = least.reshape(y2 - y1, x2 - x1)
        return cv2.resize(whole, (width, height), interpolation=cv2.INTER_LINEAR)
