"""Bundle adjustment: with a wide robust loss while frames are being added, finally with a narrow one over patches.

On a rendered can, SIFT features gave a focal length 1.7 % off, because of slightly wrong matches and of features on the
silhouette, which is not fixed on the surface of a rotating round body. Without the silhouette and under a narrow loss the
error was 0.4 %, over patches below 0.1 %.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pycolmap

from holdprep.geometry.cameras import corners_px
from holdprep.object import covariance, focal
from holdprep.object.colmap import Crop, Features, Model, color_points, open_database, read_keypoints, read_mask, read_model
from holdprep.object.patch_tracking import PatchObservations, track_patches
from holdprep.object.single_view import to_matrix
from holdprep.object.workspace import Workspace

SILHOUETTE_FILE = "silhouette.npz"  # of the work folder
_KEY = "frame "  # and the frame's name: an array's name in this file
# Width of the band along the mask border in which observations are dropped, relative to the square root of the mask area.
_SILHOUETTE_BAND = 0.04
_MIN_INTERIOR_FEATURES = 30  # a frame with fewer inside the band keeps all its features
_MAX_ERROR_PX = 4.0  # of the enlarged crop
_MIN_TRIANGULATION_DEG = 1.5
_WIDE_LOSS_PX = 1.0  # scale of the Cauchy loss in pixels of the enlarged crop
_NARROW_LOSS_PX = 0.15  # the same in pixels of the full image
_MAX_DIRECT_FRAMES = 150  # above, the iterative solver takes a third of the time and reaches the same cost
_FUNCTION_TOLERANCE = 3e-6  # relative; 1e-6 takes 1.5 times as long and changes the focal length by 0.0004 %
_WIDE_TOLERANCE = 1e-4  # 1e-6 takes three times as long and changes the focal length by 0.02 %, before patches refine it
# A radial distortion is accepted if it lowers the cost by so many squared standard deviations (one is expected by chance, but the errors
# of a point are correlated between frames: without distortion a blurred box gained 10; with k = -0.1 a box gained 70, a real camera 700),
# if k is so many of its standard errors, which know of this correlation,
_MIN_DISTORTION_GAIN = 40.0
_MIN_DISTORTION_SIGMAS = 4.0
# and if the observations reach so far from the principal point, relative to the farthest corner.
_MIN_COVERAGE = 0.3
_COVERED_PCT = 95.0  # of the observations are within the radius that counts as observed


@dataclass(frozen=True)
class Adjustment:
    """What an adjustment leaves uncertain, by frame name; and how far from the principal point the distortion is observed.

    `pose_covariance` (6, 6) is that of a rotation (rad, axes of the camera) and a translation, applied after the pose (unit of the points).
    """

    pose_covariance: dict[str, np.ndarray]
    focal_stderr_px: float  # 0 where it is given, infinite where it is held at its prior
    k_stderr: float  # NaN where no distortion is estimated
    observed_radius: float  # in focal lengths


@dataclass(frozen=True)
class _Solver:
    """Scale of the Cauchy loss (px), and relative decrease of the cost at which an adjustment ends."""

    loss_px: float
    tolerance: float


def retriangulate(workspace: Workspace, model: Model, poses: Mapping[str, np.ndarray], tolerance: float = _WIDE_TOLERANCE) -> Model:
    """Triangulate all points again under given poses (frame name -> T_cam_obj), then bundle-adjust with the wide loss.

    The adjustment ends where its cost decreases by less than `tolerance`, relative.
    """
    reconstruction = _triangulate(workspace, model, poses)
    prior = float(workspace.K[0, 0]) * workspace.crop.upsample
    _adjust(reconstruction, _Solver(_WIDE_LOSS_PX, tolerance), prior, refine_focal=workspace.refine_focal)
    _filter(reconstruction)
    return read_model(reconstruction, workspace.crop, model.number, workspace.folder)


def refine_over_patches(workspace: Workspace, model: Model, features: Features) -> tuple[Model, Adjustment]:
    """Final poses, focal length and distortion from tracked patches, and the features' points adjusted to them; and their uncertainty."""
    observations = track_patches(workspace, model, features)
    refined, adjustment = adjust_to_patches(model, observations, workspace)
    reconstruction = adjust_points(workspace, refined)
    color_points(reconstruction, workspace.folder, workspace.crop, workspace.num_threads)
    output = workspace.folder / "sparse_rebuilt"
    output.mkdir(exist_ok=True)
    reconstruction.write(output)
    return read_model(reconstruction, workspace.crop, model.number, output), adjustment


def adjust_to_patches(model: Model, observations: Mapping[str, PatchObservations], workspace: Workspace) -> tuple[Model, Adjustment]:
    """`model` with poses and camera bundle-adjusted to patch observations (by frame name), and their uncertainty.

    If the workspace's focal length is not given, it is refined where the observations determine it, and so is the radial distortion.
    """
    camera, names = model.camera(workspace.principal_px), dict(enumerate(observations, start=1))
    camera.camera_id = 1
    views = {i: _View(name, model.poses[name], observations[name].px, observations[name].points) for i, name in names.items()}
    fitted = _reconstruction(camera, views, model.points)
    refine_focal, prior = workspace.refine_focal, float(workspace.K[0, 0])
    solver = _Solver(_NARROW_LOSS_PX, _FUNCTION_TOLERANCE)
    cost, is_held = _adjust(fitted, solver, prior, refine_focal=refine_focal)
    seen, is_free = focal.observed(fitted), refine_focal and not is_held
    found = None
    if is_free and _coverage(seen, workspace) > _MIN_COVERAGE:
        distorted = pycolmap.Reconstruction(fitted)
        gain = 1 - _bundle_adjust(distorted, solver, refine_focal=True, refine_distortion=True) / cost
        if gain * 2 * sum(len(each.points) for each in observations.values()) > _MIN_DISTORTION_GAIN:
            seen_distorted = focal.observed(distorted)
            with_lens = covariance.estimate(seen_distorted, refine_focal=True, refine_k=True)
            if abs(seen_distorted.k) > _MIN_DISTORTION_SIGMAS * with_lens.k:
                fitted, seen, found = distorted, seen_distorted, with_lens
    found = found or covariance.estimate(seen, refine_focal=is_free, refine_k=False)
    poses = {name: to_matrix(fitted.image(i).cam_from_world()) for i, name in names.items()}
    adjustment = Adjustment(
        pose_covariance=dict(zip(poses, found.poses, strict=True)),
        focal_stderr_px=np.inf if is_held else found.focal_px if refine_focal else 0.0,
        k_stderr=found.k,
        observed_radius=observed_radius(seen),
    )
    return replace(model, focal_px=seen.focal_px, distortion=np.array([seen.k]), poses=poses), adjustment


def observed_radius(seen: covariance.Observed) -> float:
    """Distance from the principal point, in focal lengths, within which most observations are."""
    if not len(seen.px):
        return 0.0
    return float(np.percentile(np.linalg.norm(seen.px - seen.principal_px, axis=1), _COVERED_PCT)) / seen.focal_px


def _coverage(seen: covariance.Observed, workspace: Workspace) -> float:
    """The radius within which most observations are, relative to the farthest corner's."""
    corners = corners_px(*workspace.image_size)
    return observed_radius(seen) * seen.focal_px / float(np.linalg.norm(corners - workspace.principal_px, axis=1).max())


def _adjust(reconstruction: pycolmap.Reconstruction, solver: _Solver, prior: float, *, refine_focal: bool) -> tuple[float, bool]:
    """Adjust with a free focal length where it is refined and determined, else with the prior one; the cost, and whether it is held."""
    hold = focal.FocalHold(prior, refine_focal)
    hold.update(reconstruction)
    cost = _bundle_adjust(reconstruction, solver, refine_focal=hold.is_free)
    if hold.update(reconstruction):
        cost = _bundle_adjust(reconstruction, solver, refine_focal=hold.is_free)
    return cost, refine_focal and not hold.is_free


def adjust_points(workspace: Workspace, model: Model) -> pycolmap.Reconstruction:
    """The model's points adjusted to their features under its poses and camera, without outliers, in pixels of the enlarged canvas."""
    with open_database(workspace.folder) as database:
        (camera,) = database.read_all_cameras()
        images = database.read_all_images()
        px = {image.image_id: np.asarray(database.read_keypoints(image.image_id), float)[:, :2] for image in images}
    camera.params = _canvas_params(workspace, model, camera)
    views = {
        image.image_id: _View(image.name, model.poses[name], px[image.image_id], model.point_of_keypoint[name])
        for image in images
        if (name := image.name.removesuffix(".png")) in model.poses
    }
    reconstruction = _reconstruction(camera, views, model.points)
    _bundle_adjust(reconstruction, _Solver(_WIDE_LOSS_PX, _FUNCTION_TOLERANCE), refine_focal=False, refine_poses=False)
    _filter(reconstruction)
    return reconstruction


@dataclass(frozen=True)
class _View:
    """A posed picture: file name, pose, observed pixels (K, 2) and the index (K,) of the point that each shows, -1 for none."""

    file: str
    T_cam_obj: np.ndarray
    px: np.ndarray
    point: np.ndarray


def _reconstruction(camera: pycolmap.Camera, views: Mapping[int, _View], points: np.ndarray) -> pycolmap.Reconstruction:
    """COLMAP's reconstruction of views, by image id, and of those of the points (N, 3) that two of them show."""
    reconstruction = pycolmap.Reconstruction()
    reconstruction.add_camera_with_trivial_rig(camera)
    tracks: dict[int, pycolmap.Track] = {}
    for i, view in views.items():
        image = pycolmap.Image(name=view.file, camera_id=camera.camera_id, image_id=i)
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D(px) for px in view.px])
        reconstruction.add_image_with_trivial_frame(image, pycolmap.Rigid3d(view.T_cam_obj[:3]))
        seen = np.flatnonzero(view.point >= 0)
        for k, point in zip(seen.tolist(), view.point[seen].tolist(), strict=True):
            tracks.setdefault(point, pycolmap.Track()).add_element(i, k)
    for point, track in tracks.items():
        if track.length() >= 2:
            reconstruction.add_point3D(points[point], track)
    return reconstruction


def _bundle_adjust(
    reconstruction: pycolmap.Reconstruction,
    solver: _Solver,
    *,
    refine_focal: bool,
    refine_distortion: bool = False,
    refine_poses: bool = True,
) -> float:
    """Adjust all points, and what else is refined, in place under a Cauchy loss; returns the final cost."""
    options = pycolmap.BundleAdjustmentOptions()
    options.refine_rig_from_world = refine_poses
    options.refine_focal_length, options.refine_extra_params = refine_focal, refine_distortion
    options.refine_principal_point = False
    options.print_summary = False
    options.ceres.loss_function_type, options.ceres.loss_function_scale = pycolmap.LossFunctionType.CAUCHY, solver.loss_px
    options.ceres.solver_options.num_threads, options.ceres.solver_options.function_tolerance = 1, solver.tolerance
    options.ceres.max_num_images_direct_sparse_cpu_solver = _MAX_DIRECT_FRAMES
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in reconstruction.reg_image_ids():
        config.add_image(image_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    summary = pycolmap.create_default_bundle_adjuster(options, config, reconstruction).solve()
    return float(summary.ceres_summary.final_cost)  # type: ignore[attr-defined]


def _triangulate(workspace: Workspace, model: Model, poses: Mapping[str, np.ndarray]) -> pycolmap.Reconstruction:
    """Triangulate the database's matches under given poses and the model's camera, without silhouette observations."""
    folder = workspace.folder
    with open_database(folder) as database:
        (camera,) = database.read_all_cameras()
        images = database.read_all_images()
    camera.params = _canvas_params(workspace, model, camera)
    reconstruction = pycolmap.Reconstruction()
    reconstruction.add_camera_with_trivial_rig(camera)
    for image in images:
        name = image.name.removesuffix(".png")
        if name in poses:
            posed = pycolmap.Image(name=image.name, camera_id=camera.camera_id, image_id=image.image_id)
            reconstruction.add_image_with_trivial_frame(posed, pycolmap.Rigid3d(poses[name][:3]))
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads, options.random_seed = 1, model.number
    options.ba_global_max_refinements, options.ba_global_function_tolerance = 1, _FUNCTION_TOLERANCE
    options.extract_colors = False  # this reads every picture
    database_path, image_path = folder / "database.db", folder / "images"
    with tempfile.TemporaryDirectory(dir=folder) as output:
        triangulated = pycolmap.triangulate_points(reconstruction, database_path, image_path, output, options=options)
    _drop_silhouette_observations(workspace, triangulated)
    return triangulated


def _canvas_params(workspace: Workspace, model: Model, stored: pycolmap.Camera) -> list[float]:
    """The model's camera in pixels of the enlarged canvas, with the principal point of the database's."""
    return [model.focal_px * workspace.crop.upsample, *stored.params[1:3], *model.distortion]


def _filter(reconstruction: pycolmap.Reconstruction) -> None:
    """Drop outliers and points with tiny triangulation angles."""
    pycolmap.ObservationManager(reconstruction).filter_all_points3D(_MAX_ERROR_PX, _MIN_TRIANGULATION_DEG)
    reconstruction.update_point_3d_errors()


def _drop_silhouette_observations(workspace: Workspace, reconstruction: pycolmap.Reconstruction) -> None:
    """Delete observations near the border of each mask, which may be the silhouette of the object or of a hand."""
    in_band = _silhouette_keypoints(workspace)
    for image_id in reconstruction.reg_image_ids():
        image = reconstruction.image(image_id)
        observed = np.array(image.get_observation_point2D_idxs(), int)
        dropped = observed[in_band[image.name.removesuffix(".png")][observed]].tolist()
        if len(observed) - len(dropped) >= _MIN_INTERIOR_FEATURES:
            for i in dropped:
                # deleting an earlier observation may have deleted the whole point
                if image.point2D(i).has_point3D():
                    reconstruction.delete_observation(image_id, i)


def _silhouette_keypoints(workspace: Workspace) -> dict[str, np.ndarray]:
    """Frame name -> (K,) bool, keypoints near the border of the mask; found once a run and kept in the work folder."""
    stored = workspace.folder / SILHOUETTE_FILE
    if not stored.exists():
        found = {}
        for name, px in read_keypoints(workspace.folder, workspace.crop).items():
            mask = read_mask(workspace.folder, name)
            depth_px = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
            x, y = _window_pixels(workspace.crop, px, mask.shape)
            found[_KEY + name] = depth_px[y, x] < _SILHOUETTE_BAND * np.sqrt(np.count_nonzero(mask))
        np.savez(stored, **found)
    with np.load(stored, allow_pickle=False) as arrays:
        return {key.removeprefix(_KEY): arrays[key] for key in arrays.files}


def _window_pixels(crop: Crop, px: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(2, M) whole x and y in the enlarged window of `shape` (H, W), of pixels (M, 2) of the full image."""
    return np.round(crop.to_window(px)).astype(int).clip(0, np.array(shape[::-1]) - 1).T
