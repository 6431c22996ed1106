"""Masks of other tools are matched by name, and what does not fit is named."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from holdprep.errors import HoldprepError
from holdprep.segmenters.coco import decode_rle
from holdprep.segmenters.foreign import read_masks

SIZE = (12, 16)


def write(folder: Path, names: list[str], size: tuple[int, int] = SIZE) -> None:
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        mask = np.zeros(size, np.uint8)
        mask[i, 0] = 1
        cv2.imwrite(str(folder / name), mask)


def rows(masks: np.ndarray) -> list[int]:
    return [int(np.argwhere(m)[0, 0]) for m in masks]


def test_names_decide_not_order(tmp_path: Path):
    write(tmp_path / "m", ["00010.png", "00002.png", "00001.png"])
    masks, notes = read_masks(tmp_path / "m", ["0001", "0002", "0010"], SIZE)
    assert rows(masks) == [2, 1, 0]
    assert notes == []


def test_renumbered_masks_are_taken_in_order_and_said(tmp_path: Path):
    write(tmp_path / "m", [f"{i:05d}.png" for i in range(3)])
    masks, notes = read_masks(tmp_path / "m", ["0000", "0002", "0004"], SIZE)
    assert rows(masks) == [0, 1, 2]
    assert "have other numbers" in notes[0]


def test_what_does_not_fit_is_named(tmp_path: Path):
    write(tmp_path / "m", ["0000.png", "0005.png"])
    with pytest.raises(HoldprepError, match=r"1 of 3 frames have no mask \(0009\)"):
        read_masks(tmp_path / "m", ["0000", "0005", "0009"], SIZE)
    with pytest.raises(HoldprepError, match="16 x 12 pixels, images/ are 16 x 30"):
        read_masks(tmp_path / "m", ["0000", "0005"], (30, 16))
    (tmp_path / "m" / "0000.png").write_bytes(b"broken")
    with pytest.raises(HoldprepError, match=r"0000\.png is not a readable image"):
        read_masks(tmp_path / "m", ["0000", "0005"], SIZE)
    with pytest.raises(HoldprepError, match="none does not exist"):
        read_masks(tmp_path / "none", ["0000"], SIZE)


def test_masks_of_another_size_are_refused(tmp_path: Path):
    write(tmp_path / "m", ["0000.png"], (24, 32))
    with pytest.raises(HoldprepError, match="is 32 x 24 pixels, images/ are 16 x 12"):
        read_masks(tmp_path / "m", ["0000"], SIZE)


def test_many_gaps_are_told_by_name(tmp_path: Path):
    write(tmp_path / "m", ["0000.png", "0001.png"])
    names = [f"{t:04d}" for t in range(9)]
    with pytest.raises(HoldprepError, match=r"7 of 9 frames have no mask \(0002, 0003, 0004, 0005, 0006 \.\.\.\)"):
        read_masks(tmp_path / "m", names, SIZE)


def test_two_masks_of_one_frame_are_refused(tmp_path: Path):
    write(tmp_path / "m", ["0000.png", "0000.jpg"])
    with pytest.raises(HoldprepError, match="two entries of one frame, 0000 and 0000"):
        read_masks(tmp_path / "m", ["0000"], SIZE)


def test_zero_one_and_zero_255_are_the_same(tmp_path: Path):
    truth = np.zeros(SIZE, np.uint8)
    truth[3:9, 4:12] = 1
    for folder, picture, suffix in (("one", truth, "png"), ("full", 255 * truth, "png"), ("lossy", 255 * truth, "jpg")):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / f"0000.{suffix}"), picture)
        masks, _ = read_masks(tmp_path / folder, ["0000"], SIZE)
        np.testing.assert_array_equal(masks[0], truth > 0)


def write_palette(folder: Path) -> np.ndarray:
    """DAVIS's way: one indexed picture a frame, colours 1 and 2 of its palette are two entities; returns the indices."""
    labels = np.zeros(SIZE, np.uint8)
    labels[2:6, 2:6], labels[7:10, 3:15] = 1, 2
    picture = Image.fromarray(labels, mode="P")
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    folder.mkdir()
    picture.save(folder / "00000.png")
    return labels


def test_palette_indices_are_labels(tmp_path: Path):
    labels = write_palette(tmp_path / "davis")
    for value in (1, 2):
        masks, _ = read_masks(tmp_path / "davis", ["0000"], SIZE, value)
        np.testing.assert_array_equal(masks[0], labels == value)
    with pytest.raises(HoldprepError, match=r"holds labels 1, 2: set the label of each entity \(segmenter\.values\.object="):
        read_masks(tmp_path / "davis", ["0000"], SIZE)
    with pytest.raises(HoldprepError, match="all 1 masks are empty of label 7"):
        read_masks(tmp_path / "davis", ["0000"], SIZE, 7)


def test_run_lengths_worked_by_hand():
    # 2 x 3, columns first: 0 1 | 1 1 | 0 0, as 1 background, 3 foreground, 2 background
    expected = [[False, True, False], [True, True, False]]
    assert decode_rle([1, 3, 2], (2, 3)).tolist() == expected
    assert decode_rle("132", (2, 3)).tolist() == expected
    # 40 = 8 + 32: digits 8 with "more follow" and 1; the fourth length is 2 less than the second, and -2 is 30
    assert decode_rle("X132N", (46, 1))[:, 0].tolist() == [False] * 40 + [True] * 3 + [False] * 2 + [True]


def compressed(mask: np.ndarray) -> str:
    """The reverse of decode_rle, written from COCO's description."""
    flat = np.concatenate([[False], mask.T.ravel()])
    edges = np.flatnonzero(np.diff(flat.astype(int)))
    runs = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    text = ""
    for i, run in enumerate(runs):
        x = run - runs[i - 2] if i > 2 else run
        while True:
            digit, x = x & 31, x >> 5
            more = x != -1 if digit & 16 else x != 0
            text += chr((digit | (32 if more else 0)) + 48)
            if not more:
                break
    return text


def test_random_masks_survive_compression():
    rng = np.random.default_rng(0)
    for share in (0.01, 0.5, 0.99):
        mask = rng.random((97, 61)) < share
        np.testing.assert_array_equal(decode_rle(compressed(mask), mask.shape), mask)


def coco(path: Path, masks: dict[str, dict[int, np.ndarray]]) -> Path:
    images = [{"id": i, "file_name": f"clip/{name}.jpg", "height": SIZE[0], "width": SIZE[1]} for i, name in enumerate(masks)]
    annotations = [
        {"image_id": i, "category_id": category, "segmentation": {"size": list(SIZE), "counts": compressed(mask)}}
        for i, parts in enumerate(masks.values())
        for category, mask in parts.items()
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def test_coco_masks_by_category_and_name(tmp_path: Path):
    first, second = np.zeros((2, *SIZE), bool)
    first[1:4, 1:9], second[6:8, 2:5] = True, True
    path = coco(tmp_path / "masks.json", {"00002": {1: first, 3: second}, "00001": {1: second}, "00003": {}})
    masks, notes = read_masks(path, ["0001", "0002", "0003"], SIZE, 1)
    np.testing.assert_array_equal(masks, [second, first, np.zeros(SIZE, bool)])
    assert notes == []
    with pytest.raises(HoldprepError, match=r"holds labels 1, 3: set the label of each entity"):
        read_masks(path, ["0001", "0002", "0003"], SIZE)
    with pytest.raises(HoldprepError, match=r"1 of 4 frames have no mask \(0004\)"):
        read_masks(path, ["0001", "0002", "0003", "0004"], SIZE, 1)
    (tmp_path / "plain.json").write_text(json.dumps({"0001.png": {"size": list(SIZE), "counts": compressed(first)}}))
    np.testing.assert_array_equal(read_masks(tmp_path / "plain.json", ["0001"], SIZE)[0][0], first)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is no JSON"),
        ('{"annotations": []}', "KeyError"),
        ('{"0000": {"size": [12, 16], "counts": [3]}}', "run lengths add up to 3, not 12 x 16"),
        ('{"0000": [[1, 2, 3, 4, 5, 6]]}', "is a polygon, and the json has no 'images'"),
    ],
)
def test_json_that_holds_no_masks_is_named(tmp_path: Path, text: str, words: str):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(HoldprepError, match=words) as error:
        read_masks(tmp_path / "m.json", ["0000"], SIZE)
    assert "m.json" in str(error.value) and "\n" not in str(error.value)


def test_a_video_of_masks_is_taken_in_order(tmp_path: Path):
    size = (48, 64)
    truth = np.zeros((3, *size), bool)
    for t in range(3):
        truth[t, 8:40, 8 + 16 * t : 24 + 16 * t] = True
    path = tmp_path / "masks.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, size[::-1])
    for mask in truth:
        writer.write(np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2))
    writer.release()
    masks, notes = read_masks(path, ["0004", "0006", "0008"], size)
    np.testing.assert_array_equal(masks, truth)
    assert "in order" in notes[0]
    with pytest.raises(HoldprepError, match=r"has 3 frames, images/ has 2"):
        read_masks(path, ["0004", "0006"], size)
    with pytest.raises(HoldprepError, match="is 64 x 48 pixels"):
        read_masks(path, ["0004", "0006", "0008"], SIZE)
