"""Masks of other tools are matched by name, and what does not fit is named."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from holdprep.errors import HoldprepError
from holdprep.segmenters.folders import read_mask_folder

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
    masks, notes = read_mask_folder(tmp_path / "m", ["0001", "0002", "0010"], SIZE)
    assert rows(masks) == [2, 1, 0]
    assert notes == []


def test_renumbered_masks_are_taken_in_order_and_said(tmp_path: Path):
    write(tmp_path / "m", [f"{i:05d}.png" for i in range(3)])
    masks, notes = read_mask_folder(tmp_path / "m", ["0000", "0002", "0004"], SIZE)
    assert rows(masks) == [0, 1, 2]
    assert "numbered anew" in notes[0]


def test_what_does_not_fit_is_named(tmp_path: Path):
    write(tmp_path / "m", ["0000.png", "0005.png"])
    with pytest.raises(HoldprepError, match=r"1 of 3 frames have no mask \(first: 0009\)"):
        read_mask_folder(tmp_path / "m", ["0000", "0005", "0009"], SIZE)
    with pytest.raises(HoldprepError, match="16 x 12 pixels, images/ are 16 x 30"):
        read_mask_folder(tmp_path / "m", ["0000", "0005"], (30, 16))
    (tmp_path / "m" / "0000.png").write_bytes(b"broken")
    with pytest.raises(HoldprepError, match=r"0000\.png is not a readable picture"):
        read_mask_folder(tmp_path / "m", ["0000", "0005"], SIZE)
    with pytest.raises(HoldprepError, match="holds no masks"):
        read_mask_folder(tmp_path / "none", ["0000"], SIZE)


def test_masks_of_another_resolution_are_resized_and_said(tmp_path: Path):
    write(tmp_path / "m", ["0000.png"], (24, 32))
    masks, notes = read_mask_folder(tmp_path / "m", ["0000"], SIZE)
    assert masks.shape == (1, *SIZE)
    assert "resized" in notes[0]
