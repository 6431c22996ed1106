"""The search over weights as a user types it: Optuna on two sequences, resumed, and its winner used."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from holdprep.align.score import label_free_mm
from holdprep.config.memory import expanded
from holdprep.errors import ConfigError
from tests.running import run
from tests.synthetic import make_sequence, write_truth

LAUNCH = Path(__file__).parent.parent / "launch.py"
TRUE = ("segmenter=truth", "hand=truth", "object_pose=truth", "on_fail=warn")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/a and data/b are ready for alignment; b's keypoints are noisy."""
    root = tmp_path_factory.mktemp("search")
    for name, noise in (("a", 1), ("b", 8)):
        write_truth(make_sequence(("right",), frames=16), root / "data" / name)
        for stage in ("segment", "hand_pose", "register", "object_pose"):
            run(root / "data", root / "first", f"seq={name}", f"stage={stage}", *TRUE, f"hand.noise_px={noise}")
    return root


def files(root: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in (root / "data").rglob("*") if p.is_file()}


def test_a_trial_scores_every_sequence_and_writes_nothing_of_theirs(workplace: Path):
    before = files(workplace)
    found = run(workplace / "data", workplace / "trial", "stage=score", "seqs=[a,b]")["score"]["metrics"]
    assert 0 < found["a"] < found["b"] == found["worst"]
    error = run(workplace / "data", workplace / "trial", "stage=score", "seqs=[a,b]", "score_metric=mrrpe_mm")["score"]["metrics"]
    assert 0 < error["a"] < error["b"] < 50
    assert files(workplace) == before
    with pytest.raises(ConfigError, match="score_metric=nonsense: a has none; it has"):
        run(workplace / "data", workplace / "trial", "stage=score", "seqs=[a]", "score_metric=nonsense")
    with pytest.raises(ConfigError, match="set the sequences"):
        run(workplace / "data", workplace / "trial", "stage=score")


def test_a_trial_runs_every_sequence_under_its_own_settings(workplace: Path):
    """holdprep.yaml counts as it does for every other stage, and the command line goes before it."""
    own = workplace / "data" / "b" / "holdprep.yaml"

    def scores(*told: str) -> dict[str, float]:
        return run(workplace / "data", workplace / "trial", "stage=score", "seqs=[a,b]", *told)["score"]["metrics"]

    plain = scores()
    own.write_text("align: {scale: centroid}\n")
    try:
        held, named = scores(), scores("align.scale=auto")
    finally:
        own.unlink()
    assert held["a"] == named["a"] == plain["a"]
    assert named["b"] == plain["b"] != pytest.approx(held["b"], rel=1e-3)


def test_optuna_searches_goes_on_where_it_was_and_names_a_winner(workplace: Path):
    optuna = pytest.importorskip("optuna", reason="pip install 'holdprep[sweep]' brings Optuna")
    told = ("-m", "+sweep=robust_weights", "seqs=[a,b]", "hydra.sweeper.n_trials=2")
    for trials in (2, 4):
        done = subprocess.run(
            [sys.executable, str(LAUNCH), *told],
            cwd=workplace,
            env=dict(os.environ),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert f"{trials} trials; the best weights: weights=" in done.stdout
    folder = workplace / "outputs" / "robust_weights"
    study = optuna.load_study(study_name="robust_weights", storage=f"sqlite:///{folder / 'study.db'}")
    weights = yaml.safe_load((folder / "winner.yaml").read_text())
    assert weights["contact"] == study.best_params["weights.contact"]
    assert weights["z_min"] == 1000  # what is not searched stays
    scores = run(workplace / "data", workplace / "again", "stage=score", "seqs=[a,b]", *expanded(f"weights={folder / 'winner.yaml'}"))
    assert scores["score"]["metrics"]["worst"] == pytest.approx(study.best_value)
    assert json.loads((folder / "1" / "metrics.json").read_text())["stages"]["score"]["metrics"]["worst"] >= study.best_value


def test_a_file_of_weights_is_read_as_its_keys(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("contact: null\nsmooth: 2.5e+2\n")
    assert expanded(f"weights={tmp_path / 'mine.yaml'}") == ["weights.contact=null", "weights.smooth=250.0"]
    assert expanded("weights=generic") == ["weights=generic"]
    with pytest.raises(ConfigError, match="does not exist"):
        expanded("weights=nowhere.yaml")


def test_the_score_adds_millimetres():
    """4 px at 0.5 m under 1000 px: 2 mm; a gap of 1; 3 inside; hand and object shake with 1 mm and 3 mm of white noise: 2."""
    metrics = {"right.reprojection_px": 4.0, "right.depth_m": 0.5, "contact.gap_mm": 1.0, "contact.penetration_mm": 3.0}
    metrics |= {"right.jerk_mm": 20**0.5, "object.jerk_mm": 3 * 20**0.5}
    assert label_free_mm(metrics, 1000.0) == pytest.approx(2 + 1 + 3 + 2)
    assert label_free_mm({"right.reprojection_px": 4.0, "right.depth_m": 0.5}, 1000.0) == float("inf")
