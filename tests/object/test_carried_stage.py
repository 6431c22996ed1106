"""Lost frames in the pipeline: they follow the hand, are marked, counted and warned of, and what depends on the hand's files runs again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from holdprep.geometry.rigid import rotation_angle_deg
from holdprep.object import sfm
from holdprep.object.reconstruction import ObjectReconstruction, Observations, RawReconstruction, assemble
from holdprep.quality.gauge import rotation_gauge
from holdprep.quality.truth import load_truth
from holdprep.synth import corruption
from tests.running import run
from tests.synthetic import make_sequence, write_truth

GIVEN = ("seq=box", "source=synthetic", "segmenter=truth", "hand=truth", "hand.noise_px=2", "hand.depth_noise_pct=3", "on_fail=warn")
FRAMES, LOST = 40, slice(14, 28)


def stage(root: Path, name: str, *overrides: str) -> dict:
    return run(root, root / "run", f"stage={name}", *GIVEN, *overrides)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("carried")
    write_truth(make_sequence(frames=FRAMES), folder / "box")
    stage(folder, "segment")
    stage(folder, "hand_pose")
    return folder


def without(found: ObjectReconstruction, lost: slice) -> ObjectReconstruction:
    registered = np.ones(FRAMES, bool)
    registered[lost] = False
    seen = registered[found.observation_frame]
    observed = Observations(found.observation_frame[seen], found.observation_point[seen], found.observation_px[seen])
    return assemble(RawReconstruction(found.names, found.K, found.T_cam_obj, registered, found.points_obj, observed))


@pytest.fixture
def with_lost_frames(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = load_truth(root / "box" / "ground_truth" / "truth.npz")

    def true_poses(_: object, masks: list, names: list[str], *__: object) -> ObjectReconstruction:
        return without(corruption.object_reconstruction(truth, names, masks, drop_pct=0, focal_error_pct=0, seed=0), LOST)

    monkeypatch.setattr(sfm, "reconstruct", true_poses)


def rotation_error_deg(root: Path) -> float:
    files = np.load(root / "box" / "processed" / "colmap" / "o2w.npy")
    R, truth = files[:, :3, :3], load_truth(root / "box" / "ground_truth" / "truth.npz")
    assert truth.T_cam_obj is not None
    R_true, kept = truth.T_cam_obj[:, :3, :3], np.r_[0 : LOST.start, LOST.stop : FRAMES]
    return float(np.median(rotation_angle_deg(R @ rotation_gauge(R[kept], R_true[kept]), R_true)[LOST]))


@pytest.mark.usefixtures("with_lost_frames")
def test_lost_frames_follow_the_hand(root: Path, caplog: pytest.LogCaptureFixture):
    held = stage(root, "object_pose", "object_pose.follow_hand=false", "force=true")["object_pose"]["metrics"]
    held_deg = rotation_error_deg(root)
    with caplog.at_level("WARNING", "holdprep"):
        metrics = stage(root, "object_pose", "object_pose.follow_hand=true", "force=true")["object_pose"]["metrics"]
    lost = LOST.stop - LOST.start
    assert (held["held_frames"], held["carried_frames"]) == (lost, 0)
    assert (metrics["held_frames"], metrics["carried_frames"]) == (0, lost)
    assert (held["gap_filled_by"], metrics["gap_filled_by"]) == ("held", "hand")
    assert metrics["registered_pct"] == pytest.approx(100 * (1 - lost / FRAMES))
    assert rotation_error_deg(root) < held_deg / 2
    assert any("carried_frames is 14 frames, should be at most 0" in record.getMessage() for record in caplog.records)
    origin = np.load(root / "box" / "processed" / "colmap" / "tracks.npz")["origin"].tolist()
    assert origin[LOST] == ["hand"] * lost


@pytest.mark.usefixtures("with_lost_frames")
def test_a_changed_hand_matters_only_where_frames_are_lost(root: Path, monkeypatch: pytest.MonkeyPatch):
    stage(root, "object_pose", "object_pose.follow_hand=true", "force=true")
    assert stage(root, "object_pose")["object_pose"]["status"] == "skipped"
    stage(root, "hand_pose", "hand.noise_px=3")
    assert stage(root, "object_pose", "hand.noise_px=3")["object_pose"]["status"] != "skipped"
    lossy = sfm.reconstruct
    monkeypatch.setattr(sfm, "reconstruct", lambda *args: replace(lossy(*args), origin=["sfm"] * FRAMES, registered=np.ones(FRAMES, bool)))
    stage(root, "object_pose", "hand.noise_px=3", "force=true")
    stage(root, "hand_pose", "hand.noise_px=4")
    assert stage(root, "object_pose", "hand.noise_px=4")["object_pose"]["status"] == "skipped"
