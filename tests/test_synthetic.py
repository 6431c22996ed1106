"""The rendered sequences that other tests trust: their truth must be consistent with their pictures."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial import cKDTree

from holdprep.geometry import rigid
from holdprep.geometry.cameras import project
from holdprep.hand.trackers import trackfile
from tests.synthetic import SyntheticSequence, make_sequence, write_tracker_files

FRAMES = 4


@pytest.fixture(scope="module", params=[("right",), ("left",), ("right", "left")], ids="-".join)
def seq(request: pytest.FixtureRequest) -> SyntheticSequence:
    return make_sequence(request.param, frames=FRAMES)


def _inside(mask: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    u, v = np.round(pixels).astype(int).T
    return mask[v, u]


def test_masks_are_visible_disjoint_and_textured(seq: SyntheticSequence):
    assert set(seq.masks) == {*seq.params, "object"}
    stack = np.stack(list(seq.masks.values()))
    assert stack.shape[1:] == (FRAMES, 384, 512)
    assert stack.sum(axis=0).max() == 1
    assert stack.sum(axis=(2, 3)).min() > 2000


def test_hands_project_into_what_is_hand_or_hidden_by_something(seq: SyntheticSequence):
    anything = np.any(list(seq.masks.values()), axis=0).astype(np.uint8)
    for side, vertices in seq.vertices_m.items():
        hits = []
        for t, shape in enumerate(vertices):
            pixels = project(shape, seq.K)
            assert _inside(cv2.dilate(anything[t], np.ones((5, 5))) > 0, pixels).all()
            hits.append(_inside(seq.masks[side][t], pixels).mean())
            u, v = pixels.min(axis=0), pixels.max(axis=0)
            rows, columns = np.nonzero(seq.masks[side][t])
            assert u[0] - 1 <= columns.min() and columns.max() <= v[0] + 1 and u[1] - 1 <= rows.min() and rows.max() <= v[1] + 1
        assert np.mean(hits) > 0.4


def test_object_points_lie_on_the_box_and_project_into_the_picture(seq: SyntheticSequence):
    on_face = np.isclose(np.abs(seq.points_obj_m), seq.box_size_m / 2)
    assert (on_face.sum(axis=1) >= 1).all() and (np.abs(seq.points_obj_m) <= seq.box_size_m / 2 + 1e-9).all()
    anything = np.any(list(seq.masks.values()), axis=0).astype(np.uint8)
    for t, T in enumerate(seq.T_cam_obj):
        pixels = project(rigid.apply(T, seq.points_obj_m), seq.K)
        assert _inside(cv2.dilate(anything[t], np.ones((5, 5))) > 0, pixels).all()


def test_hands_hold_the_box_rigidly_and_touch_it(seq: SyntheticSequence):
    for side, vertices in seq.vertices_m.items():
        in_object = rigid.apply(rigid.invert(seq.T_cam_obj), vertices)
        np.testing.assert_allclose(in_object, np.broadcast_to(in_object[0], in_object.shape), atol=1e-7)
        gap = cKDTree(in_object[0]).query(seq.points_obj_m)[0].min()
        assert gap < 0.008, side


def test_two_hands_are_mirror_images():
    seq = make_sequence(("right", "left"), frames=2)
    right, left = (rigid.apply(rigid.invert(seq.T_cam_obj[:1]), seq.vertices_m[s][:1])[0] for s in ("right", "left"))
    np.testing.assert_allclose(left, right * [1, -1, 1], atol=1e-7)


def test_the_seed_decides():
    a, b, c = (make_sequence(frames=1, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(a.images[0], b.images[0])
    assert not np.array_equal(a.images[0], c.images[0])


def test_tracker_files_are_read_by_the_adapter(tmp_path: Path):
    seq = make_sequence(("right",), frames=FRAMES)
    write_tracker_files(seq, tmp_path / "clip", lost={"right": [1]})
    track = trackfile.read(tmp_path / "clip" / "processed", seq.names)
    assert set(track.vertices_m) == {"right"}
    found = np.isfinite(track.vertices_m["right"]).all(axis=(1, 2))
    assert found.tolist() == [True, False, True, True]
    np.testing.assert_allclose(track.j2d_px["right"][found], seq.j2d_px["right"][found], atol=1e-3)
    size = np.ptp(track.vertices_m["right"][found] - seq.vertices_m["right"][found], axis=1)
    assert size.max() < 1e-4, "the hand keeps its size"
    shown = project(track.vertices_m["right"][found], track.K)
    assert np.abs(shown - project(seq.vertices_m["right"], seq.K)[found]).max() < 25
    files = sorted((tmp_path / "clip/processed/sam/object/images_masks").glob("*.png"))
    masks = [cv2.imread(str(f), cv2.IMREAD_GRAYSCALE) > 0 for f in files]
    np.testing.assert_array_equal(masks, seq.masks["object"])
    assert [f.stem for f in sorted((tmp_path / "clip/images").iterdir())] == seq.names
