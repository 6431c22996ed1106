"""Clicks are read exactly, mistakes in them are named."""

from pathlib import Path

import numpy as np
import pytest

from holdprep.errors import HoldprepError
from holdprep.segmenters.prompts import read_prompts


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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("frames: {}", ["frames"]),
        ("frames: {'0001': {objct: {box: [0, 0, 1, 1]}}}", ["frame 0001", "objct", "'object'"]),
        ("frames: {'0001': {object: {polygn: []}}}", ["frame 0001, object", "'polygn'", "'polygon'"]),
        ("frames: {'0001': {object: {polygon: [[1, 2], [3, 4]]}}}", ["3 points"]),
        ("frames: {'0001': {object: {polygon: [[1, a], [3, 4], [5, 6]]}}}", ["polygon must be numbers"]),
        ("frames: {'0001': {object: {box: [5, 0, 1, 1]}}}", ["x1 < x2"]),
        ("frames: {'0001': {object: {negative: [[1, 1]]}}}", ["negative clicks alone"]),
        ("frames: [", ["cannot be read"]),
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
    with pytest.raises(HoldprepError, match="outside the picture of 640 x 480") as error:
        read_prompts(path, (640, 480))
    assert point in str(error.value)


def test_an_outline_may_pass_the_border_a_little(tmp_path: Path):
    path = tmp_path / "prompts.yaml"
    path.write_text("frames:\n  '0000': {object: {polygon: [[600, 10], [645, 20], [630, 90]]}}\n")
    assert read_prompts(path, (640, 480))["0000"]["object"].polygons[0][1, 0] == 645
