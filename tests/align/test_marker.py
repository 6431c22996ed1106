"""The scale from a printed marker on the object, in rendered pictures."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from holdprep.align.marker import Seen, find_markers, marks_of
from holdprep.align.marks import scale_by_marks
from holdprep.align.problem import Problem
from holdprep.align.surface import Surface
from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from tests.synthetic import box_sequence, textured_box

EDGE_M, TEXELS, FRAMES, UNIT_M = 0.09, 512, 24, 0.05
NAMES = [f"{t:04d}" for t in range(FRAMES)]
# of a marker that lies still in the camera's frame: beside the object, or in the picture's corner
SQUARE_M = 0.04 * np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
TABLE_M, CORNER_M = (SQUARE_M + np.array(at) for at in ((0.06, 0.0, 0.45), (-0.19, -0.14, 0.45)))


def printed(number, side=300, dictionary="DICT_4X4_50"):
    """A marker of `side` texels on white, mirrored as the textures of `render_box` are."""
    picture = np.full((TEXELS, TEXELS, 3), 255, np.uint8)
    first = (TEXELS - side) // 2
    marker = cv2.aruco.generateImageMarker(cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, dictionary)), number, side)
    picture[first : first + side, first : first + side] = marker[..., None]
    return np.ascontiguousarray(picture[:, ::-1])


def side_mm(side=300):
    return 1e3 * EDGE_M * side / TEXELS


def film(textures):
    """Pictures, masks, and the problem of a box with these textures in turn on its faces."""
    faces = [textures[k % len(textures)] for k in range(6)]
    images, masks, K, T = box_sequence(FRAMES, size=(EDGE_M,) * 3, textures=faces)
    T = T.copy()
    T[:, :3, 3] /= UNIT_M
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.5, 0.5, (600, 3)) * EDGE_M
    points[np.arange(600), rng.integers(0, 3, 600)] = EDGE_M / 2 * rng.choice([-1, 1], 600)
    points /= UNIT_M
    problem = Problem(torch.tensor(K), (480, 360), {}, torch.tensor(points), torch.tensor(T), torch.ones(FRAMES))
    return images, masks, problem, Surface.of(points, points)


@pytest.fixture(scope="module")
def plain():
    """A textured box without a marker."""
    return film(textured_box(0, TEXELS))


def with_table(images, K, corners_m, masks=()):
    """The pictures with a marker that lies still in the camera's frame, behind the object's masks."""
    marker = np.pad(printed(9)[:, ::-1][106:406, 106:406], ((40, 40), (40, 40), (0, 0)), constant_values=255)
    H = cv2.getPerspectiveTransform(np.float32([[40, 40], [340, 40], [340, 340], [40, 340]]), np.float32(project(corners_m, K)))
    found = []
    for t, image in enumerate(images):
        drawn = image.copy()
        cv2.warpPerspective(marker, H, image.shape[1::-1], dst=drawn, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_TRANSPARENT)
        found.append(np.where(masks[t][..., None], image, drawn) if len(masks) else drawn)
    return found


@pytest.mark.parametrize(("side", "dictionary"), [(300, "DICT_4X4_50"), (300, "DICT_APRILTAG_36h11"), (170, "DICT_4X4_50")])
def test_the_scale_of_a_marker_on_the_object(side, dictionary):
    images, masks, problem, surface = film([printed(k, side, dictionary) for k in range(6)])
    marks = marks_of(find_markers(images, masks, dictionary), problem, side_mm(side), NAMES)
    found = scale_by_marks(marks, problem, surface)
    assert found.scale == pytest.approx(UNIT_M, rel=0.01)
    assert abs(np.log(found.scale / UNIT_M)) < 2 * found.stderr_ratio
    assert 0.005 < found.stderr_ratio < 0.03
    assert found.figures["residual_px"] < 0.5
    assert found.figures["frames"] > 15


def test_a_marker_on_the_table_does_not_count(plain):
    """With another one on the object, the scale is that of the object's; alone it is refused."""
    images, masks, problem, surface = film([printed(k) for k in range(6)])
    K = problem.K.numpy()
    both = find_markers(with_table(images, K, TABLE_M, masks), masks, "DICT_4X4_50")
    assert len(both[9].frame) > 5
    assert scale_by_marks(marks_of(both, problem, side_mm(), NAMES), problem, surface).scale == pytest.approx(UNIT_M, rel=0.01)
    images, masks, problem, _ = plain
    alone = find_markers(with_table(images, K, TABLE_M, masks), masks, "DICT_4X4_50")
    with pytest.raises(HoldprepError, match=r"marker 9 does not move with the object: in \d+ of \d+ frames its corners are more than"):
        marks_of({9: alone[9]}, problem, 40.0, NAMES)


def test_a_marker_far_from_the_object_is_named_as_such(plain):
    images, masks, problem, _ = plain
    with pytest.raises(HoldprepError, match=r"\d+ of 24 frames show a marker of DICT_4X4_50, but none on the object's mask"):
        find_markers(with_table(images, problem.K.numpy(), CORNER_M), masks, "DICT_4X4_50")


def test_pictures_without_a_marker_are_refused(plain):
    images, masks, _, _ = plain
    with pytest.raises(HoldprepError, match=r"no marker of DICT_4X4_50 in any of 24 frames: check object\.marker"):
        find_markers(images, masks, "DICT_4X4_50")


@pytest.fixture(scope="module")
def marked():
    """One marker on all faces of the box's one side, and what is found of it."""
    images, masks, problem, surface = film([printed(k) for k in range(6)])
    found = find_markers(images, masks, "DICT_4X4_50")
    number = max(found, key=lambda n: len(found[n].frame))
    return {number: found[number]}, problem, surface


def test_too_few_frames_are_refused(marked):
    found, problem, _ = marked
    weight = problem.obj_weight.clone()
    weight[next(iter(found.values())).frame[4:]] = 0
    with pytest.raises(HoldprepError, match=r"marker \d is seen in 4 frames with an object pose .at least 5"):
        marks_of(found, replace(problem, obj_weight=weight), side_mm(), NAMES)


def test_a_marker_on_the_table_beside_an_object_that_hardly_moves_is_refused(plain):
    """In three of four frames the object is at rest, so that the marker lies still about it."""
    problem = plain[2]
    T = problem.T_cam_obj.clone()
    T[6:] = T[6]
    px = project(TABLE_M, problem.K.numpy())
    table = {9: Seen(np.arange(FRAMES), np.tile(px, (FRAMES, 1, 1)))}
    with pytest.raises(HoldprepError, match=r"marker 9 (is seen over \d deg|does not move)"):
        marks_of(table, replace(problem, T_cam_obj=T), 40.0, NAMES)


def test_an_object_that_does_not_rotate_is_refused(marked):
    found, problem, _ = marked
    still = {n: replace(seen, px=np.repeat(seen.px[:1], len(seen.px), axis=0)) for n, seen in found.items()}
    at_rest = replace(problem, T_cam_obj=problem.T_cam_obj[:1].repeat(FRAMES, 1, 1))
    with pytest.raises(HoldprepError, match=r"marker \d is seen over 0 deg of the object's rotation"):
        marks_of(still, at_rest, side_mm(), NAMES)


def test_an_oblong_pattern_is_refused(marked):
    """The poses and the picture are stretched by a third: consistent, but no square."""
    found, problem, _ = marked
    K = problem.K.clone()
    squeezed = {n: replace(seen, px=seen.px * [1.0, 0.75]) for n, seen in found.items()}
    K[1] *= 0.75
    stretch = torch.diag(torch.tensor([1.0, 1.5, 1.0, 1.0], dtype=torch.float64))
    with pytest.raises(HoldprepError, match=r"marker \d is no square: its sides differ by \d+ %"):
        marks_of(squeezed, replace(problem, K=K, T_cam_obj=problem.T_cam_obj @ stretch), side_mm(), NAMES)


def test_frames_with_a_wrong_pose_are_left_out(marked):
    found, problem, surface = marked
    (seen,) = found.values()
    T = problem.T_cam_obj.clone()
    T[seen.frame[3:5], :3, 3] *= 1.2
    marks = marks_of(found, replace(problem, T_cam_obj=T), side_mm(), NAMES)
    assert set(seen.frame) - set(marks.frame) == set(seen.frame[3:5])
    assert scale_by_marks(marks, problem, surface).scale == pytest.approx(UNIT_M, rel=0.01)
