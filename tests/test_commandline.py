"""What the command line means before anything runs: sequences, questions, plain batches; objectives, and the table that closes a batch."""

import json
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from holdprep import cli, status
from holdprep.config import commandline
from holdprep.errors import ConfigError
from holdprep.quality.evaluation import direction
from holdprep.sweeps import summary
from tests.running import CONF, composed


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three sequences, and a folder that is none."""
    for name in ("cup1", "cup2", "box"):
        (tmp_path / name / "images").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("seq", "names"),
    [("seq=all", "box,cup1,cup2"), ("seq=glob(cup*)", "cup1,cup2"), ("seq=glob([cup*,b*],exclude=cup1)", "box,cup2"), ("seq=a,b", "a,b")],
)
def test_sequences_are_named_before_hydra_reads_them(data: Path, seq: str, names: str):
    found = commandline.resolved(["-m", "stage=all", seq, f"data_root={data}"], CONF)
    assert f"seq={names}" in found
    assert "overlay=false" in found  # the sequences themselves are prepared


def test_no_sequence_or_several_without_a_batch_is_an_error(data: Path):
    with pytest.raises(ConfigError, match=r"seq=glob\(x\*\): no such sequence in .*, which has box, cup1, cup2"):
        commandline.resolved(["-m", "seq=glob(x*)", f"data_root={data}"], CONF)
    with pytest.raises(ConfigError, match="names 3 sequences: add -m"):
        commandline.resolved(["stage=all", "seq=all", f"data_root={data}"], CONF)
    assert "seq=box,cup1,cup2" in commandline.resolved(["stage=status", "seq=all", f"data_root={data}"], CONF)


@pytest.mark.parametrize(
    ("told", "plain"),
    [
        (["-m", "seq=a,b"], True),
        (["-m", "seq=a,b", "weights.contact=10"], True),
        (["-m", "seq=a,b", "weights.contact=10,100"], False),
        (["-m", "seq=a", "hand=mediapipe,truth"], False),
        (["-m", "seq=a,a"], False),
        (["-m", "+sweep=robust_weights", "seqs=[a,b]"], False),
        (["-m", "seq=a,b", "overlay=true"], False),
        (["seq=a"], False),
    ],
)
def test_a_batch_over_sequences_alone_prepares_them(told: list[str], plain: bool):
    assert ("overlay=false" in commandline.resolved(told, CONF)) == plain


def test_a_view_takes_several_sequences(data: Path):
    found = commandline.resolved(["stage=view", "seq=b,a,2024", f"data_root={data}"], CONF)
    assert found[:2] == ["stage=view", "seq=b"] and found[-1] == "view.also=[a,'2024']"
    assert "view.also" not in " ".join(commandline.resolved(["stage=view", "seq=b", f"data_root={data}"], CONF))


def test_the_jobs_of_a_command_line():
    assert commandline.jobs(["-m", "seq=a,b", "weights.contact=1,2", "stage=align"]) == [
        [f"seq={s}", f"weights.contact={w}", "stage=align"] for s in "ab" for w in "12"
    ]
    assert commandline.is_query(["stage=all", "dry=true"]) and commandline.is_query(["stage=status"])
    assert not commandline.is_query(["stage=all", "dry=false"])


def test_status_says_what_is_there_and_what_a_run_would_do(data: Path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        (row,) = status.rows([f"data_root={data}", "stage=status", "seq=box"])
    assert row[0] == "box" and row[1].startswith("create, segment, hand_pose")  # of which the same is to be said
    assert row[2:] == ("missing", "", "run it", "it has not run")
    assert sorted(p.name for p in data.iterdir()) == ["box", "cup1", "cup2", "notes"] and not list((data / "box").rglob("*.json"))


METRICS = {
    "align.o": {"contact.gap_mm": 7.0},
    "align.ho": {"contact.gap_mm": 3, "object.scale": 0.1, "method": "lm"},
    "report": {"status": "warn"},
}


def test_the_objective_is_a_number_of_a_stage_or_an_error():
    cfg = composed("objective=align.ho.contact.gap_mm")
    assert cli.objective(cfg, METRICS) == 3.0
    assert cli.objective(composed("objective=align.o.contact.gap_mm"), METRICS) == 7.0
    assert cli.objective(composed(), METRICS) == 3.0
    assert cli.objective(composed(), {"create": {"frames": 3}}) != cli.objective(composed(), {"create": {"frames": 3}})  # NaN
    with pytest.raises(
        ConfigError, match=r"objective=align.ho.contact.gap: align.ho reports no such number; it reports contact.gap_mm, object.scale"
    ):
        cli.objective(composed("objective=align.ho.contact.gap"), METRICS)
    with pytest.raises(ConfigError, match="of a stage that runs is needed; these run: create"):
        cli.check_objective(cfg, ["create"])
    with pytest.raises(ConfigError, match="of a stage that runs is needed"):
        cli.check_objective(composed("objective=align.ho/contact.gap_mm"), ["align.ho"])


@pytest.mark.parametrize(
    ("metric", "way"),
    [("fscore_5mm_pct", "more"), ("mask_iou", "more"), ("contour_f", "more"), ("precision_10mm_pct", "more"), ("recall_5mm_pct", "more"),
     ("registered_pct", "more"), ("mrrpe_mm", "less"), ("mpjpe_mm", "less"), ("scale_error_pct", "less"), ("rotation_error_deg_p95", "less"),
     ("contact_gap_mm", "less"), ("penetration_depth_mm", "less"), ("frames_matched", None), ("contact_gap_true_mm", None)],
)  # fmt: skip
def test_every_metric_knows_which_way_it_is_better(metric: str, way: str | None):
    assert direction(metric) == way


def job(folder: Path, number: int, told: list[str], stages: dict) -> None:
    path = folder / f"{number}_a"
    (path / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(told), path / ".hydra" / "overrides.yaml")
    (path / "metrics.json").write_text(json.dumps({"stages": stages}))


def test_the_table_has_each_stages_verdict_and_numbers(tmp_path: Path):
    def stage(status: str, error: str | None = None, gates: tuple[str, ...] = (), **metrics: float) -> dict:
        return {"status": status, "error": error, "seconds": 1.5, "gates": [{"status": g} for g in gates], "metrics": metrics}

    told = ["seq=a", "weights.contact=10", "~hydra.callbacks.x", "+experiment=arctic"]
    job(tmp_path, 10, told, {"create": stage("done", gates=("pass", "warn"), frames=40), "report": stage("done", pages=1)})
    job(tmp_path, 9, told, {"create": stage("done", frames=40), "segment": stage("failed", "no mask", ("pass",))})
    (first, second) = summary.collect(tmp_path)
    assert (first["job"], second["job"]) == ("9_a", "10_a")
    assert first | {"status": "failed", "error": "no mask", "segment/verdict": "fail", "create/verdict": "pass", "seconds": 3.0} == first
    assert second["create/verdict"] == "warn" and second["create/frames"] == 40
    assert second["experiment"] == "arctic" and second["hydra.callbacks.x"] == "(deleted)"
