"""Bundle adjustment of a whole model: loosely, as long as frames are still being found; then to the end, over patches placed exactly.

On a rendered can, SIFT's features bent the focal length by 1.7 %: those on its outline, which wanders over a round body as it turns,
and slightly wrong matches. Without the outline and under a narrow loss 0.4 % were left; over patches it is right within 0.1 %.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pycolmap

from holdprep.object.colmap import Crop, Features, Model, color_points, open_database, read_mask, read_model
from holdprep.object.evidence import camera_of
from holdprep.object.patches import Located, locate
from holdprep.object.views import to_matrix

_RIM = 0.04  # width of the band inside the mask's border whose features do not count, as a share of the root of its area
_RIM_LEAVES = 30  # features; a frame that would keep fewer keeps all
_FAR_OFF_PX = 4.0  # of the enlarged crop
_MIN_ANGLE_DEG = 1.5
_LOOSE_PX, _NARROW_PX = 1.0, 0.15  # widths of the robust loss: in pixels of the enlarged crop, of the full image
_DIRECT_FRAMES = 150  # of more frames a step is solved iteratively, which takes a third of the time and ends at the same cost
_SETTLED = 1e-6  # share of the cost below which a step changes nothing: ten times fewer leave the focal length within 0.001 %
# What a lens must save to be believed, in squared standard deviations. Chance saves one, but the sightings of a point err alike:
# without a lens a blurred box saved 10, sharp things 0; a box behind k = -0.1 saved 70, a real camera 700.
_LENS_SAVES = 40.0


def rebuild(folder: Path, crop: Crop, model: Model, poses: Mapping[str, np.ndarray], *, refine_focal: bool) -> Model:
    """The model made anew from given poses (frame name -> T_cam_obj): points triangulated afresh, then one loose adjustment of it all."""
    reconstruction = _triangulated(folder, crop, model, poses)
    _solve(reconstruction, _LOOSE_PX, refine_focal=refine_focal)
    return _finished(folder, crop, model.number, reconstruction)


def polish(
    names: Sequence[str],
    model: Model,
    features: Features,
    principal_px: tuple[float, float],
    folder: Path,
    crop: Crop,
    *,
    refine_focal: bool,
) -> Model:
    """Poses, focal length and lens to the end, over patches; then the cloud of SIFT's features anew under these poses."""
    exact = adjust(model, locate(names, model, features, principal_px, folder, crop), principal_px, refine_focal=refine_focal)
    return _finished(folder, crop, model.number, _triangulated(folder, crop, exact, exact.poses))


def adjust(model: Model, located: Mapping[str, Located], principal_px: tuple[float, float], *, refine_focal: bool) -> Model:
    """`model` with the poses and the camera under which its points project best onto the places where they were `located`.

    With `refine_focal` the focal length is free, and the lens, where sightings bear it out.
    """
    fitted, names = _from_places(model, located, principal_px)
    cost = _solve(fitted, _NARROW_PX, refine_focal=refine_focal)
    if refine_focal:
        lens = pycolmap.Reconstruction(fitted)
        saved = 1 - _solve(lens, _NARROW_PX, refine_focal=True, refine_lens=True) / cost
        if saved * 2 * sum(len(places.points) for places in located.values()) > _LENS_SAVES:
            fitted = lens
    (camera,) = fitted.cameras.values()
    poses = {name: to_matrix(fitted.image(i).cam_from_world()) for i, name in names.items()}
    return replace(model, focal_px=float(camera.params[0]), distortion=np.array(camera.params[3:], float), poses=poses)


def _from_places(
    model: Model, located: Mapping[str, Located], principal_px: tuple[float, float]
) -> tuple[pycolmap.Reconstruction, dict[int, str]]:
    """COLMAP's reconstruction of these sightings, in pixels of the full image that count from 0, and the frame of each of its images."""
    reconstruction, camera = pycolmap.Reconstruction(), camera_of(model, principal_px)
    camera.camera_id = 1
    reconstruction.add_camera_with_trivial_rig(camera)
    tracks: dict[int, pycolmap.Track] = {}
    names = dict(enumerate(located, start=1))
    for i, name in names.items():
        image = pycolmap.Image(name=name, camera_id=1, image_id=i)
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D(px) for px in located[name].px])
        reconstruction.add_image_with_trivial_frame(image, pycolmap.Rigid3d(model.poses[name][:3]))
        for k, point in enumerate(located[name].points.tolist()):
            tracks.setdefault(point, pycolmap.Track()).add_element(i, k)
    for point, track in tracks.items():
        if track.length() >= 2:
            reconstruction.add_point3D(model.points[point], track)
    return reconstruction, names


def _solve(reconstruction: pycolmap.Reconstruction, loss_px: float, *, refine_focal: bool, refine_lens: bool = False) -> float:
    """Adjust all of it in place under a Cauchy loss; returns what is left of the cost."""
    options = pycolmap.BundleAdjustmentOptions()
    options.refine_focal_length, options.refine_extra_params, options.refine_principal_point = refine_focal, refine_lens, False
    options.print_summary = False
    options.ceres.loss_function_type, options.ceres.loss_function_scale = pycolmap.LossFunctionType.CAUCHY, loss_px
    options.ceres.solver_options.num_threads, options.ceres.solver_options.function_tolerance = 1, _SETTLED
    options.ceres.max_num_images_direct_sparse_cpu_solver = _DIRECT_FRAMES
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in reconstruction.reg_image_ids():
        config.add_image(image_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    summary = pycolmap.create_default_bundle_adjuster(options, config, reconstruction).solve()
    return float(summary.ceres_summary.final_cost)  # type: ignore[attr-defined]


def _triangulated(folder: Path, crop: Crop, model: Model, poses: Mapping[str, np.ndarray]) -> pycolmap.Reconstruction:
    """The database's matches triangulated under given poses and the model's camera, without the masks' rims."""
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
    found = pycolmap.triangulate_points(reconstruction, folder / "database.db", folder / "images", output, options=options)
    _drop_rim(found, folder, crop)
    return found


def _finished(folder: Path, crop: Crop, number: int, reconstruction: pycolmap.Reconstruction) -> Model:
    """Written to sparse_rebuilt, without points seen under almost no angle, which run off to infinity or behind the camera."""
    pycolmap.ObservationManager(reconstruction).filter_all_points3D(_FAR_OFF_PX, _MIN_ANGLE_DEG)
    reconstruction.update_point_3d_errors()
    color_points(reconstruction, folder, crop)
    reconstruction.write(folder / "sparse_rebuilt")
    return read_model(reconstruction, crop, number, folder / "sparse_rebuilt")


def _drop_rim(reconstruction: pycolmap.Reconstruction, folder: Path, crop: Crop) -> None:
    """Take out the observations next to the border of each frame's mask, which may be the outline of the object or of a hand."""
    for image_id in reconstruction.reg_image_ids():
        image = reconstruction.image(image_id)
        mask = read_mask(folder, image.name.removesuffix(".png"))
        inside_px = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
        rim_px = _RIM * np.sqrt(np.count_nonzero(mask))
        seen = np.array([i for i, point in enumerate(image.points2D) if point.has_point3D()], int)
        px = np.array([image.points2D[i].xy for i in seen]).reshape(-1, 2)
        x, y = np.round(crop.to_window(crop.from_colmap(px))).astype(int).clip(0, np.array(mask.shape[::-1]) - 1).T
        rim = seen[inside_px[y, x] < rim_px].tolist()
        if len(seen) - len(rim) >= _RIM_LEAVES:
            for i in rim:
                # an earlier one may have taken its whole point along
                if image.points2D[i].has_point3D():
                    reconstruction.delete_observation(image_id, i)
