"""The rasteriser against closed forms and against a second one: where things are, how far, and who hides whom."""

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import trimesh

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import pinhole_K, project
from holdprep.geometry.normals import vertex_normals
from holdprep.synth.render import LIGHT, Mesh, Renderer
from holdprep.synth.textures import make_texture

WIDTH, HEIGHT = 320, 240
K = pinhole_K(300.0, WIDTH, HEIGHT) + np.array([[0, 0, 7.3], [0, 11.0, -4.6], [0, 0, 0]])


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    try:
        made = Renderer(WIDTH, HEIGHT, {"label": make_texture("label", 0)})
    except HoldprepError as error:
        pytest.skip(str(error))
    with made:
        yield made


def mesh(shape: trimesh.Trimesh, entity: int, grey: float = 0.5) -> Mesh:
    vertices = np.asarray(shape.vertices)
    return Mesh(vertices, np.asarray(shape.faces), entity, np.full(vertices.shape, grey), gloss=0.0)


def moved(shape: trimesh.Trimesh, *place_m: float) -> trimesh.Trimesh:
    return shape.apply_transform(trimesh.transformations.random_rotation_matrix(np.array([0.3, 0.6, 0.2]))).apply_translation(place_m)


def test_a_box_covers_the_pixels_that_its_corners_project_around(renderer: Renderer):
    box = moved(trimesh.creation.box((0.1, 0.06, 0.08)), 0.03, -0.02, 0.4)
    found = renderer.render(K, [mesh(box, 3)]).entity == 3
    hull = cv2.convexHull(project(np.asarray(box.vertices), K).astype(np.float32))
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    inside = np.array([cv2.pointPolygonTest(hull, (float(u), float(v)), True) for u, v in zip(x.ravel(), y.ravel(), strict=True)])
    distance = inside.reshape(HEIGHT, WIDTH)  # px to the outline, positive inside: pixel centres decide, not corners
    assert found[distance > 0.02].all()
    assert not found[distance < -0.02].any()


def test_depth_of_a_sphere_is_that_of_its_equation(renderer: Renderer):
    centre, radius = np.array([0.01, 0.02, 0.5]), 0.06
    sphere = trimesh.creation.icosphere(5, radius).apply_translation(centre)
    found = renderer.render(K, [mesh(sphere, 1)])
    v, u = np.nonzero(found.entity == 1)
    rays = np.stack([u, v, np.ones(len(u))], axis=1) @ np.linalg.inv(K).T
    a, b, c = (rays**2).sum(axis=1), rays @ centre, centre @ centre - radius**2
    root = b**2 - a * c
    clear = root > 1e-5  # away from the rim, where the polyhedron is visibly not a sphere
    depth = (b[clear] - np.sqrt(root[clear])) / a[clear]
    np.testing.assert_allclose(found.depth_m[v[clear], u[clear]], depth, atol=3e-4)
    assert np.isinf(found.depth_m[found.entity == 0]).all()


def test_the_nearer_one_hides_the_other_whatever_the_order(renderer: Renderer):
    near, far = moved(trimesh.creation.box((0.05,) * 3), 0.0, 0.0, 0.3), moved(trimesh.creation.box((0.12,) * 3), 0.02, 0.0, 0.5)
    one, other = renderer.render(K, [mesh(near, 1), mesh(far, 2)]), renderer.render(K, [mesh(far, 2), mesh(near, 1)])
    np.testing.assert_array_equal(one.entity, other.entity)
    alone = renderer.render(K, [mesh(near, 1)]).entity == 1
    np.testing.assert_array_equal(one.entity == 1, alone)
    assert (one.entity == 2).sum() > 500


def test_what_stands_between_an_object_and_the_light_darkens_it(renderer: Renderer):
    plate = trimesh.creation.box((0.3, 0.005, 0.3)).apply_translation([0, 0.08, 0.6])
    lid = trimesh.creation.box((0.06, 0.002, 0.06)).apply_translation([0, -0.08, 0.6])
    free = renderer.render(K, [mesh(plate, 1), mesh(trimesh.creation.box((0.001,) * 3).apply_translation([0, -0.08, 0.6]), 2)])
    shaded = renderer.render(K, [mesh(plate, 1), mesh(lid, 2)])
    on_plate = (free.entity == 1) & (shaded.entity == 1)
    left = shaded.image[on_plate][:, 1] / free.image[on_plate][:, 1]
    # the plate faces up: Lambert's cosine to the light, and the sky's share, which shade does not take
    sky, direct = 0.42 + 0.18, -LIGHT[1]
    assert left.min() == pytest.approx(sky / (sky + direct), abs=0.02)
    assert (np.abs(left - 1) < 0.01).mean() > 0.9
    soft = (left > 0.6) & (left < 0.9)
    assert 0.002 < soft.mean() < 0.05


def test_a_texture_lies_where_its_uv_says(renderer: Renderer):
    corners = np.array([[-0.05, -0.05, 0.4], [0.05, -0.05, 0.4], [0.05, 0.05, 0.4], [-0.05, 0.05, 0.4]])
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])
    square = Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]]), 1, np.ones((4, 3)), uv, "label", gloss=0.0)
    found = renderer.render(K, [square])
    texels = cv2.resize(make_texture("label", 0), (75, 75), interpolation=cv2.INTER_AREA).astype(float)
    low = np.ceil(project(corners[0], K)).astype(int)
    seen = 255 * found.image[low[1] : low[1] + 73, low[0] : low[0] + 73, :3] ** (1 / 2.2)
    same = np.corrcoef(seen.ravel(), cv2.resize(texels, (73, 73), interpolation=cv2.INTER_AREA).ravel())[0, 1]
    mirrored = np.corrcoef(seen.ravel(), cv2.resize(texels[:, ::-1], (73, 73), interpolation=cv2.INTER_AREA).ravel())[0, 1]
    assert same > 0.75 > 0.4 > mirrored


def test_edges_are_shared_between_what_they_part(renderer: Renderer):
    """The coverage of a half-plane's edge is its area within the pixel, in steps of the four samples."""
    corners = np.array([[-0.1, -0.1, 0.5], [0.013, -0.1, 0.5], [0.04, 0.1, 0.5], [-0.1, 0.1, 0.5]])
    found = renderer.render(K, [Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]]), 1, np.ones((4, 3)), gloss=0.0)])
    fine = cv2.fillConvexPoly(
        np.zeros((HEIGHT * 16, WIDTH * 16), np.uint8), np.round((project(corners, K) + 0.5) * 256).astype(int), 1, shift=4
    )
    area = cv2.resize(fine.astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    assert np.abs(found.image[..., 3] - area).max() < 0.3
    x, y = project(corners, K).T
    assert found.image[..., 3].sum() == pytest.approx(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2, rel=1e-3)


def test_a_sphere_is_lit_without_dark_rims(renderer: Renderer):
    """Towards the light the rim of a smooth body is as bright as its cosine says, although normals are interpolated past the outline."""
    centre = np.array([0.0, 0.0, 0.5])
    ball = trimesh.creation.icosphere(3, 0.06).apply_translation(centre)
    found = renderer.render(K, [mesh(ball, 1, grey=1.0)])
    rays = np.stack([*np.indices((HEIGHT, WIDTH))[::-1], np.ones((HEIGHT, WIDTH))], axis=-1) @ np.linalg.inv(K).T
    normals = (rays * np.where(found.entity == 1, found.depth_m, 0)[..., None] - centre) / 0.06
    bright = (normals @ LIGHT > 0.5) & (found.entity == 1)
    expected = normals @ LIGHT + 0.42 - 0.18 * normals[..., 1]
    seen = found.image[..., 1] / np.maximum(found.image[..., 3], 1e-3)
    ratio = (seen / np.maximum(expected, 1e-3))[bright]
    assert ratio.min() > 0.6 * np.median(ratio)


def test_two_renderers_do_not_disturb_each_other(renderer: Renderer):
    ball = trimesh.creation.icosphere(3, 0.05).apply_translation([0, 0, 0.4])
    before = renderer.render(K, [mesh(ball, 1)])
    with Renderer(64, 48) as other:
        other.render(pinhole_K(60.0, 64, 48), [mesh(ball, 1)])
        between = renderer.render(K, [mesh(ball, 1)])
    np.testing.assert_array_equal(before.image, between.image)
    np.testing.assert_array_equal(before.image, renderer.render(K, [mesh(ball, 1)]).image)


def test_large_pictures_agree_with_small_ones(renderer: Renderer):
    box = moved(trimesh.creation.box((0.1, 0.06, 0.08)), 0.03, -0.02, 0.4)
    small = renderer.render(K, [mesh(box, 1)])
    with Renderer(1920, 1080) as large:
        shift = np.array([[0, 0, 700.0], [0, 0, 400], [0, 0, 0]])
        found = large.render(K + shift, [mesh(box, 1)])
    assert found.image.shape == (1080, 1920, 4)
    inner = found.entity[400 : 400 + HEIGHT, 700 : 700 + WIDTH]
    assert (inner != small.entity).sum() <= 2
    assert (found.entity == 1).sum() == pytest.approx((small.entity == 1).sum(), abs=2)


def test_without_opengl_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch):
    moderngl = pytest.importorskip("moderngl")

    def fails(**_: object) -> None:
        raise Exception("eglInitialize\nfailed")

    monkeypatch.setattr(moderngl, "create_context", fails)
    with pytest.raises(HoldprepError, match=r"eglInitialize failed.*apt install libegl1 libgl1-mesa-dri") as error:
        Renderer(8, 8)
    assert "\n" not in str(error.value)


def test_normals_of_a_sphere_point_from_its_centre():
    sphere = trimesh.creation.icosphere(3)
    normals = vertex_normals(np.asarray(sphere.vertices), np.asarray(sphere.faces))
    np.testing.assert_allclose(normals, np.asarray(sphere.vertices), atol=0.012)
