"""object_pose=auto: which attempts are made, which one is kept and reported; structure from motion is replaced by ground truth."""

from pathlib import Path

import pytest

from holdprep.errors import HoldprepError
from holdprep.object import sfm
from holdprep.object.reconstruction import ObjectReconstruction
from holdprep.object.sfm_options import SfmOptions
from holdprep.quality.truth import load_truth
from holdprep.synth import corruption
from tests.running import run
from tests.synthetic import make_sequence, write_truth

LOST_PCT = {2.0: None, 3.0: 70.0, 4.0: 50.0, 1.5: 0.0}  # frames without a pose, by upsample; None: no poses at all
OVERRIDES = ("seq=box", "source=synthetic", "segmenter=truth", "object_pose=auto", "object_pose.silhouettes=false")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("auto")
    write_truth(make_sequence(frames=10), folder / "box")
    run(folder, folder / "run", "stage=segment", *OVERRIDES)
    return folder


@pytest.fixture
def tried(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The `upsample` of every reconstruction made; each loses the share of frames in LOST_PCT."""
    upsamples: list[float] = []

    def reconstruct(_: object, masks: list, names: list[str], __: Path, options: SfmOptions) -> ObjectReconstruction:
        upsamples.append(options.upsample)
        lost = LOST_PCT[options.upsample]
        if lost is None:
            raise HoldprepError("object poses: no model")
        truth = load_truth(root / "box" / "ground_truth" / "truth.npz")
        return corruption.object_reconstruction(truth, names, masks, drop_pct=lost, focal_error_pct=0, seed=0)

    monkeypatch.setattr(sfm, "reconstruct", reconstruct)
    return upsamples


def attempts(root: Path, changes: str, *more: str) -> dict:
    return run(root, root / "run", "stage=object_pose", "force=true", *OVERRIDES, f"object_pose.attempts=[{changes}]", *more)["object_pose"]


def test_no_attempt_follows_one_that_passes(root: Path, tried: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "holdprep"):
        stage = attempts(root, "{upsample: 3},{upsample: 1.5},{upsample: 4}")
    assert tried == [2.0, 3.0, 1.5]
    assert stage["metrics"]["registered_pct"] == 100
    assert stage["metrics"]["tried"] == "as given; upsample=3; upsample=1.5"
    lines = [record.getMessage() for record in caplog.records if "attempt" in record.getMessage()]
    assert "attempt 1 of 4 (as given): object poses: no model" in lines[0]
    assert "attempt 2 of 4 (upsample=3): registered_pct is 30" in lines[1]


def test_the_best_failed_attempt_is_kept_and_the_error_lists_all(root: Path, tried: list[float]) -> None:
    stage = attempts(root, "{upsample: 4},{upsample: 3}", "on_fail=warn")
    assert tried == [2.0, 4.0, 3.0]
    assert stage["metrics"]["registered_pct"] == 50
    with pytest.raises(HoldprepError, match=r"registered_pct is 50.*\(tried: as given; upsample=4; upsample=3\)"):
        attempts(root, "{upsample: 4},{upsample: 3}")


def test_an_error_without_poses_lists_all_attempts(root: Path, tried: list[float]) -> None:
    with pytest.raises(HoldprepError, match=r"no model \(tried: as given; erode_px=0\)$"):
        attempts(root, "{erode_px: 0}")
    assert tried == [2.0, 2.0]
