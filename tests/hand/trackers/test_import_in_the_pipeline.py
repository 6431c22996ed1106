"""hand=import as the command runs it: every format that needs the hand model, from its files to v3d.npy and on to registration."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import pinhole_K, project
from holdprep.hand.trackers import trackfile
from holdprep.hand.trackers.tracks import VertexTrack
from tests.hand.trackers.known import MODELS, NAMES, SIZE, mesh
from tests.hand.trackers.test_wilor_hawor import write_hawor, write_wilor
from tests.running import run


@pytest.fixture
def processed(tmp_path: Path) -> Path:
    images = tmp_path / "data" / "s" / "images"
    images.mkdir(parents=True)
    for name in NAMES:
        cv2.imwrite(str(images / f"{name}.png"), np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
    (tmp_path / "given").mkdir()
    return tmp_path / "data" / "s" / "processed"


def take(tmp_path: Path, *options: str, stage: str = "hand_pose") -> dict:
    overrides = [f"stage={stage}", "seq=s", "hand=import", f"hand.folder={tmp_path / 'given'}", "on_fail=warn", *options]
    return run(tmp_path / "data", tmp_path / "run", *overrides)


@pytest.mark.parametrize(("name", "depth_m"), [("wilor", 12.0), ("hawor", 0.6), ("meshes", 0.6)])
def test_meshes_and_parameters_are_unchanged(tmp_path: Path, processed: Path, name: str, depth_m: float):
    expected = mesh("left", depth_m).vertices.numpy()
    if name == "meshes":
        for t, frame in enumerate(NAMES):
            trimesh.Trimesh(1000 * expected[t], MODELS["left"].faces.numpy(), process=False).export(tmp_path / "given" / f"{frame}.ply")
    else:
        {"wilor": write_wilor, "hawor": write_hawor}[name](tmp_path / "given", "left")
    frames = [0, 2] if name == "wilor" else [0, 1, 2]
    stages = take(tmp_path, f"hand.format={name}", *(["hand.focal_px=600"] if name == "meshes" else []))
    assert stages["hand_pose"]["metrics"]["left.detected_pct"] == pytest.approx(100 * len(frames) / 3)
    track = trackfile.read(processed, NAMES)
    assert list(track.vertices_m) == ["left"] and ("left" in track.params) == (name != "meshes")
    np.testing.assert_allclose(track.vertices_m["left"][frames], expected[frames], atol=2e-6)
    take(tmp_path, stage="register")
    fit = np.load(processed / "hold_fit.init.npy", allow_pickle=True).item()["left"]
    assert np.isfinite(fit["hand_pose"][frames]).all()
    with pytest.raises(HoldprepError, match=r"holds left hand, but hands\.which=right"):
        take(tmp_path, f"hand.format={name}", "hand.focal_px=600", "hands.which=right")


def test_the_noise_of_3d_keypoints_is_kept_in_the_track_files(tmp_path: Path):
    joints = mesh("right", 0.6)
    side, K = "right", pinhole_K(600, *SIZE)
    hands = {side: joints.vertices.numpy()}, {side: project(joints.joints.numpy(), K)}
    track = VertexTrack(*hands, K, tuple(NAMES), keypoints_m={side: joints.joints.numpy()}, keypoints_sigma_m={side: 0.03})
    trackfile.write(tmp_path, track, [f"{name}.jpg" for name in NAMES])
    assert trackfile.read(tmp_path, NAMES).keypoints_sigma_m == {side: pytest.approx(0.03)}
    content = np.load(tmp_path / "v3d.npy", allow_pickle=True).item()
    for wrong, message in (
        (0.0, "a positive number of metres"),
        (np.nan, "a positive number of metres"),
        (np.ones(2), "numbers are needed"),
    ):
        np.save(tmp_path / "v3d.npy", content | {"keypoints_sigma.right": np.asarray(wrong, np.float32)}, allow_pickle=True)  # type: ignore[arg-type]
        with pytest.raises(HoldprepError, match=message):
            trackfile.read(tmp_path, NAMES)


def test_keypoints_are_lifted_with_their_confidence(tmp_path: Path, processed: Path):
    px = project(mesh("right", 0.6).joints.numpy(), pinhole_K(600, *SIZE))
    content = {}
    for t, frame in enumerate(NAMES):
        rows = np.concatenate([px[t], np.full((21, 1), 0.5)], axis=1)
        rows[20] = 0  # MANO's order: the little finger's tip
        content[frame] = {"right": rows.tolist()}
    (tmp_path / "given" / "hands.json").write_text(json.dumps(content))
    take(tmp_path, "hand.format=keypoints", f"hand.folder={tmp_path / 'given' / 'hands.json'}", "hand.focal_px=600")
    track = trackfile.read(processed, NAMES)
    np.testing.assert_allclose(track.j2d_px["right"][:, :20], px[:, :20], atol=1e-3)
    assert np.isfinite(track.j2d_px["right"]).all()
    np.testing.assert_allclose(track.confidence["right"], 0.5 * (np.arange(21) < 20) * np.ones((3, 1)))
    K = track.K
    assert K[0, 0] == 600
    lengths = np.linalg.norm(np.ptp(track.vertices_m["right"], axis=1), axis=-1)
    assert ((lengths > 0.1) & (lengths < 0.3)).all()


def test_a_missing_folder_is_an_error(tmp_path: Path, processed: Path):
    with pytest.raises(HoldprepError, match=r"nowhere does not exist: hand\.folder is the folder of the tracker's files"):
        take(tmp_path, f"hand.folder={tmp_path / 'nowhere'}")
