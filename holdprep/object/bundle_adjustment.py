"""Bundle adjustment: with a wide robust loss while frames are being added, finally with a narrow one over patches.

On a rendered can, SIFT features gave a focal length 1.7 % off, because of slightly wrong matches and of features on the
silhouette, which is not fixed on the surface of a rotating round body. Without the silhouette and under a narrow loss the
error was 0.4 %, over patches below 0.1 %.
"""

from collections.abc import Mapping
from dataclasses import replace

import cv2
import numpy as np
import pycolmap

from holdprep.object.colmap import Crop, Features, Model, color_points, open_database, read_mask, read_model
from holdprep.object.patch_tracking import PatchObservations, track_patches
from holdprep.object.single_view import to_matrix
from holdprep.object.workspace import Workspace

# Width of the band along the mask border in which observations are dropped, relative to the square root of the mask area.
_SILHOUETTE_BAND = 0.04
_MIN_INTERIOR_FEATURES = 30  # a frame with fewer inside the band keeps all its features
_MAX_ERROR_PX = 4.0  # of the enlarged crop
_MIN_TRIANGULATION_DEG = 1.5
_WIDE_LOSS_PX = 1.0  # scale of the Cauchy loss in pixels of the enlarged crop
_NARROW_LOSS_PX = 0.15  # the same in pixels of the full image
_MAX_DIRECT_FRAMES = 150  # above, the iterative solver takes a third of the time and reaches the same cost
_FUNCTION_TOLERANCE = 1e-6  # relative; 1e-7 changes the focal length by less than 0.001 %
# Cost reduction, in squared standard deviations, above which a radial distortion is accepted. One is expected by chance, but
# the errors of a point are correlated between frames: without distortion a blurred box gained 10, sharp objects 0; with
# k = -0.1 a box gained 70, a real camera 700.
_MIN_DISTORTION_GAIN = 40.0


def retriangulate(workspace: Workspace, model: Model, poses: Mapping[str, np.ndarray]) -> Model:
    """Triangulate all points again under given poses (frame name -> T_cam_obj), then bundle-adjust with the wide loss."""
    reconstruction = _triangulate(workspace, model, poses)
    _bundle_adjust(reconstruction, _WIDE_LOSS_PX, refine_focal=workspace.refine_focal)
    return _filter_and_store(workspace, model.number, reconstruction)


def refine_over_patches(workspace: Workspace, model: Model, features: Features) -> Model:
    """Final poses, focal length and distortion from tracked patches, and the SIFT cloud triangulated under them."""
    observations = track_patches(workspace, model, features)
    refined = adjust_to_patches(model, observations, workspace.principal_px, refine_focal=workspace.refine_focal)
    return _filter_and_store(workspace, model.number, _triangulate(workspace, refined, refined.poses))


def adjust_to_patches(
    model: Model,
    observations: Mapping[str, PatchObservations],
    principal_px: tuple[float, float],
    *,
    refine_focal: bool,
) -> Model:
    """`model` with poses and camera bundle-adjusted to patch observations (by frame name).

    With `refine_focal` the focal length is refined, and so is the radial distortion if it lowers the cost enough.
    """
    fitted, names = _from_observations(model, observations, principal_px)
    cost = _bundle_adjust(fitted, _NARROW_LOSS_PX, refine_focal=refine_focal)
    if refine_focal:
        distorted = pycolmap.Reconstruction(fitted)
        gain = 1 - _bundle_adjust(distorted, _NARROW_LOSS_PX, refine_focal=True, refine_distortion=True) / cost
        if gain * 2 * sum(len(each.points) for each in observations.values()) > _MIN_DISTORTION_GAIN:
            fitted = distorted
    (camera,) = fitted.cameras.values()
    poses = {name: to_matrix(fitted.image(i).cam_from_world()) for i, name in names.items()}
    return replace(model, focal_px=float(camera.params[0]), distortion=np.array(camera.params[3:], float), poses=poses)


def _from_observations(
    model: Model, observations: Mapping[str, PatchObservations], principal_px: tuple[float, float]
) -> tuple[pycolmap.Reconstruction, dict[int, str]]:
    """COLMAP reconstruction of these observations in pixels of the full image, and image id -> frame name."""
    reconstruction, camera = pycolmap.Reconstruction(), model.camera(principal_px)
    camera.camera_id = 1
    reconstruction.add_camera_with_trivial_rig(camera)
    tracks: dict[int, pycolmap.Track] = {}
    names = dict(enumerate(observations, start=1))
    for i, name in names.items():
        image = pycolmap.Image(name=name, camera_id=1, image_id=i)
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D(px) for px in observations[name].px])
        reconstruction.add_image_with_trivial_frame(image, pycolmap.Rigid3d(model.poses[name][:3]))
        for k, point in enumerate(observations[name].points.tolist()):
            tracks.setdefault(point, pycolmap.Track()).add_element(i, k)
    for point, track in tracks.items():
        if track.length() >= 2:
            reconstruction.add_point3D(model.points[point], track)
    return reconstruction, names


def _bundle_adjust(
    reconstruction: pycolmap.Reconstruction, loss_px: float, *, refine_focal: bool, refine_distortion: bool = False
) -> float:
    """Adjust the whole reconstruction in place under a Cauchy loss; returns the final cost."""
    options = pycolmap.BundleAdjustmentOptions()
    options.refine_focal_length, options.refine_extra_params = refine_focal, refine_distortion
    options.refine_principal_point = False
    options.print_summary = False
    options.ceres.loss_function_type, options.ceres.loss_function_scale = pycolmap.LossFunctionType.CAUCHY, loss_px
    options.ceres.solver_options.num_threads, options.ceres.solver_options.function_tolerance = 1, _FUNCTION_TOLERANCE
    options.ceres.max_num_images_direct_sparse_cpu_solver = _MAX_DIRECT_FRAMES
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in reconstruction.reg_image_ids():
        config.add_image(image_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    summary = pycolmap.create_default_bundle_adjuster(options, config, reconstruction).solve()
    return float(summary.ceres_summary.final_cost)  # type: ignore[attr-defined]


def _triangulate(workspace: Workspace, model: Model, poses: Mapping[str, np.ndarray]) -> pycolmap.Reconstruction:
    """Triangulate the database's matches under given poses and the model's camera, without silhouette observations."""
    folder, crop = workspace.folder, workspace.crop
    with open_database(folder) as database:
        (camera,) = database.read_all_cameras()
        images = database.read_all_images()
    camera.params = [model.focal_px * crop.upsample, *camera.params[1:3], *model.distortion]
    reconstruction = pycolmap.Reconstruction()
    reconstruction.add_camera_with_trivial_rig(camera)
    for image in images:
        name = image.name.removesuffix(".png")
        if name in poses:
            posed = pycolmap.Image(name=image.name, camera_id=camera.camera_id, image_id=image.image_id)
            reconstruction.add_image_with_trivial_frame(posed, pycolmap.Rigid3d(poses[name][:3]))
    output = folder / "sparse_rebuilt"
    output.mkdir(exist_ok=True)
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads, options.random_seed = 1, model.number
    database_path, image_path = folder / "database.db", folder / "images"
    triangulated = pycolmap.triangulate_points(reconstruction, database_path, image_path, output, options=options)
    _drop_silhouette_observations(workspace, triangulated)
    return triangulated


def _filter_and_store(workspace: Workspace, number: int, reconstruction: pycolmap.Reconstruction) -> Model:
    """Drop outliers and points with tiny triangulation angles, color the rest and write it to sparse_rebuilt."""
    pycolmap.ObservationManager(reconstruction).filter_all_points3D(_MAX_ERROR_PX, _MIN_TRIANGULATION_DEG)
    reconstruction.update_point_3d_errors()
    color_points(reconstruction, workspace.folder, workspace.crop)
    reconstruction.write(workspace.folder / "sparse_rebuilt")
    return read_model(reconstruction, workspace.crop, number, workspace.folder / "sparse_rebuilt")


def _drop_silhouette_observations(workspace: Workspace, reconstruction: pycolmap.Reconstruction) -> None:
    """Delete observations near the border of each mask, which may be the silhouette of the object or of a hand."""
    for image_id in reconstruction.reg_image_ids():
        image = reconstruction.image(image_id)
        mask = read_mask(workspace.folder, image.name.removesuffix(".png"))
        depth_px = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
        band_px = _SILHOUETTE_BAND * np.sqrt(np.count_nonzero(mask))
        observed = np.array([i for i, point in enumerate(image.points2D) if point.has_point3D()], int)
        px = np.array([image.points2D[i].xy for i in observed]).reshape(-1, 2)
        x, y = _window_pixels(workspace.crop, px, mask.shape)
        in_band = observed[depth_px[y, x] < band_px].tolist()
        if len(observed) - len(in_band) >= _MIN_INTERIOR_FEATURES:
            for i in in_band:
                # deleting an earlier observation may have deleted the whole point
                if image.points2D[i].has_point3D():
                    reconstruction.delete_observation(image_id, i)


def _window_pixels(crop: Crop, colmap_px: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(2, M) whole x and y in the enlarged window of `shape` (H, W), of COLMAP's pixels (M, 2)."""
    return np.round(crop.to_window(crop.from_colmap(colmap_px))).astype(int).clip(0, np.array(shape[::-1]) - 1).T
