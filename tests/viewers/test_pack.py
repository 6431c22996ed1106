"""What the page reads is what the scene holds: positions, poses, pictures, and text that stays text."""

import base64
import json
import zlib

import cv2
import numpy as np
import pytest

from holdprep.viewers.pack import FINEST_M, as_script, packed
from tests.viewers.scenes import SIZE, small_scene

TYPES = {"u8": np.uint8, "i8": np.int8, "u16": np.uint16, "u32": np.uint32, "f32": np.float32}


def array(pack: dict, number: int) -> np.ndarray:
    """An array of the pack, read as page/scene.js does."""
    entry, data = pack["arrays"][number], zlib.decompress(base64.b64decode(pack["block"]))[pack["arrays"][number]["at"] :]
    count = int(np.prod(entry["shape"]))
    if entry["kind"] != "d16":
        return np.frombuffer(data, TYPES[entry["kind"]], count).reshape(entry["shape"])
    low, high = (np.frombuffer(data, np.uint8, count, count * i).astype(np.uint16) for i in (0, 1))
    steps = np.cumsum((low | high << 8).reshape(len_of(entry), -1), axis=0, dtype=np.uint16).reshape(entry["shape"])
    return np.where(steps == 65535, np.nan, entry["low"] + entry["step"] * steps)


def len_of(entry: dict) -> int:
    return int(entry["shape"][0])


def test_positions_come_back_within_half_a_step_and_missing_hands_stay_missing():
    scene = small_scene(7, lost=(2, 3))
    pack = packed(scene, 1e6)
    hand = pack["results"][1]["hands"][0]
    seen = array(pack, hand["vertices"])
    np.testing.assert_allclose(seen, scene.results[1].hands[0].vertices_m, atol=0.51 * FINEST_M)
    assert np.isnan(seen[[2, 3]]).all() and np.isfinite(seen[[0, 1, 4, 5, 6]]).all()
    np.testing.assert_array_equal(array(pack, hand["valid"]), [1, 1, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(array(pack, hand["distance"]) * pack["arrays"][hand["distance"]]["step"], 0.001, atol=1e-4)
    obj = pack["results"][1]["obj"]
    np.testing.assert_allclose(array(pack, obj["poses"]).reshape(7, 3, 4), scene.results[1].obj.T_cam_obj[:, :3], atol=1e-6)
    np.testing.assert_array_equal(array(pack, obj["surface"]["observed"]), scene.results[1].obj.surface.observed)


def test_equal_arrays_are_stored_once():
    one, two = (packed(small_scene(5, results=results), 1e6) for results in (("slerp",), ("slerp", "h", "init")))
    assert len(two["arrays"]) == len(one["arrays"])


def test_pictures_and_masks_are_those_of_the_frames():
    scene = small_scene(4)
    pack = packed(scene, 1e6)
    ends, block = pack["pictures"]["ends"], base64.b64decode(pack["pictures"]["block"])
    for t in range(4):
        picture = cv2.imdecode(np.frombuffer(block[ends[t] : ends[t + 1]], np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape == (SIZE[1], SIZE[0], 3)
        blurred = [cv2.blur(p, (8, 8)).astype(float) for p in (picture, scene.images[t])]
        assert np.abs(blurred[0] - blurred[1]).mean() < 6
    ends, block = pack["masks"]["ends"], base64.b64decode(pack["masks"]["block"])
    mask = cv2.imdecode(np.frombuffer(block[: ends[1]], np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask[..., 3] > 0, scene.masks["right"][0])


def test_pictures_keep_to_their_budget():
    scene = small_scene(8)
    big = [cv2.resize(image, (960, 720), interpolation=cv2.INTER_NEAREST) for image in scene.images]
    object.__setattr__(scene, "images", big)
    sizes = [packed(scene, budget)["pictures"]["ends"][-1] for budget in (4e5, 1e7)]
    assert sizes[0] <= 4.5e5 < sizes[1] <= 1.1e7


@pytest.mark.parametrize("name", ["</script><script>alert(1)</script>", "<!--<script>", "a\u2028b", '"\\'])
def test_json_in_a_script_stays_inside(name: str):
    text = as_script({"seq": name})
    assert "<" not in text and "\u2028" not in text
    assert json.loads(text)["seq"] == name
