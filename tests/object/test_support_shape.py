"""Support functions against closed forms and differences, support lines against a drawn mask, and the visual hull of posed silhouettes."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from holdprep.object.support_lines import DIRECTIONS, support_lines
from holdprep.object.support_shape import SupportShape, sphere_points
from holdprep.object.visual_hull import silhouette_iou, visual_hull
from tests.object.held import K, held

NORMALS = torch.as_tensor(sphere_points(40))


def shape(size: tuple[float, float, float], exponents: tuple[float, float]) -> SupportShape:
    unit = SupportShape.ball(1.0, np.eye(3), exponents)
    return unit.moved(torch.cat([torch.tensor(size).log(), torch.zeros(8)]).double())


@pytest.mark.parametrize(
    ("exponents", "expected"),
    [
        ((-12.0, -12.0), lambda n: 3 * n[:, 0].abs() + 2 * n[:, 1].abs() + n[:, 2].abs()),
        ((-12.0, 0.5413), lambda n: ((3 * n[:, 0]) ** 2 + (2 * n[:, 1]) ** 2).sqrt() + n[:, 2].abs()),
        ((0.5413, 0.5413), lambda n: ((3 * n[:, 0]) ** 2 + (2 * n[:, 1]) ** 2 + n[:, 2] ** 2).sqrt()),
    ],
    ids=["box", "cylinder", "ellipsoid"],
)
def test_superellipsoids_are_boxes_cylinders_and_ellipsoids(exponents, expected):
    assert shape((3.0, 2.0, 1.0), exponents).value(NORMALS).numpy() == pytest.approx(expected(NORMALS).numpy(), abs=3e-3)


def test_derivatives_are_those_of_differences():
    generator = torch.Generator().manual_seed(0)
    some = SupportShape.ball(0.03, Rotation.random(random_state=0).as_matrix(), (-1.0, 0.5)).deviating()
    some = some.moved(
        torch.cat([0.1 * torch.randn(8, generator=generator), 0.002 * torch.randn(some.size - 8, generator=generator)]).double()
    )
    steps = 1e-6 * torch.eye(some.size).double()
    slopes = torch.stack([(some.moved(step).value(NORMALS) - some.moved(-step).value(NORMALS)) / 2e-6 for step in steps], dim=-1)
    found = some.at(NORMALS)
    assert float((found.jacobian - slopes).abs().max()) < 1e-8
    assert found.value.numpy() == pytest.approx(some.value(NORMALS).numpy(), abs=1e-12)
    turn = 1e-6 * torch.linalg.cross(torch.randn(40, 3, generator=generator).double(), NORMALS)
    change = some.value(NORMALS + turn) - some.value(NORMALS - turn)
    assert change.numpy() == pytest.approx(2 * (turn * found.point).sum(dim=1).numpy(), abs=1e-13)


def test_lines_beside_a_hand_are_bounds():
    mask, hand = np.zeros((100, 120), bool), np.zeros((100, 120), bool)
    mask[30:71, 40:61] = True
    hand[25:60, 61:80] = True
    lines = support_lines([mask], [hand], margin_px=2)
    right, down, left = (int(np.argmax(DIRECTIONS @ direction)) for direction in ((1, 0), (0, 1), (-1, 0)))
    assert lines.object_px[0, [right, down, left]] == pytest.approx([60.5, 70.5, -39.5])
    assert lines.limit_px[0, [right, down, left]] == pytest.approx([79.5, 70.5, -39.5])
    assert lines.is_exact[0, [right, down, left]].tolist() == [False, True, True]


def test_the_hull_of_a_mug_has_its_handle_without_filling_the_gap():
    scene = held("mug", frames=30)
    seen = list(zip(scene.masks, scene.hands, strict=True))
    convex = shape((0.085, 0.06, 0.06), (-12.0, -12.0))
    hull = visual_hull(convex, seen[1::2], scene.T_cam_obj[1::2], K)
    iou = [silhouette_iou(hull.silhouette(T, K, (640, 480)), *own) for T, own in zip(scene.T_cam_obj[::2], seen[::2], strict=True)]
    assert np.median(iou) > 0.96
    assert min(iou) > 0.9
    assert len(hull.points(500)) <= 500
