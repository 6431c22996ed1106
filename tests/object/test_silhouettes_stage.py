"""object_pose=silhouettes in the pipeline, and object_pose=auto, which reaches it last."""

from pathlib import Path

import numpy as np
import pytest

from holdprep.errors import HoldprepError
from holdprep.object import sfm
from holdprep.quality.truth import load_truth
from holdprep.synth import corruption
from tests.running import run
from tests.synthetic import make_sequence, write_truth

GIVEN = ("seq=box", "source=synthetic", "segmenter=truth", "hand=truth", "hand.noise_px=2", "hand.depth_noise_pct=3", "on_fail=warn")
AUTO = ("object_pose=auto", "object_pose.attempts=[{upsample: 3}]")


def stage(root: Path, name: str, *overrides: str) -> dict:
    return run(root, root / "run", f"stage={name}", *GIVEN, *overrides)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("silhouettes")
    write_truth(make_sequence(frames=16), folder / "box")
    stage(folder, "segment")
    return folder


def refuse(*_: object) -> None:
    raise HoldprepError("object poses: no features")


def test_without_a_hand_the_first_error_of_auto_remains(root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(sfm, "reconstruct", refuse)
    with (
        caplog.at_level("INFO", "holdprep"),
        pytest.raises(HoldprepError, match=r"no features \(tried: as given; upsample=3; silhouettes\)"),
    ):
        stage(root, "object_pose", *AUTO)
    assert any("attempt 3 of 3 (silhouettes): object poses from silhouettes follow the hand" in r.getMessage() for r in caplog.records)


def test_auto_says_that_poses_are_from_silhouettes_and_alignment_accepts_them(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(sfm, "reconstruct", refuse)
    stage(root, "hand_pose")
    with caplog.at_level("INFO", "holdprep"):
        found = stage(root, "object_pose", *AUTO)["object_pose"]
    metrics = found["metrics"]
    assert metrics["tried"] == "as given; upsample=3; silhouettes"
    assert metrics["from_silhouettes"] is True
    assert metrics["silhouette_iou"] > 0.9
    assert metrics["focal_px"] == pytest.approx(0.95 * 512)
    assert any("not from structure from motion" in record.getMessage() for record in caplog.records)
    assert any("from_silhouettes is yes, should be no" in record.getMessage() for record in caplog.records)
    tracks = np.load(root / "box" / "processed" / "colmap" / "tracks.npz")
    assert set(tracks["origin"].tolist()) <= {"silhouettes", "hand"}
    stage(root, "register")
    aligned = stage(root, "align")["align.ho"]["metrics"]
    assert np.isfinite(aligned["object.diameter_mm"])
    stage(root, "build")


def test_structure_from_motion_that_passes_is_kept(root: Path, monkeypatch: pytest.MonkeyPatch):
    truth = load_truth(root / "box" / "ground_truth" / "truth.npz")

    def true_poses(_: object, masks: list, names: list[str], *__: object) -> object:
        return corruption.object_reconstruction(truth, names, masks, drop_pct=0, focal_error_pct=0, seed=0)

    monkeypatch.setattr(sfm, "reconstruct", true_poses)
    metrics = stage(root, "object_pose", *AUTO, "force=true")["object_pose"]["metrics"]
    assert metrics["tried"] == "as given"
    assert "from_silhouettes" not in metrics
