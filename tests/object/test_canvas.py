"""Objects anywhere in the image: the crop window may exclude the principal point, COLMAP's camera must contain it."""

from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest

from holdprep.geometry.rigid import from_rt
from holdprep.object import colmap, sift
from holdprep.object.colmap import Crop, Model, color_points
from tests.object.clouds import Cloud, PinholeCamera, cloud, map_cloud, rotation_errors_deg

LEFT, MIDDLE, RIGHT = 90.0, 319.5, 549.0
TOP, CENTER, BOTTOM = 90.0, 239.5, 389.0
PLACES = {
    "middle": (MIDDLE, CENTER),
    "left": (LEFT, CENTER),
    "right": (RIGHT, CENTER),
    "top": (MIDDLE, TOP),
    "bottom": (MIDDLE, BOTTOM),
    "top left": (LEFT, TOP),
    "top right": (RIGHT, TOP),
    "bottom left": (LEFT, BOTTOM),
    "bottom right": (RIGHT, BOTTOM),
}


def mapped(folder: Path, scene: Cloud, upsample: float, *, refine_focal: bool) -> tuple[Model, pycolmap.Camera]:
    """The largest model of one mapping, and the camera in the database."""
    models, _ = map_cloud(folder, scene, upsample, refine_focal=refine_focal)
    with colmap.open_database(folder) as database:
        (camera,) = database.read_all_cameras()
    return models[0], camera


@pytest.mark.parametrize("place", PLACES)
def test_an_object_registers_anywhere_in_the_image(place: str, tmp_path: Path) -> None:
    scene = cloud(PLACES[place])
    model, camera = mapped(tmp_path, scene, 2.0, refine_focal=True)
    assert sorted(model.poses) == scene.names
    assert rotation_errors_deg(model.poses, scene).max() < 0.5
    assert abs(model.focal_px / 600 - 1) < 0.02
    assert 0 < camera.principal_point_x < camera.width and 0 < camera.principal_point_y < camera.height
    assert (camera.width, camera.height) == (1280, 960)  # the enlarged full image, whose pixels are not stored
    assert cv2.imread(str(tmp_path / "images" / "00.png")).shape[1] < 400


@pytest.mark.parametrize("principal_px", [(-250.0, 239.5), (319.5, 700.0), (760.0, -80.0)])
def test_a_given_principal_point_may_lie_outside_the_image(principal_px: tuple[float, float], tmp_path: Path) -> None:
    """Images cropped from larger ones."""
    scene = cloud((MIDDLE, CENTER), camera=PinholeCamera(principal_px=principal_px))
    model, camera = mapped(tmp_path, scene, 1.5, refine_focal=False)
    assert sorted(model.poses) == scene.names
    assert rotation_errors_deg(model.poses, scene).max() < 0.5
    assert 0 < camera.principal_point_x < camera.width and 0 < camera.principal_point_y < camera.height


def test_a_small_object_in_a_large_image_registers(tmp_path: Path) -> None:
    """The focal length is 15 times the longer side of the crop window."""
    scene = cloud((1700.0, 200.0), camera=PinholeCamera((1920, 1080), 1900.0), radius_px=45.0, noise_px=0.02)
    model, _ = mapped(tmp_path, scene, 2.0, refine_focal=False)
    assert sorted(model.poses) == scene.names
    assert rotation_errors_deg(model.poses, scene).max() < 1.0


@pytest.mark.parametrize("principal_px", [(40.0, 30.0), (-300.4, 20.0), (500.0, 900.5)])
def test_coordinates_of_image_window_and_canvas(principal_px: tuple[float, float]) -> None:
    mask = np.zeros((60, 80), bool)
    mask[20:40, 55:75] = True
    crop = Crop.around([mask], 2.5, principal_px)
    px = np.random.default_rng(0).uniform(0, 60, (50, 2))
    assert crop.from_colmap(crop.to_colmap(px)) == pytest.approx(px)
    assert crop.from_window(crop.to_window(px)) == pytest.approx(px)
    for corner in (principal_px, (0, 0), (79, 59)):
        assert (crop.to_colmap(np.array(corner)) > 0).all() and (crop.to_colmap(np.array(corner)) < crop.canvas_size).all()
    assert crop.to_window(np.array([crop.x0, crop.y0])) == pytest.approx([0.75, 0.75])  # the centre of 2.5 enlarged pixels


def test_sift_keypoints_are_in_full_image_pixels(tmp_path: Path) -> None:
    """One blob far from the corner of the window, on a canvas that starts at negative pixels."""
    y, x = np.mgrid[:120, :160]
    image = np.clip(40 + 200 * np.exp(-((x - 131.3) ** 2 + (y - 84.6) ** 2) / 2 / 3.0**2), 0, 255).astype(np.uint8)
    mask = np.hypot(x - 131, y - 85) < 20
    crop = Crop.around([mask], 2.0, (-50.0, -20.0))
    colmap.write_crops(tmp_path, crop, [np.repeat(image[..., None], 3, axis=2)] * 2, [mask] * 2, ["a", "b"])
    sift.extract_sift(tmp_path, crop, np.array([[200.0, 0, -50], [0, 200, -20], [0, 0, 1]]), 100, 0.0045, 1)
    found = colmap.read_features(tmp_path, crop).keypoints_px["a"]
    assert np.linalg.norm(found - (131.3, 84.6), axis=1).min() < 0.15
    with colmap.open_database(tmp_path) as database:
        (camera,) = database.read_all_cameras()
    assert (camera.width, camera.height) == crop.canvas_size
    assert [camera.principal_point_x, camera.principal_point_y] == pytest.approx(crop.to_colmap(np.array([-50.0, -20.0])))


@pytest.mark.parametrize("principal_px", [(79.5, 59.5), (-50.0, -20.0)])
def test_points_have_the_mean_colour_of_their_observations(principal_px: tuple[float, float], tmp_path: Path) -> None:
    """Linear colour gradients over the window, darker in the second frame; far from the origin of the canvas."""
    y, x = np.mgrid[:120, :160]
    bgr = np.stack([2 * (x - 90), 2 * (y - 40), 3 * (x - 90) - (y - 40) + 30], axis=2)
    mask = np.hypot(x - 120, y - 70) < 20
    crop, names = Crop.around([mask], 2.0, principal_px), ["a", "b"]
    colmap.write_crops(tmp_path, crop, [bgr.clip(0, 255).astype(np.uint8), (bgr // 2).clip(0, 255).astype(np.uint8)], [mask] * 2, names)
    px = np.random.default_rng(0).uniform((108, 58), (132, 82), (2, 30, 2))  # of point i in both frames
    reconstruction = pycolmap.Reconstruction()
    camera = pycolmap.Camera(model="SIMPLE_RADIAL", width=1, height=1, params=[200.0, 0.0, 0.0, 0.0], camera_id=1)
    reconstruction.add_camera_with_trivial_rig(camera)
    for i, name in enumerate(names):
        image = pycolmap.Image(name=f"{name}.png", camera_id=1, image_id=i + 1)
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D(at) for at in crop.to_colmap(px[i])])
        reconstruction.add_image_with_trivial_frame(image, pycolmap.Rigid3d(from_rt(np.eye(3), np.zeros(3))[:3]))
    for i in range(30):
        track = pycolmap.Track()
        for image_id in (1, 2) if i < 20 else (2,):
            track.add_element(image_id, i)
        reconstruction.add_point3D([0.0, 0.0, 1.0], track)
    color_points(reconstruction, tmp_path, crop)
    at = px - (90, 40)
    rgb = np.stack([3 * at[..., 0] - at[..., 1] + 30, 2 * at[..., 1], 2 * at[..., 0]], axis=2) * [[[1.0]], [[0.5]]]
    expected = np.concatenate([rgb[:, :20].mean(axis=0), rgb[1, 20:]])
    found = np.array([reconstruction.points3D[i].color for i in sorted(reconstruction.points3D)], float)
    assert found == pytest.approx(expected, abs=1.5)
