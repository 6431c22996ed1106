"""Points of the object on the edges of its silhouettes, at depths that the silhouettes of other frames determine.

The ray of an outline's pixel touches the object somewhere on the stretch that no other silhouette excludes, that is, in the visual hull
(Laurentini 1994). A short stretch locates the touched point; the normal of the outline is that of the surface there. Pixels of hands are
unknown: they exclude nothing, and outlines beside them are not the object's. The edges of holes, as within a handle, are outlines too.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from scipy.spatial import cKDTree

from holdprep.geometry.cameras import rays
from holdprep.geometry.rigid import apply, invert
from holdprep.geometry.silhouettes import EDGE_PX, outside_hull, signed_possible_px, signed_px

PER_FRAME = 30  # pixels of the outlines
STEPS = 48  # along a ray
REACH = 1.0  # of the diameter: half the length of the ray that is searched
TOLERANCE = 0.01  # of the silhouette's size: errors of masks and poses
BESIDE = 0.03  # of the silhouette's size: an outline this near to a hand or the image's border may not be the object's
LONGEST = 0.2  # of the diameter: the longest stretch that locates a point
SLOPE_PX = 3  # on both sides of a pixel, for the outline's normal
NEAR = 0.05  # of the diameter: other points that show the same part of the surface
MIN_OTHERS = 3  # frames that show the same part, at least: a mask that is wrong in one frame adds nothing


@dataclass(frozen=True)
class Rim:
    """Points (N, 3) of the surface with unit `normals` (N, 3), in the cloud's frame and unit; each is known to half of its `stretch` (N,)."""

    points: np.ndarray
    normals: np.ndarray
    stretch: np.ndarray

    @staticmethod
    def empty() -> "Rim":
        """No points."""
        return Rim(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0))

    def at(self, rows: np.ndarray) -> "Rim":
        """The points `rows`, indices or a mask over N."""
        return Rim(self.points[rows], self.normals[rows], self.stretch[rows])


@dataclass(frozen=True)
class Silhouettes:
    """Masks of the object and of all hands (F, H, W) bool, in frames with poses (F, 4, 4) under one camera `K`.

    `points` (N, 3) are some of the object's, in the frame and unit of the poses: they show where masks are wrong.
    """

    obj: np.ndarray
    hands: np.ndarray
    T_cam_obj: np.ndarray
    K: np.ndarray
    points: np.ndarray

    @cached_property
    def size_px(self) -> float:
        """Square root of the median area of the object's masks."""
        return float(np.sqrt(np.median(np.count_nonzero(self.obj, axis=(1, 2)))))

    @cached_property
    def _away_px(self) -> list[np.ndarray]:
        """Signed distance (H, W) of every pixel to the edge of the pixels that may show the object, by frame."""
        seen = zip(self.obj, self.hands, self.T_cam_obj, strict=True)
        return [signed_possible_px(obj | hand, self.points, T, self.K, TOLERANCE * self.size_px) for obj, hand, T in seen]

    def outside(self, points: np.ndarray) -> np.ndarray:
        """(M,) how far points (M, 3) are outside of the visual hull, by more than the masks' errors; negative inside."""
        return outside_hull(points, self._away_px, self.T_cam_obj, self.K, TOLERANCE * self.size_px)


def rim_points(seen: Silhouettes, diameter: float) -> Rim:
    """The located points of the object's outlines; `diameter` is that of the known points, the object may be larger."""
    if not seen.obj.any():
        return Rim.empty()
    K, T_cam_obj, centre = seen.K, seen.T_cam_obj, 0.5 * (seen.points.min(axis=0) + seen.points.max(axis=0))
    centre_depth = apply(T_cam_obj, np.broadcast_to(centre, (len(T_cam_obj), 1, 3)))[:, 0, 2]
    diameter = max(diameter, float(np.median([_extent_px(mask) for mask in seen.obj] * centre_depth / K[0, 0])))
    margin_px = max(3, round(BESIDE * seen.size_px))
    edges = [_edge(mask, hand, margin_px) for mask, hand in zip(seen.obj, seen.hands, strict=True)]
    count = [len(px) for px, _ in edges]
    if not sum(count):
        return Rim.empty()
    points = np.concatenate([_along_rays(px, K, T, centre, diameter) for (px, _), T in zip(edges, T_cam_obj, strict=True)])
    normals = np.concatenate([_plane_normals(px, n, K, T) for (px, n), T in zip(edges, T_cam_obj, strict=True)])
    first, last = _stretch(np.maximum(seen.outside(points.reshape(-1, 3)), -diameter).reshape(points.shape[:2]))
    step = np.linalg.norm(points[:, 1] - points[:, 0], axis=1)
    middle = points[:, 0] + (points[:, 1] - points[:, 0]) * (0.5 * (first + last))[:, None]
    short = (last - first) * step < LONGEST * diameter
    rim = Rim(middle, normals, (last - first) * step).at(short)
    return rim.at(_seen_by_others(rim.points, np.repeat(np.arange(len(count)), count)[short], NEAR * diameter))


def _seen_by_others(points: np.ndarray, frame: np.ndarray, radius: float) -> np.ndarray:
    """(N,) bool: whether within `radius` of points (N, 3) there are points of at least MIN_OTHERS other frames."""
    near = cKDTree(points).query_ball_point(points, radius) if len(points) else []
    return np.array([len(set(frame[others]) - {own}) >= MIN_OTHERS for others, own in zip(near, frame, strict=True)], bool)


def _outlines(mask: np.ndarray) -> list[np.ndarray]:
    """The longest outline of a mask (H, W) and those of the holes in it: pixels (C, 2) each; none of an empty mask."""
    found, relations = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if not found:
        return []
    around = np.asarray(relations)[0, :, 3]
    longest = max(np.flatnonzero(around < 0), key=lambda k: len(found[int(k)]))
    return [np.asarray(found[k])[:, 0] for k in (int(longest), *np.flatnonzero(around == longest).tolist())]


def _extent_px(mask: np.ndarray) -> float:
    """Diameter of the circle around the longest outline of a mask (H, W), 0 without."""
    outlines = _outlines(mask)
    return 2 * float(cv2.minEnclosingCircle(outlines[0])[1]) if outlines else 0.0


def _edge(mask: np.ndarray, hand: np.ndarray, margin_px: int) -> tuple[np.ndarray, np.ndarray]:
    """At most PER_FRAME points (M, 2) px on the outlines of a mask (H, W), with outward unit normals (M, 2) in the image."""
    outlines = _outlines(mask)
    if not outlines:
        return np.zeros((0, 2)), np.zeros((0, 2))
    at = np.concatenate(outlines)
    height, width = mask.shape
    near = cv2.dilate(hand.astype(np.uint8), np.ones((2 * margin_px + 1,) * 2, np.uint8)) > 0
    inside = (at >= margin_px).all(axis=1) & (at < (width - margin_px, height - margin_px)).all(axis=1)
    at = at[inside & ~near[at[:, 1], at[:, 0]]]
    at = at[:: max(1, -(-len(at) // PER_FRAME))]
    away, (x, y) = signed_px(mask), at.T
    slope = np.stack([away[y, x + SLOPE_PX] - away[y, x - SLOPE_PX], away[y + SLOPE_PX, x] - away[y - SLOPE_PX, x]], axis=1)
    length = np.linalg.norm(slope, axis=1)
    at, normal = at[length > SLOPE_PX], slope[length > SLOPE_PX] / length[length > SLOPE_PX, None]
    return at + EDGE_PX * normal, normal


def _along_rays(px: np.ndarray, K: np.ndarray, T_cam_obj: np.ndarray, centre: np.ndarray, diameter: float) -> np.ndarray:
    """(M, STEPS, 3) points of the object's frame on the rays of pixels (M, 2), evenly spaced in depth about the centre's."""
    depth = apply(T_cam_obj, centre[None])[0, 2] + REACH * diameter * np.linspace(-1, 1, STEPS)
    return apply(invert(T_cam_obj), (rays(px, K)[:, None] * depth[None, :, None]).reshape(-1, 3)).reshape(len(px), STEPS, 3)


def _plane_normals(px: np.ndarray, normal: np.ndarray, K: np.ndarray, T_cam_obj: np.ndarray) -> np.ndarray:
    """(M, 3) normals, in the object's frame, of the planes through the camera's centre and the tangents of an outline."""
    line = np.concatenate([normal, -(normal * px).sum(axis=1, keepdims=True)], axis=1)
    planes = line @ K @ T_cam_obj[:3, :3]
    return np.asarray(planes / np.linalg.norm(planes, axis=1, keepdims=True))


def _stretch(excluded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last position (M,), in steps, at which values (M, STEPS) along rays are negative, interpolated linearly.

    The longest possible stretch where they are nowhere negative, positive in between, or negative at an end of the ray.
    """
    steps = excluded.shape[1]
    free = excluded < 0
    first, last = free.argmax(axis=1), steps - 1 - free[:, ::-1].argmax(axis=1)
    whole = (free.sum(axis=1) == last - first + 1) & (first > 0) & (last < steps - 1)
    rows = np.arange(len(excluded))

    def crossing(inner: np.ndarray, outer: np.ndarray) -> np.ndarray:
        a, b = excluded[rows, inner], excluded[rows, np.clip(outer, 0, steps - 1)]
        return np.asarray(np.where(b > 0, a / np.minimum(a - b, -1e-12), 0.0))

    start = np.where(whole, first - crossing(first, first - 1), 0.0)
    return start, np.where(whole, last + crossing(last, last + 1), steps - 1.0)
