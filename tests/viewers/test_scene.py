"""Long sequences are sampled, and say so; results are chosen by name."""

import numpy as np
import pytest

from holdprep.errors import HoldprepError
from holdprep.viewers import colors
from tests.viewers.scenes import small_scene


def test_3000_frames_are_sampled_and_the_scene_says_so():
    scene = small_scene(3000, results=("ho",))
    short = scene.sampled(300, also=[1234, 77])
    assert len(short.names) <= 300 and short.total == 3000
    assert {0, 77, 1234, 2999} <= set(short.frames.tolist())
    assert any("of 3000 frames are shown" in note for note in short.notes)
    at = short.frames.tolist().index(1234)
    assert short.names[at] == "1234"
    np.testing.assert_array_equal(short.images[at], scene.images[1234])
    np.testing.assert_array_equal(short.results[0].hands[0].vertices_m[at], scene.results[0].hands[0].vertices_m[1234])
    np.testing.assert_array_equal(short.results[0].obj.T_cam_obj[at], scene.results[0].obj.T_cam_obj[1234])
    assert len(short.masks["right"]) == len(short.names)


def test_a_short_scene_is_whole():
    scene = small_scene(20)
    assert scene.sampled(20) is scene


def test_results_are_chosen_by_name():
    scene = small_scene(3, results=("slerp", "h", "ho"))
    scene.require(["ho", "slerp"])
    with pytest.raises(HoldprepError, match="has no result truth; it has slerp, h, ho"):
        scene.require(["truth"])


def test_colours_follow_error_confidence_and_distance():
    scene = small_scene(5, results=("ho",))
    (hand,) = scene.results[0].hands
    low, high = (colors.frame_color(hand, "error", t, [hand]) for t in (0, 4))
    assert low[2] > low[0] and high[0] > high[2]  # blue, red
    sure, unsure = (colors.frame_color(hand, "confidence", t, [hand]) for t in (0, 4))
    assert sure[2] > sure[0] and unsure[0] > unsure[2]
    assert colors.frame_color(hand, "plain", 0, [hand]) is None
    each = colors.vertex_colors(hand, 0)
    assert each.shape == (778, 3) and (each[:, 2] >= each[:, 0]).all()  # 1 mm away: towards blue
