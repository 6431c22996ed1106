"""Distances and volumes of shapes whose answer is plain geometry."""

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from holdprep.quality.surface import Lattice, Surface, cloud_errors_mm, size_error_pct

RNG = np.random.default_rng(0)
BOX = trimesh.creation.box((0.06, 0.08, 0.10))


def test_cloud_against_a_face():
    # a square of 100 mm at z = 0; the cloud: its left half, 3 mm above
    square = Surface.of(np.array([[0, 0, 0], [0.1, 0, 0], [0.1, 0.1, 0], [0, 0.1, 0]]), np.array([[0, 1, 2], [0, 2, 3]]))
    x, y = np.meshgrid(np.arange(0, 0.05, 0.0005), np.arange(0, 0.1, 0.0005))
    cloud = np.stack([x, y, np.full_like(x, 0.003)], axis=-1).reshape(-1, 3)
    found = cloud_errors_mm(cloud, square)
    assert found["accuracy_mm"] == pytest.approx(3.0, abs=1e-6)
    assert found["precision_5mm_pct"] == 100.0
    # within 5 mm of the cloud: the left half and sqrt(25 - 9) = 4 mm more, 54 of 100 mm; F = 2 x 1 x 0.54 / 1.54
    assert found["recall_5mm_pct"] == pytest.approx(54.0, abs=1.0)
    assert found["fscore_5mm_pct"] == pytest.approx(100 * 2 * 0.54 / 1.54, abs=1.0)
    # sqrt(100 - 9) = 9.54 mm
    assert found["recall_10mm_pct"] == pytest.approx(59.5, abs=1.0)
    # left half: 3 mm; right half: mean over d in 0..50 of sqrt(9 + d^2)
    d = np.linspace(0, 50, 5001)
    complete = 0.5 * 3 + 0.5 * np.sqrt(9 + d**2).mean()
    assert found["completeness_mm"] == pytest.approx(complete, abs=0.3)
    assert found["chamfer_mm"] == pytest.approx((3 + complete) / 2, abs=0.2)


def test_signed_distance_from_a_box():
    surface = Surface.of(np.array(BOX.vertices), np.array(BOX.faces))
    # half edges 30, 40, 50 mm: 5 mm above the x face, 10 mm below it, the centre (30 mm deep), and off an edge by a 3-4-5 triangle
    points = 0.001 * np.array([[35, 0, 0], [20, 0, 0], [0, 0, 0], [33, 44, 0]])
    assert 1000 * surface.signed_distance(points) == pytest.approx([5.0, -10.0, -30.0, 5.0], abs=0.15)


def test_no_point_beside_an_edge_is_taken_for_inside():
    surface = Surface.of(np.array(BOX.vertices), np.array(BOX.faces))
    above = RNG.uniform([-0.03, -0.04, 0.052], [0.03, 0.04, 0.09], (5000, 3))
    above[:, 0] = 0.0299  # over the very border of the top face: the nearest sample is often on the side face
    assert (surface.signed_distance(above) > 0).all()


@pytest.mark.parametrize("factor", [0.95, 1.0, 1.03])
def test_a_cloud_of_the_wrong_size_is_told_wherever_it_lies(factor: float):
    """Turned by 2 degrees, moved by 3 mm, with 0.5 mm of noise and a tenth of it strewn about."""
    surface = Surface.of(np.array(BOX.vertices), np.array(BOX.faces))
    cloud = trimesh.sample.sample_surface(BOX, 2000, seed=1)[0] + 5e-4 * RNG.normal(size=(2000, 3))
    cloud[:200] += 0.01 * RNG.normal(size=(200, 3))
    placed = factor * cloud @ Rotation.from_euler("x", 2, degrees=True).as_matrix() + [0.002, 0.002, -0.001]
    assert size_error_pct(placed, surface) == pytest.approx(100 * (factor - 1), abs=0.15)


def test_a_face_alone_tells_no_size():
    surface = Surface.of(np.array(BOX.vertices), np.array(BOX.faces))
    face = np.column_stack([RNG.uniform(-0.02, 0.02, (500, 2)), np.full(500, 0.05)]) + 5e-4 * RNG.normal(size=(500, 3))
    assert size_error_pct(face, surface) is None


def test_volume_of_boxes_that_overlap():
    fixed = trimesh.creation.box((0.06, 0.08, 0.10))
    moved = fixed.copy()
    moved.apply_translation([0.05, 0.06, 0.0])  # overlap 10 x 20 x 100 mm = 20 cm3
    lattice = Lattice.around(np.array(fixed.vertices))
    inside = lattice.inside(np.array(fixed.vertices), np.array(fixed.faces))
    assert 1e6 * lattice.volume_m3(inside) == pytest.approx(480.0, rel=1e-6)
    both = inside & lattice.inside(np.array(moved.vertices), np.array(moved.faces))
    assert 1e6 * lattice.volume_m3(both) == pytest.approx(20.0, rel=1e-6)


@pytest.mark.parametrize("flip", [False, True])
def test_a_mesh_with_a_hole_is_closed(flip: bool):
    ball = trimesh.creation.icosphere(4, 0.05)
    faces = np.array(ball.faces)[ball.triangles_center[:, 2] < 0.045]  # a lid is cut off
    lattice = Lattice.around(np.array(ball.vertices), 0.001)
    filled = lattice.inside(np.array(ball.vertices), faces[:, ::-1] if flip else faces)
    cap = np.pi * 0.005**2 * (3 * 0.05 - 0.005) / 3  # of height 5 mm
    assert lattice.volume_m3(filled) == pytest.approx(4 / 3 * np.pi * 0.05**3 - cap, rel=0.01)
