"""The mesh lies on the zero level, is closed, and its faces look outwards."""

import numpy as np
import pytest
import trimesh

from holdprep.geometry.isosurface import zero_level


@pytest.mark.parametrize("centre", [(0.0, 0.0, 0.0), (0.013, -0.02, 0.007)])
def test_a_sphere(centre: tuple[float, float, float]):
    radius, step, origin = 0.05, 0.004, np.array([-0.09, -0.1, -0.08])
    grid = origin + step * np.stack(np.meshgrid(*(np.arange(46),) * 3, indexing="ij"), axis=-1)
    vertices, faces = zero_level(np.linalg.norm(grid - np.array(centre), axis=-1) - radius, origin, step)
    assert np.abs(np.linalg.norm(vertices - np.array(centre), axis=1) - radius).max() < 0.02 * radius
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.02)  # positive: outward faces


def test_a_box_with_three_different_sides():
    half, step, origin = np.array([0.02, 0.03, 0.05]), 0.003, np.full(3, -0.08)
    grid = origin + step * np.stack(np.meshgrid(*(np.arange(55),) * 3, indexing="ij"), axis=-1)
    vertices, faces = zero_level((np.abs(grid) - half).max(axis=-1), origin, step)
    np.testing.assert_allclose(np.ptp(vertices, axis=0), 2 * half, atol=step)
    assert trimesh.Trimesh(vertices, faces, process=False).volume == pytest.approx(8 * half.prod(), rel=0.1)
