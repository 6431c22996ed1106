"""What is known of an object after its poses were found: camera, pose per frame, cloud, and who saw what."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from holdprep.geometry.cameras import distort, project
from holdprep.geometry.lens import Lens
from holdprep.geometry.rigid import apply
from holdprep.object import cloud, trajectory

_LOST_PX = 20.0
MAX_GAP = 10  # frames; a turn of half a second can be guessed, one of two seconds cannot


@dataclass(frozen=True)
class ModelSummary:
    """One sparse model that a mapping found, and how it was judged."""

    number: int  # of the mapping
    num_registered: int
    num_points: int
    focal_px: float
    num_jumps: int
    relative_cost: float  # what all matches cost under it, the best model's being 1
    agreement: float  # share of its frames at which the best model tells the same rotation
    kept: bool  # the best one, which the result began from


@dataclass(frozen=True)
class ObjectReconstruction:
    """Object poses and sparse cloud; T frames in the order given, N points, M observations. Lengths in SfM units."""

    names: list[str]
    K: np.ndarray  # (3, 3) of the full image, principal point at its centre
    distortion: np.ndarray  # (0,) or (1,) SIMPLE_RADIAL's k
    focal_px: float
    T_cam_obj: np.ndarray  # (T, 4, 4), object frame to OpenCV camera, every frame filled
    registered: np.ndarray  # (T,) bool: a pose from the images, by SfM or by resection
    origin: list[str]  # (T,) of 'sfm', 'resectioned', 'interpolated', 'held'
    inliers: np.ndarray  # (T,) observations behind the pose
    points_obj: np.ndarray  # (N, 3)
    colors: np.ndarray  # (N, 3) uint8 RGB
    point_error_px: np.ndarray  # (N,) mean reprojection error, full-image pixels
    track_length: np.ndarray  # (N,)
    kept_points: np.ndarray  # (N,) bool: the trimmed cloud
    normalization: np.ndarray  # (4, 4) SfM frame to canonical
    observation_frame: np.ndarray  # (M,) frame index
    observation_point: np.ndarray  # (M,) point index
    observation_px: np.ndarray  # (M, 2) full image, pixel centres at integers
    reprojection_px: float  # mean over observations, NaN without any
    rotation_jumps: list[tuple[str, str]]  # neighbouring registered frames whose rotation is still implausible
    contested: np.ndarray | None = None  # (T,) bool: a second pose is supported as well; None where nobody looked
    models: list[ModelSummary] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def trimmed_points_obj(self) -> np.ndarray:
        return self.points_obj[self.kept_points]


@dataclass(frozen=True)
class Observations:
    """M sightings: `frame` (M,) and `point` (M,) indices, `px` (M, 2) in the full image."""

    frame: np.ndarray
    point: np.ndarray
    px: np.ndarray

    def of_points(self, kept: np.ndarray) -> "Observations":
        """Those of the points `kept` (N,) bool, which are numbered anew."""
        seen = kept[self.point]
        return Observations(self.frame[seen], (np.cumsum(kept) - 1)[self.point[seen]], self.px[seen])


def assemble(
    names: Sequence[str],
    K: np.ndarray,
    distortion: np.ndarray,
    T_cam_obj: np.ndarray,
    known: np.ndarray,
    points_obj: np.ndarray,
    colors: np.ndarray,
    seen: Observations,
    max_gap: int = MAX_GAP,
) -> ObjectReconstruction:
    """Arrays per frame, point and observation from the poses (T, 4, 4) of the frames `known` (T,) bool; the others are filled.

    Gaps of more than `max_gap` frames are held, not interpolated.

    Observations of points behind the camera or more than 20 px off are left out, and so are points (N, 3) with fewer than two others,
    unless there are no observations at all.
    """
    seen = _borne_out(seen, points_obj, T_cam_obj, K, distortion)
    used = (np.bincount(seen.point, minlength=len(points_obj)) >= 2) | (len(seen.point) == 0)
    seen, xyz = seen.of_points(used), points_obj[used]
    track = np.bincount(seen.point, minlength=len(xyz))
    error = np.linalg.norm(reproject(xyz[seen.point], T_cam_obj[seen.frame], K, distortion) - seen.px, axis=1)
    kept = cloud.trim(xyz)
    full, filled = trajectory.complete(T_cam_obj, known, (xyz[kept].min(axis=0) + xyz[kept].max(axis=0)) / 2, max_gap)
    jumps = trajectory.rotation_jumps(full[:, :3, :3], known)
    return ObjectReconstruction(
        names=list(names),
        K=K,
        distortion=distortion,
        focal_px=float(K[0, 0]),
        T_cam_obj=full,
        registered=known,
        origin=[how or "sfm" for how in filled],
        inliers=np.bincount(seen.frame, minlength=len(names)),
        points_obj=xyz,
        colors=colors[used],
        point_error_px=np.bincount(seen.point, error, minlength=len(xyz)) / np.maximum(track, 1),
        track_length=track,
        kept_points=kept,
        normalization=cloud.normalization_matrix(xyz[kept]),
        observation_frame=seen.frame,
        observation_point=seen.point,
        observation_px=seen.px,
        reprojection_px=float(error.mean()) if len(error) else float("nan"),
        rotation_jumps=[(names[a], names[b]) for a, b in jumps],
    )


def given(
    names: Sequence[str],
    K: np.ndarray,
    T_cam_obj: np.ndarray,
    points_obj: np.ndarray,
    seen: Observations | None,
    *,
    registered: np.ndarray | None = None,
    origin: np.ndarray | None = None,
    contested: np.ndarray | None = None,
) -> ObjectReconstruction:
    """A reconstruction read back from files: poses (T, 4, 4) and cloud (N, 3) as they are, K (3, 3) of undistorted pictures.

    What is not known is taken as good: every frame registered (T,) bool, by SfM (`origin` (T,), as in ObjectReconstruction).
    """
    known = np.ones(len(names), bool) if registered is None else registered
    at = seen or Observations(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2)))
    error = np.linalg.norm(reproject(points_obj[at.point], T_cam_obj[at.frame], K, np.zeros(0)) - at.px, axis=1)
    track = np.bincount(at.point, minlength=len(points_obj))
    jumps = trajectory.rotation_jumps(T_cam_obj[:, :3, :3], known)
    return ObjectReconstruction(
        names=list(names),
        K=K,
        distortion=np.zeros(0),
        focal_px=float(K[0, 0]),
        T_cam_obj=T_cam_obj,
        registered=known,
        origin=["sfm"] * len(names) if origin is None else [str(how) for how in origin],
        inliers=np.bincount(at.frame, minlength=len(names)),
        points_obj=points_obj,
        colors=np.full((len(points_obj), 3), 128, np.uint8),
        point_error_px=np.bincount(at.point, error, minlength=len(points_obj)) / np.maximum(track, 1),
        track_length=track,
        kept_points=np.ones(len(points_obj), bool),
        normalization=cloud.normalization_matrix(points_obj),
        observation_frame=at.frame,
        observation_point=at.point,
        observation_px=at.px,
        reprojection_px=float(error.mean()) if len(error) else float("nan"),
        rotation_jumps=[(names[a], names[b]) for a, b in jumps],
        contested=contested,
    )


def _borne_out(seen: Observations, points_obj: np.ndarray, T_cam_obj: np.ndarray, K: np.ndarray, distortion: np.ndarray) -> Observations:
    """The sightings of points that the poses put there: one point near a camera's plane projects anywhere, and spoils every mean."""
    xyz, T = points_obj[seen.point], T_cam_obj[seen.frame]
    good = apply(T, xyz[:, None])[:, 0, 2] > 0
    good[good] = np.linalg.norm(reproject(xyz[good], T[good], K, distortion) - seen.px[good], axis=1) < _LOST_PX
    return Observations(seen.frame[good], seen.point[good], seen.px[good])


def straightened(found: ObjectReconstruction, lens: Lens) -> ObjectReconstruction:
    """The same as seen by the pinhole camera that stands in for `lens`."""
    return replace(found, distortion=np.zeros(0), observation_px=lens.points(found.observation_px))


def reproject(points: np.ndarray, T: np.ndarray, K: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    """(M, 2) pixels of one point (M, 3) under one pose (M, 4, 4) each."""
    cam = apply(T, points[:, None])[:, 0]
    return project(distort(cam, float(distortion[0])) if len(distortion) else cam, K)
