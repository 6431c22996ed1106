"""hand.check=true as the command runs it: whether the stage ran or was up to date, for files of whoever."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import pinhole_K, project
from holdprep.hand import lbs
from holdprep.hand.model import ManoParams, load_hand_model
from holdprep.io import safeio
from tests.running import run

FRAMES = ["0000", "0002", "0004"]
K = pinhole_K(600, 640, 480)


def write_tracked(folder: Path) -> None:
    """images/ of one grey, and HaMeR's files: a right hand in the last frame alone."""
    (folder / "images").mkdir(parents=True)
    (folder / "processed").mkdir()
    for name in FRAMES:
        cv2.imwrite(str(folder / "images" / f"{name}.png"), np.full((480, 640, 3), 90, np.uint8))
    model = load_hand_model("right", dtype=torch.float64)
    zeros = ManoParams(*(torch.zeros(1, n, dtype=torch.float64) for n in (3, 45, 10)), torch.tensor([[0.0, 0, 0.5]], dtype=torch.float64))
    found = lbs.forward(model, zeros)
    v3d, j2d = np.full((3, 778, 3), np.nan), np.full((3, 21, 2), np.nan)
    v3d[2], j2d[2] = found.vertices[0], project(found.joints[0].numpy(), K)
    paths = [f"{n}.png" for n in FRAMES]
    safeio.save_npy(folder / "processed" / "v3d.npy", {"im_paths": paths, "K": K, "v3d.right": v3d})
    safeio.save_npy(folder / "processed" / "j2d.full.npy", {"im_paths": paths, "j2d.right": j2d})


def check(tmp_path: Path, *options: str) -> dict:
    return run(tmp_path / "data", tmp_path / "run", "stage=hand_pose", "seq=s", "hand.check=true", "on_fail=warn", *options)


def test_the_frame_with_a_hand_is_drawn_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_tracked(tmp_path / "data" / "s")
    with caplog.at_level(logging.INFO, "holdprep"):
        assert check(tmp_path)["hand_pose"]["status"] == "kept"
    told = [r.getMessage() for r in caplog.records]
    assert sum("frame 0004, right hand: " in line for line in told) == 5
    assert any("as a right hand's" in line and "towards the palm" in line for line in told)
    picture = cv2.imread(str(tmp_path / "data" / "s" / "processed" / "hand_check.png"))
    assert picture.shape == (480, 4 * 480 + 160, 3)
    whole = picture[:, :640].astype(int)
    green = (whole[..., 1] > whole[..., 0] + 30) & (whole[..., 1] > whole[..., 2] + 30)
    wrist = project(np.array([[0, 0, 0.5]]), K)[0].round().astype(int)
    assert green[wrist[1], wrist[0]] and 0.005 < green.mean() < 0.3


def test_a_hand_that_is_not_there_is_told(tmp_path: Path):
    write_tracked(tmp_path / "data" / "s")
    with pytest.raises(HoldprepError, match=r"holds no hand of hands\.which=left"):
        check(tmp_path, "hands.which=left")
