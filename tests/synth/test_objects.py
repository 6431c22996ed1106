"""Objects are closed, have real sizes, and their signed distances are those of their meshes."""

import numpy as np
import pytest
import torch
import trimesh

from holdprep.errors import HoldprepError
from holdprep.quality.surface import Surface
from holdprep.synth.objects import OBJECTS, SHAPES, make_object
from holdprep.synth.textures import KINDS


def closed(name: str) -> trimesh.Trimesh:
    """The mesh with the vertices of its seams put together."""
    obj = make_object(name)
    mesh = trimesh.Trimesh(np.round(obj.vertices_m, 9), obj.faces)
    mesh.merge_vertices()
    return mesh


@pytest.mark.parametrize("name", OBJECTS)
def test_meshes_are_closed_outward_and_have_a_print(name: str):
    obj, mesh = make_object(name), closed(name)
    assert mesh.is_watertight
    assert mesh.volume > 5e-5
    assert obj.uv.shape == (len(obj.vertices_m), 2)
    assert obj.uv.min() >= 0
    assert obj.uv.max() <= 1
    assert obj.texture in KINDS


@pytest.mark.parametrize(
    ("name", "extents_mm", "volume_ml"),
    [
        ("can", (66, 115, 66), np.pi * 3.3**2 * 11.5),
        ("box", (60, 90, 40), 216),
        ("bottle", (65, 200, 65), None),
        ("case", (60, 46, 28), None),
        ("mug", (109.5, 95, 80), None),
    ],
)
def test_sizes(name: str, extents_mm: tuple[float, ...], volume_ml: float | None):
    mesh = closed(name)
    np.testing.assert_allclose(1000 * mesh.extents, extents_mm, atol=0.2)
    if volume_ml is not None:
        assert 1e6 * mesh.volume == pytest.approx(volume_ml, rel=2e-3)  # a polygon is a little less than a circle


@pytest.mark.parametrize("name", SHAPES)
def test_signed_distance_is_that_of_the_mesh(name: str):
    obj, mesh = make_object(name), closed(name)
    points = np.random.default_rng(0).uniform(-0.08, 0.08, (500, 3))
    found = obj.signed_distance(torch.from_numpy(points)).numpy()
    expected = Surface.of(np.asarray(mesh.vertices), np.asarray(mesh.faces)).signed_distance(points)
    np.testing.assert_allclose(found[found > 0], expected[found > 0], atol=5e-4)
    assert (np.sign(found) == np.sign(expected))[np.abs(found) > 5e-4].all()
    assert (found < 0).sum() > 3


@pytest.mark.parametrize("name", SHAPES)
def test_the_gradient_points_away_from_the_surface(name: str):
    points = torch.from_numpy(np.random.default_rng(1).uniform(-0.12, 0.12, (200, 3))).requires_grad_()
    distance = make_object(name).signed_distance(points)
    (gradient,) = torch.autograd.grad(distance.sum(), points)
    outside = distance > 1e-3
    np.testing.assert_allclose(gradient[outside].norm(dim=1).numpy(), 1.0, atol=1e-3)


def test_a_name_that_is_none_is_refused():
    with pytest.raises(HoldprepError, match="no synthetic object 'teapot'"):
        make_object("teapot")
