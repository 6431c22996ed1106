"""The result of object pose estimation, from any source: camera, pose per frame, point cloud and observations."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import distort, project
from holdprep.geometry.lens import Lens
from holdprep.geometry.rigid import apply
from holdprep.object import cloud, trajectory
from holdprep.quality.metrics import bounds_of_longest_gap

_MAX_ERROR_PX = 20.0
MIN_POINTS = 4
MAX_GAP = 10  # frames across which poses are interpolated; over longer gaps the rotation is not predictable


@dataclass(frozen=True)
class ModelSummary:
    """One sparse model of a mapping and how it compares with the best one."""

    number: int  # of the mapping
    num_registered: int
    num_points: int
    focal_px: float
    num_jumps: int
    relative_cost: float  # match cost relative to the best model
    agreement: float  # share of common frames with the same rotation as in the best model
    kept: bool  # the best model, which the result was refined from


@dataclass(frozen=True)
class Observations:
    """M observations of points: `frame` (M,) and `point` (M,) indices, `px` (M, 2) in the full image."""

    frame: np.ndarray
    point: np.ndarray
    px: np.ndarray

    @classmethod
    def none(cls) -> "Observations":
        return cls(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2)))

    def of_points(self, kept: np.ndarray) -> "Observations":
        """The observations of the points `kept` (N,) bool, with indices into the kept points."""
        of_kept = kept[self.point]
        return Observations(self.frame[of_kept], (np.cumsum(kept) - 1)[self.point[of_kept]], self.px[of_kept])


@dataclass(frozen=True)
class PoseUncertainty:
    """What the adjustment leaves uncertain; NaN or None where it is not known.

    `pose_covariance` (T, 6, 6) is that of a small rotation (rad, axes of the camera) and a translation (SfM units) that follow a pose.
    """

    pose_covariance: np.ndarray
    focal_stderr_px: float  # 0 for a given focal length, infinite for one that is held at its prior
    k_stderr: float
    lens_radius: float | None  # within which the distortion is observed, in focal lengths

    def rotation_stderr_deg(self) -> np.ndarray:
        """(T,) root mean square angle of the rotations' errors."""
        return np.degrees(np.sqrt(np.trace(self.pose_covariance[:, :3, :3], axis1=1, axis2=2)))


@dataclass(frozen=True)
class SilhouetteEvidence:
    """What poses from silhouettes rest on, without structure from motion.

    `iou` (T,) of the predicted and the object's mask in frames that were held out of the shape, else NaN; `departure_deg` (T,) angle of
    the object's rotation from that of a static grasp, NaN where unknown; `finger_motion_mm` of the fingertips in the palm; `free_axes_obj`
    (N, 3) axes, rotations about which the silhouettes do not determine: they are the hand's.
    """

    iou: np.ndarray
    departure_deg: np.ndarray
    finger_motion_mm: float
    free_axes_obj: np.ndarray

    @property
    def departure_pct90_deg(self) -> float:
        """The 90th percentile over frames of `departure_deg`, NaN without any."""
        known = self.departure_deg[np.isfinite(self.departure_deg)]
        return float(np.percentile(known, 90)) if len(known) else float("nan")


def frame_weights(registered: np.ndarray, pose_covariance: np.ndarray | None) -> np.ndarray:
    """(T,) weights of the poses: 0 where not registered, less than 1 where the rotation's variance is above its median."""
    if pose_covariance is None:
        return registered.astype(np.float64)
    variance = np.trace(pose_covariance[:, :3, :3], axis1=1, axis2=2)
    known = registered & np.isfinite(variance) & (variance > 0)
    typical = float(np.median(variance[known])) if known.any() else 0.0
    return np.where(known, np.minimum(typical / np.where(known, variance, 1.0), 1.0), registered)


@dataclass(frozen=True)
class RawReconstruction:
    """Poses of T frames, one camera, N points and M observations, without any statistics. Lengths in SfM units."""

    names: Sequence[str]
    K: np.ndarray  # (3, 3) of the full image
    T_cam_obj: np.ndarray  # (T, 4, 4), object frame to OpenCV camera
    registered: np.ndarray  # (T,) bool: pose estimated from the image
    points_obj: np.ndarray  # (N, 3)
    observations: Observations = field(default_factory=Observations.none)
    distortion: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (0,) or (1,) SIMPLE_RADIAL's k
    colors: np.ndarray | None = None  # (N, 3) uint8 RGB; None: gray


@dataclass(frozen=True)
class ObjectReconstruction:
    """Object poses and sparse cloud: T frames in the given order, N points, M observations. Lengths in SfM units."""

    names: list[str]
    K: np.ndarray  # (3, 3) of the full image
    distortion: np.ndarray  # (0,) or (1,) SIMPLE_RADIAL's k
    focal_px: float
    T_cam_obj: np.ndarray  # (T, 4, 4), object frame to OpenCV camera, every frame filled
    registered: np.ndarray  # (T,) bool: pose estimated from the image, by SfM or PnP
    origin: list[str]  # (T,) of 'sfm', 'resectioned', 'silhouettes', 'hand' (not measured), 'interpolated', 'held'
    inliers: np.ndarray  # (T,) number of observations
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
    rotation_jumps: list[tuple[str, str]]  # neighbouring registered frames with an implausible rotation between them
    contested: np.ndarray | None = None  # (T,) bool: a competing pose was not rejected; None if this was not tested
    models: list[ModelSummary] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    uncertainty: PoseUncertainty | None = None  # None: unknown
    silhouettes: SilhouetteEvidence | None = None  # None: poses of another kind

    @property
    def trimmed_points_obj(self) -> np.ndarray:
        return self.points_obj[self.kept_points]


def assemble(raw: RawReconstruction, max_gap: int = MAX_GAP) -> ObjectReconstruction:
    """Filter observations and points, fill in the poses of unregistered frames, compute statistics per frame and point.

    Observations behind the camera or with a reprojection error over 20 px are dropped, and so are points with fewer than
    two observations left, unless there are no observations at all. Poses are interpolated across gaps of at most `max_gap`
    frames; in longer gaps the nearest pose is held. Raises HoldprepError where fewer than `MIN_POINTS` points are left.
    """
    observed = _drop_outliers(raw)
    used = (np.bincount(observed.point, minlength=len(raw.points_obj)) >= 2) | (len(observed.point) == 0)
    if used.sum() < MIN_POINTS:
        raise HoldprepError(f"{used.sum()} of {len(used)} points are observed in two frames or more, {MIN_POINTS} are needed")
    points = raw.points_obj[used]
    kept = cloud.trim(points)
    if not kept.any():
        raise HoldprepError(f"its {len(points)} points have no extent that is a number: their coordinates are too large")
    T_cam_obj, filled = trajectory.fill_gaps(raw.T_cam_obj, raw.registered, cloud.centre(points[kept]), max_gap)
    filtered = replace(
        raw,
        T_cam_obj=T_cam_obj,
        points_obj=points,
        observations=observed.of_points(used),
        colors=None if raw.colors is None else raw.colors[used],
    )
    return _with_statistics(filtered, kept, [how or "sfm" for how in filled])


def with_held_warning(found: ObjectReconstruction) -> ObjectReconstruction:
    """The reconstruction, with a warning where frames hold the nearest known pose."""
    held = found.origin.count("held")
    if not held:
        return found
    start, stop = bounds_of_longest_gap(np.array(found.origin) != "held")
    line = (
        f"{held} of {len(found.names)} frames (longest run: {found.names[start]} to {found.names[stop - 1]}) hold the nearest known pose, "
        "the gap is too long to interpolate: cut the clip there, or add frames"
    )
    return replace(found, warnings=[*found.warnings, line])


def restore(
    raw: RawReconstruction, origin: Sequence[str] | np.ndarray | None = None, contested: np.ndarray | None = None
) -> ObjectReconstruction:
    """A reconstruction read back from files: no filtering, every frame has a pose; `origin` is 'sfm' by default."""
    kept = np.ones(len(raw.points_obj), bool)
    found = _with_statistics(raw, kept, ["sfm"] * len(raw.names) if origin is None else [str(how) for how in origin])
    return replace(found, contested=contested)


def _with_statistics(raw: RawReconstruction, kept: np.ndarray, origin: list[str]) -> ObjectReconstruction:
    """Add statistics per frame, point and observation; `kept` (N,) bool is the trimmed cloud."""
    names, points, observed = raw.names, raw.points_obj, raw.observations
    projected = reproject(points[observed.point], raw.T_cam_obj[observed.frame], raw.K, raw.distortion)
    error = np.linalg.norm(projected - observed.px, axis=1)
    track = np.bincount(observed.point, minlength=len(points))
    jumps = trajectory.rotation_jumps(raw.T_cam_obj[:, :3, :3], raw.registered)
    return ObjectReconstruction(
        names=list(names),
        K=raw.K,
        distortion=raw.distortion,
        focal_px=float(raw.K[0, 0]),
        T_cam_obj=raw.T_cam_obj,
        registered=raw.registered,
        origin=origin,
        inliers=np.bincount(observed.frame, minlength=len(names)),
        points_obj=points,
        colors=np.full((len(points), 3), 128, np.uint8) if raw.colors is None else raw.colors,
        point_error_px=np.bincount(observed.point, error, minlength=len(points)) / np.maximum(track, 1),
        track_length=track,
        kept_points=kept,
        normalization=cloud.normalization_matrix(points[kept]),
        observation_frame=observed.frame,
        observation_point=observed.point,
        observation_px=observed.px,
        reprojection_px=float(error.mean()) if len(error) else float("nan"),
        rotation_jumps=[(names[a], names[b]) for a, b in jumps],
    )


def _drop_outliers(raw: RawReconstruction) -> Observations:
    """Drop observations behind the camera or with a reprojection error over 20 px.

    Points near the plane of a camera have arbitrarily large errors, which would dominate every mean.
    """
    observed = raw.observations
    points, T = raw.points_obj[observed.point], raw.T_cam_obj[observed.frame]
    good = apply(T, points[:, None])[:, 0, 2] > 0
    error = np.linalg.norm(reproject(points[good], T[good], raw.K, raw.distortion) - observed.px[good], axis=1)
    good[good] = error < _MAX_ERROR_PX
    return Observations(observed.frame[good], observed.point[good], observed.px[good])


def undistort(found: ObjectReconstruction, lens: Lens) -> ObjectReconstruction:
    """The same reconstruction for the pinhole camera that `lens` undistorts to."""
    return replace(found, distortion=np.zeros(0), observation_px=lens.points(found.observation_px))


def reproject(points: np.ndarray, T: np.ndarray, K: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    """(M, 2) pixels of points (M, 3), each under its own pose (M, 4, 4)."""
    cam = apply(T, points[:, None])[:, 0]
    return project(distort(cam, float(distortion[0])) if len(distortion) else cam, K)
