"""Clicks are read exactly, mistakes in them are named."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from holdprep.errors import HoldprepError
from holdprep.segmenters.prompts import EntityPrompt, anchors, read_prompts, write_prompts


def write(path: Path, text: str) -> Path:
    (path / "prompts.yaml").write_text(text)
    return path / "prompts.yaml"


def test_coordinates_scale_with_the_pictures(tmp_path: Path):
    path = write(
        tmp_path,
        """
image_size: [640, 480]
frames:
  "0012":
    object: {polygon: [[10, 20], [30, 20], [30, 40]], negative: [[1, 2]]}
    right: absent
  "0015":
    left: {box: [10, 10, 20, 30], positive: [[15, 15]]}
""",
    )
    prompts = read_prompts(path, image_size=(1280, 960))
    assert list(prompts) == ["0012", "0015"]
    np.testing.assert_array_equal(prompts["0012"]["object"].polygons[0], [[20, 40], [60, 40], [60, 80]])
    np.testing.assert_array_equal(prompts["0012"]["object"].negative, [[2, 4]])
    assert prompts["0012"]["right"].absent
    assert prompts["0015"]["left"].box == (20, 20, 40, 60)


def test_frame_names_are_text_even_unquoted(tmp_path: Path):
    """YAML 1.1 reads 0012 as ten and 0089 as text."""
    box = "{object: {box: [1, 1, 5, 5]}}"
    found = read_prompts(write(tmp_path, f"frames:\n  0012: {box}\n  0210: {box}\n  0089: {box}\n  IMG_1: {box}\n"))
    assert list(found) == ["0012", "0210", "0089", "IMG_1"]


def test_pictures_of_other_proportions_are_refused(tmp_path: Path):
    path = write(tmp_path, 'image_size: [480, 640]\nframes: {"0000": {object: {box: [1, 1, 5, 5]}}}')
    with pytest.raises(HoldprepError, match="proportions"):
        read_prompts(path, (640, 480))


def test_text_of_another_encoding_is_named(tmp_path: Path):
    (tmp_path / "prompts.yaml").write_bytes('frames: {"é": {}}'.encode("latin-1"))
    with pytest.raises(HoldprepError, match="UTF-8"):
        read_prompts(tmp_path / "prompts.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("frames: {a: {object: {box: [1, 1, 5, 5]}}, a: {left: absent}}", ["line 1: the key 'a' twice"]),
        ("image_sise: [6, 4]\nframes: {a: {object: {box: [1, 1, 5, 5]}}}", ["'image_sise' is unknown", "'image_size'"]),
        ("frames: {a: {object: {polygons: 5}}}", ["polygons is a list"]),
        ("frames: {a: {object: {polygons: null}}}", ["polygons is a list"]),
        ("frames: {}", ["frames"]),
        ("frames: {'0001': {objct: {box: [0, 0, 1, 1]}}}", ["frame 0001", "objct", "'object'"]),
        ("frames: {'0001': {object: {polygn: []}}}", ["frame 0001, object", "'polygn'", "'polygon'"]),
        ("frames: {'0001': {object: {polygon: [[1, 2], [3, 4]]}}}", ["3 points"]),
        ("frames: {'0001': {object: {polygon: [[1, a], [3, 4], [5, 6]]}}}", ["polygon must be numbers"]),
        ("frames: {'0001': {object: {box: [5, 0, 1, 1]}}}", ["x1 < x2"]),
        ("frames: {'0001': {object: {negative: [[1, 1]]}}}", ["negative clicks alone"]),
        ("frames: [", ["is not YAML"]),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path: Path, text: str, words: list[str]):
    with pytest.raises(HoldprepError) as error:
        read_prompts(write(tmp_path, text))
    assert "\n" not in str(error.value)
    assert all(w in str(error.value) for w in [*words, "prompts.yaml"]), str(error.value)


@pytest.mark.parametrize(
    ("prompt", "point"),
    [
        ("box: [1, 2, 3000, 40]", "(3000, 40)"),
        ("positive: [[700, 40]]", "(700, 40)"),
        ("polygon: [[10, 10], [-60, 20], [30, 90]]", "(-60, 20)"),
    ],
)
def test_what_lies_outside_the_picture_is_refused(tmp_path: Path, prompt: str, point: str):
    path = tmp_path / "prompts.yaml"
    path.write_text(f"frames:\n  '0000': {{object: {{{prompt}}}}}\n")
    with pytest.raises(HoldprepError, match="outside the image of 640 x 480") as error:
        read_prompts(path, (640, 480))
    assert point in str(error.value)


def test_an_outline_may_pass_the_border_a_little(tmp_path: Path):
    path = tmp_path / "prompts.yaml"
    path.write_text("frames:\n  '0000': {object: {polygon: [[600, 10], [645, 20], [630, 90]]}}\n")
    assert read_prompts(path, (640, 480))["0000"]["object"].polygons[0][1, 0] == 645


def test_what_is_written_is_read_again(tmp_path: Path):
    outline = np.array([[1.0, 2.0], [30.5, 4.0], [9.0, 20.0]])
    prompts = {
        "0010": {"object": EntityPrompt(polygons=(outline,)), "left": EntityPrompt(absent=True)},
        "0002": {"object": EntityPrompt(box=(3.0, 4.0, 50.0, 60.0), positive=np.array([[10.04, 20.06]]), negative=np.array([[1.0, 2.0]]))},
        "0020": {"object": EntityPrompt(negative=np.array([[5.0, 6.0]]))},
        "0030": {},
    }
    write_prompts(tmp_path / "prompts.yaml", prompts, (64, 70))
    found = read_prompts(tmp_path / "prompts.yaml", (64, 70))
    assert list(found) == ["0002", "0010", "0020"]
    assert found["0010"]["left"].absent and found["0002"]["object"].box == (3, 4, 50, 60)
    np.testing.assert_array_equal(found["0010"]["object"].polygons[0], outline)
    np.testing.assert_allclose(found["0002"]["object"].positive, [[10.0, 20.1]])
    np.testing.assert_array_equal(found["0020"]["object"].negative, [[5, 6]])


def test_anchors_are_outlines_or_else_the_most_clicked_frame():
    box, clicks = EntityPrompt(box=(0, 0, 1, 1)), EntityPrompt(positive=np.zeros((1, 2)))
    two, beside, absent = EntityPrompt(positive=np.zeros((2, 2))), EntityPrompt(negative=np.zeros((1, 2))), EntityPrompt(absent=True)
    assert anchors({0: {"object": clicks}, 5: {"object": box}, 9: {"object": absent}}, "object") == [5, 9]
    assert anchors({0: {"object": clicks}, 5: {"object": two}, 6: {"object": two}, 7: {"object": beside}}, "object") == [5]
    assert anchors({0: {"object": clicks}, 9: {"object": absent}}, "object") == [0, 9]
    assert anchors({0: {"object": clicks}}, "right") == []


def test_a_mask_file_is_read_as_its_outlines(tmp_path: Path):
    mask = np.zeros((48, 64), np.uint8)
    cv2.ellipse(mask, (20, 20), (12, 7), 30, 0, 360, 1, -1)
    cv2.rectangle(mask, (45, 30), (60, 40), 250, -1)
    cv2.imwrite(str(tmp_path / "object.png"), mask)
    path = write(tmp_path, "frames:\n  0003: {object: {mask: object.png, negative: [[1, 1]]}}")
    polygons = read_prompts(path, (64, 48))["0003"]["object"].polygons
    filled = cv2.fillPoly(np.zeros_like(mask), [np.round(p).astype(np.int32) for p in polygons], 1)
    np.testing.assert_array_equal(filled > 0, mask > 0)
    assert max(p[:, 0].max() for p in read_prompts(path, (128, 96))["0003"]["object"].polygons) == 120
    for size, told in (((64, 40), "proportions"), ((64, 48), "is empty")):
        with pytest.raises(HoldprepError, match=told):
            read_prompts(path, size)
        cv2.imwrite(str(tmp_path / "object.png"), 0 * mask)
    (tmp_path / "object.png").unlink()
    with pytest.raises(HoldprepError, match="is not a mask image"):
        read_prompts(path, (64, 48))
