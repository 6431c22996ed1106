"""What is drawn is where it should be."""

import numpy as np

from holdprep.geometry.cameras import pinhole_K
from holdprep.viz import overlay

BLACK = np.zeros((100, 100, 3), np.uint8)
K = pinhole_K(100.0, 100, 100)


def test_a_mesh_covers_its_projection_and_nearer_faces_hide_farther_ones():
    far = np.array([[-0.3, -0.3, 1.0], [0.3, -0.3, 1.0], [0.0, 0.3, 1.0]])
    near = 0.5 * far * [0.5, 0.5, 1.0]
    once = overlay.draw_mesh(BLACK, far, np.array([[0, 1, 2]]), K, (200, 200, 200), alpha=1.0)
    inside = once.any(axis=2)
    assert inside[30, 50] and not inside[85, 50] and not inside[60, 25]
    both = overlay.draw_mesh(BLACK, np.vstack([near, far]), np.array([[0, 1, 2], [3, 4, 5]]), K, (200, 200, 200), alpha=1.0)
    swapped = overlay.draw_mesh(BLACK, np.vstack([near, far]), np.array([[3, 4, 5], [0, 1, 2]]), K, (200, 200, 200), alpha=1.0)
    np.testing.assert_array_equal(both, swapped)
    assert not BLACK.any()


def test_a_mesh_that_leaves_the_picture_is_cut_at_its_edge():
    triangle = np.array([[-0.3, -0.3, 1.0], [0.3, -0.3, 1.0], [0.0, 0.3, 1.0]])
    whole, faces = np.zeros((300, 300, 3), np.uint8), np.array([[0, 1, 2]])
    inside = overlay.draw_mesh(whole, triangle, faces, pinhole_K(100.0, 300, 300), (200, 100, 50))
    for x, y in ((0.45, 0.0), (-0.4, 0.5), (0.0, -0.6)):
        moved = overlay.draw_mesh(BLACK, triangle + np.array([x, y, 0]), faces, K, (200, 100, 50))
        shifted = np.roll(inside, (round(100 * y), round(100 * x)), axis=(0, 1))[100:200, 100:200]
        assert (moved != shifted).any(axis=2).sum() <= 0.05 * shifted.any(axis=2).sum()  # a slanted edge that is cut turns by a trace
    assert not overlay.draw_mesh(BLACK, triangle + np.array([5, 0, 0]), faces, K, (200, 100, 50)).any()


def test_missing_hands_draw_nothing():
    assert not overlay.draw_mesh(BLACK, np.full((3, 3), np.nan), np.array([[0, 1, 2]]), K, (9, 9, 9)).any()
    assert not overlay.draw_skeleton(BLACK, np.full((21, 2), np.nan)).any()


def test_skeleton_joins_the_right_joints():
    j2d = np.full((21, 2), np.nan)
    j2d[0], j2d[13] = [10, 50], [90, 50]  # wrist and the thumb's first joint
    assert overlay.draw_skeleton(BLACK, j2d)[50, 50].any()
    j2d[13] = np.nan
    j2d[14] = [90, 50]  # the second hangs on the first, not on the wrist
    assert not overlay.draw_skeleton(BLACK, j2d)[50, 50].any()


def test_points_masks_axes_and_sheets():
    dots = overlay.draw_points(BLACK, np.array([[20.0, 30.0], [np.nan, 1]]), (0, 0, 255))
    assert dots[30, 20].tolist() == [0, 0, 255]
    mask = np.zeros((100, 100), bool)
    mask[40:60, 40:60] = True
    tinted = overlay.draw_masks(BLACK, {"object": mask})
    assert tinted[50, 50].any() and not tinted[10, 10].any()
    T = np.eye(4)
    T[2, 3] = 1
    axes = overlay.draw_axes(BLACK, K, T, 0.3)
    assert axes[50, 65, 2] > 100 and axes[65, 50, 1] > 100  # x to the right in red, y down in green
    sheet = overlay.contact_sheet([BLACK] * 5, list("abcde"), columns=2, width=50)
    assert sheet.shape == (150, 100, 3)


def test_what_was_not_measured_is_pale_and_the_picture_says_so():
    faces, K = np.array([[0, 1, 2]]), np.array([[100.0, 0, 100], [0, 100, 100], [0, 0, 1]])
    vertices = np.array([[-0.5, 0, 1], [0.5, 0, 1], [0, 0.5, 1]])
    black, point = np.zeros((200, 200, 3), np.uint8), np.array([[20.0, 180.0]])
    seen, hand, both = (
        overlay.draw_scene(black, point, {"right": (vertices, faces)}, K, unmeasured)
        for unmeasured in ((), ("right",), ("right", "object"))
    )
    assert 0 < hand[110, 100].max() < 0.5 * seen[110, 100].max()
    assert 0 < both[180, 20].max() < 0.5 * seen[180, 20].max()
    assert (hand[180, 20] == seen[180, 20]).all()
    assert not seen[:40].any()
    assert 0 < hand[:40].any(axis=2).sum() < both[:40].any(axis=2).sum()  # the line of text, which is longer for both


def test_the_outline_of_a_label_is_around_its_letters():
    grey = np.full((60, 640, 3), 120, np.uint8)
    labelled = overlay.contact_sheet([grey], ["right hand infilled, object's pose not measured"], columns=1, width=640)
    level = labelled.mean(axis=2)
    ends = [np.flatnonzero(shown.any(axis=0))[[0, -1]] for shown in (level < 60, level > 200)]
    assert np.abs(ends[0] - ends[1]).max() <= 4
    assert ends[1][1] - ends[1][0] > 200
