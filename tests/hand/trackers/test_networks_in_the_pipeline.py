"""Trackers with networks as the command runs them, with tiny random weights: what is written, and what bad input is message."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from holdprep.errors import HoldprepError, MissingArtefact
from holdprep.hand import lbs
from holdprep.hand.model import load_hand_model
from holdprep.hand.trackers import metro, metro_network, trackfile
from holdprep.io import safeio
from tests.hand.trackers.networks import DEMO_J2D, METRO_SIZES, demo_picture, metro_weights, picture, write_hamer_checkpoint, write_sampling
from tests.running import run

FRAMES = ["0000", "0002", "0004"]


def write_sequence(data_root: Path, masks: dict[str, list[np.ndarray]]) -> Path:
    """images/ and processed masks of a sequence `s`."""
    folder = data_root / "s"
    (folder / "images").mkdir(parents=True)
    for seed, name in enumerate(FRAMES):
        cv2.imwrite(str(folder / "images" / f"{name}.png"), picture(640, 480, seed))
    for side, shown in masks.items():
        target = folder / "processed" / "sam" / side / "masks_processed"
        target.mkdir(parents=True)
        for name, mask in zip(FRAMES, shown, strict=True):
            cv2.imwrite(str(target / f"{name}.png"), mask.astype(np.uint8) * 255)
    return folder


def masks(*boxes: tuple[int, int, int, int] | None) -> list[np.ndarray]:
    """One mask a frame, filled in x1, y1, x2, y2; empty where None."""
    found = [np.zeros((480, 640), bool) for _ in boxes]
    for mask, box in zip(found, boxes, strict=True):
        if box:
            mask[box[1] : box[3], box[0] : box[2]] = True
    return found


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hamer_checkpoint(tmp_path_factory.mktemp("weights"))


def track(tmp_path: Path, checkpoint: Path, *options: str) -> dict:
    overrides = ["stage=hand_pose", "seq=s", "hand=hamer", f"hand.checkpoint={checkpoint}", "on_fail=warn", *options]
    return run(tmp_path / "data", tmp_path / "run", *overrides)


def refused(tmp_path: Path, checkpoint: Path, *options: str) -> str:
    with pytest.raises(HoldprepError) as error:
        track(tmp_path, checkpoint, *options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_both_hands_are_written_as_hamers_files_with_their_parameters(tmp_path: Path, checkpoint: Path):
    folder = write_sequence(
        tmp_path / "data", {"right": masks((100, 100, 200, 220), None, (110, 100, 200, 220)), "left": masks(*[(400, 60, 500, 160)] * 3)}
    )
    stages = track(tmp_path, checkpoint)
    assert stages["hand_pose"]["metrics"]["right.detected_pct"] == pytest.approx(200 / 3)
    assert stages["hand_pose"]["metrics"]["left.detected_pct"] == 100
    content = safeio.load_npy(folder / "processed" / "v3d.npy")
    assert content["K"][0, 0] == pytest.approx(5000 / 256 * 640)
    assert {k: v.shape for k, v in content["params.left"].items()} == {
        "global_orient": (3, 3),
        "hand_pose": (3, 45),
        "betas": (3, 10),
        "transl": (3, 3),
    }
    found = trackfile.read(folder / "processed", FRAMES)
    np.testing.assert_array_equal(np.isnan(found.vertices_m["right"]).all(axis=(1, 2)), [False, True, False])
    for side in ("right", "left"):
        mesh = lbs.forward(load_hand_model(side).to(found.params[side].betas.dtype), found.params[side])
        far = np.nanmax(found.vertices_m[side][..., 2])
        np.testing.assert_allclose(mesh.vertices.numpy(), found.vertices_m[side], atol=1e-6 * far)
    track(tmp_path, checkpoint, "object_pose.focal_px=600")
    assert safeio.load_npy(folder / "processed" / "v3d.npy")["K"].tolist() == [[600, 0, 320], [0, 600, 240], [0, 0, 1]]
    crops = sorted(p.relative_to(folder / "processed").as_posix() for p in (folder / "processed" / "crop_image").rglob("*.jpg"))
    assert crops == [f"crop_image/{s}/{t}.jpg" for s, ts in (("left", FRAMES), ("right", ["0000", "0004"])) for t in ts]


def test_boxes_from_a_file_replace_masks(tmp_path: Path, checkpoint: Path):
    folder = write_sequence(tmp_path / "data", {})
    np.save(tmp_path / "boxes.npy", np.array([[100.0, 100, 199, 219], [np.nan] * 4, [110, 100, 199, 219]]))
    options = ("hand.boxes=file", f"hand.boxes_file={tmp_path / 'boxes.npy'}", "hands.which=left")
    track(tmp_path, checkpoint, *options)
    given = trackfile.read(folder / "processed", FRAMES)
    assert list(given.vertices_m) == ["left"]
    square = np.load(folder / "processed" / "boxes.npy")
    np.testing.assert_allclose(square[0], [149.5 - 132, 159.5 - 132, 149.5 + 132, 159.5 + 132], atol=0.01)
    track(tmp_path, checkpoint, *options, "hand.crop=100doh")
    assert np.isfinite(trackfile.read(folder / "processed", FRAMES).vertices_m["left"]).all()
    square = np.load(folder / "processed" / "boxes.npy")
    np.testing.assert_allclose(square[:, 2] - square[:, 0], [256, 298, 256], atol=0.01)
    np.save(tmp_path / "boxes.npy", np.array([[100.0, 100, 199, 219], [640, 100, 700, 200], [np.nan] * 4]))
    assert "left hand's box in frame 0002 is (640, 100, 700, 200), outside the image of 640 x 480" in refused(
        tmp_path, checkpoint, *options
    )
    np.save(tmp_path / "boxes.npy", np.array([[0.2, 0.2, 0.4, 0.5]] * 3))
    assert "less than 8 px; are the boxes in pixels of images/, not in 0..1?" in refused(tmp_path, checkpoint, *options)
    np.save(tmp_path / "boxes.npy", np.full((3, 4), np.nan))
    assert "no left hand in 3 frames: " in (message := refused(tmp_path, checkpoint, *options)) and "has only NaN" in message
    assert "of one hand without its side" in refused(tmp_path, checkpoint, *options[:2], "hands.which=auto")
    np.save(tmp_path / "boxes.npy", np.array(["a", "b"]))
    assert "holds no boxes" in refused(tmp_path, checkpoint, *options)
    assert "needs hand.boxes_file" in refused(tmp_path, checkpoint, "hand.boxes=file", "hand.boxes_file=null")


def test_metro_writes_its_own_files_and_those_of_the_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write_sequence(
        tmp_path / "data", {"right": masks((100, 100, 200, 220), None, (110, 100, 200, 220)), "left": masks(*[(400, 60, 500, 160)] * 3)}
    )
    weights, processed = tmp_path / "metro.bin", folder / "processed"
    torch.save(metro_weights(), weights)
    sampling = write_sampling(tmp_path / "mano_downsampling.npz", np.arange(195) * 3)
    monkeypatch.setattr(metro_network, "Sizes", lambda: METRO_SIZES)
    overrides = ["stage=hand_pose", "seq=s", "hand=metro", f"hand.checkpoint={weights}", f"hand.sampling={sampling}", "on_fail=warn"]
    run(tmp_path / "data", tmp_path / "run", *overrides)
    assert {a: np.load(processed / f"{a}.npy").shape for a in ("v3d_ra", "j2d.crop", "boxes")} == {
        "v3d_ra": (3, 778, 3),
        "j2d.crop": (3, 21, 2),
        "boxes": (3, 4),
    }
    written = trackfile.read(processed, FRAMES)
    assert sorted(written.vertices_m) == ["left", "right"]
    again = metro.read(processed, FRAMES, written.K)
    np.testing.assert_array_equal(np.isnan(again.vertices_m["right"]).all(axis=(1, 2)), [False, True, False])
    far = np.nanmax(np.abs(again.vertices_m["right"]))
    np.testing.assert_allclose(again.vertices_m["right"], written.vertices_m["right"], atol=1e-3 * far)
    np.testing.assert_allclose(again.j2d_px["right"], written.j2d_px["right"], atol=1e-2)


def test_mediapipe_finds_hands_where_there_are_no_masks(tmp_path: Path, checkpoint: Path):
    folder = tmp_path / "data" / "s"
    (folder / "images").mkdir(parents=True)
    for name in FRAMES:
        cv2.imwrite(str(folder / "images" / f"{name}.png"), demo_picture())
    track(tmp_path, checkpoint, "hand.boxes=mediapipe", "hands.which=right")
    box = np.load(folder / "processed" / "boxes.npy")[0]
    for x, y in DEMO_J2D:
        assert box[0] < x < box[2] and box[1] < y < box[3]
    assert np.isfinite(trackfile.read(folder / "processed", FRAMES).vertices_m["right"]).all()


def test_clips_without_a_hand_are_an_error(tmp_path: Path, checkpoint: Path):
    write_sequence(tmp_path / "data", {"right": masks((5, 5, 6, 6), None, None)})
    assert "no right hand in 3 frames: all its masks are empty or below 8 px" in refused(tmp_path, checkpoint)
    assert "no hand masks of s for hands.which=left" in refused(tmp_path, checkpoint, "hands.which=left")
    cv2.imwrite(str(tmp_path / "data" / "s" / "processed" / "sam" / "right" / "masks_processed" / "0002.png"), np.zeros((48, 64), np.uint8))
    assert "right hand's mask of frame 0002 is 64 x 48, its image 640 x 480" in refused(tmp_path, checkpoint)


def test_missing_weights_are_an_error(tmp_path: Path):
    write_sequence(tmp_path / "data", {})
    assert "get hamer_demo_data.tar.gz" in refused(tmp_path, tmp_path / "hamer.ckpt")
    if not torch.cuda.is_available():
        assert "torch finds no CUDA device here" in refused(tmp_path, write_hamer_checkpoint(tmp_path), "device=cuda")
    with pytest.raises(MissingArtefact):
        track(tmp_path, tmp_path / "hamer.ckpt", "seq=other")
