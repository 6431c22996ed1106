"""The command as a user types it: sweeps, loggers, exit status. Each test is one process."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from holdprep.errors import HoldprepError
from tests.running import run
from tests.synthetic import make_sequence, write_tracker_files
from tests.wandb_files import read_wandb

LAUNCH = Path(__file__).parent.parent / "launch.py"


def launch(cwd: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | environment
    return subprocess.run(
        [sys.executable, str(LAUNCH), *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/a is ready for mode ho, data/b lacks everything after its images."""
    root = tmp_path_factory.mktemp("cli")
    seq = make_sequence(("right",), frames=16)
    for name in ("a", "b"):
        write_tracker_files(seq, root / "data" / name)
    run(
        root / "data",
        root / "outputs" / "first",
        "seq=a",
        "stage=all",
        "segmenter=import",
        "on_fail=warn",
        "object_pose.min_registered_pct=50",
    )
    return root


def test_a_wrong_key_stops_before_anything_runs(tmp_path: Path):
    done = launch(tmp_path, "-m", "stage=create", "weights.contact=10,ten")
    assert done.returncode == 1
    assert done.stderr.strip() == "error: weights.contact=ten: not allowed; allowed: float >= 0 or null"
    assert not list(tmp_path.iterdir())


def test_a_sweep_keeps_jobs_apart_survives_a_failure_and_closes_with_a_table(workplace: Path):
    before = {p: p.stat().st_mtime_ns for p in (workplace / "data").rglob("*") if p.is_file()}
    told = ("-m", "stage=align", "mode=ho", "seq=a,b", "weights.contact=10,100", "logger=wandb", "segmenter=import", "on_fail=warn")
    done = launch(workplace, *told, WANDB_MODE="offline", WANDB_SILENT="true")
    assert done.returncode == 1
    assert "2 of 4 jobs succeeded" in done.stdout
    folder = next((workplace / "outputs" / "multirun").iterdir())
    with (folder / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["seq"], r["weights.contact"], r["status"]) for r in rows] == [
        ("a", "10", "ok"),
        ("a", "100", "ok"),
        ("b", "10", "failed"),
        ("b", "100", "failed"),
    ]
    assert "stage=register" in rows[2]["error"]
    assert float(rows[0]["align.ho/object.scale"]) > 0
    for job in ("0_a", "1_a"):
        assert (folder / job / "a" / "processed" / "mano_fit_ckpt" / "ho" / "last.ckpt").is_file()
        seen, weight = read_wandb(folder / job), {"0_a": 10, "1_a": 100}[job]
        assert any("align/ho/loss" in row for row in seen.history)
        assert "align/ho/contact.gap_mm" in seen.summary
        assert seen.config["weights"]["contact"] == weight
        assert (seen.name, seen.job_type, seen.group) == (f"a align/ho weights.contact={weight}", "align/ho", folder.name)
        assert {"hand:mediapipe", "hands:auto"} <= set(seen.tags) and any(tag.startswith("verdict:") for tag in seen.tags)
    assert {p: p.stat().st_mtime_ns for p in (workplace / "data").rglob("*") if p.is_file()} == before


def test_wandb_without_a_key_is_one_line_and_the_work_goes_on(workplace: Path):
    told = ("stage=align", "mode=h", "seq=a", "force=true", "logger=wandb", "on_fail=warn")
    done = launch(workplace, *told, HOME=str(workplace), NETRC=str(workplace / "none"))
    assert done.returncode == 0, done.stderr
    assert sum("no API key" in line for line in done.stdout.splitlines()) == 1
    losses = list((workplace / "outputs" / "a").rglob("losses/metrics.csv"))
    with losses[0].open() as file:
        assert "align/h/loss" in next(csv.reader(file))


def test_help_names_every_key(tmp_path: Path):
    done = launch(tmp_path, "--help")
    assert done.returncode == 0
    assert "weights.contact" in done.stdout
    assert "hand           hamer, import, mediapipe" in done.stdout


def test_tensorboard_holds_losses_and_metrics(workplace: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = launch(workplace, "stage=align", "mode=h", "seq=a", "force=true", "logger=tensorboard", "on_fail=warn")
    assert done.returncode == 0, done.stderr
    events = next((workplace / "outputs" / "a").rglob("events.out.tfevents.*"))
    scalars = EventAccumulator(str(events.parent)).Reload()
    assert {"align/h/loss", "align/h/right.reprojection_px"} <= set(scalars.Tags()["scalars"])
    losses = [e.value for e in scalars.Scalars("align/h/loss")]
    assert losses[-1] <= losses[0]


def test_a_killed_run_continues_where_it_stopped(workplace: Path):
    told = ("stage=align", "seq=a", "segmenter=import", "on_fail=warn", "align=hold", "align.max_iterations=100000")
    command = [sys.executable, str(LAUNCH), *told]
    with subprocess.Popen(command, cwd=workplace, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        marker = workplace / "data" / "a" / "processed" / ".holdprep" / "align.h.running"
        while not marker.exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    assert marker.exists()
    done = launch(workplace, "stage=all", "seq=a", "on_fail=warn")  # the segmenter and the bound given before stay
    assert done.returncode == 0, done.stderr
    assert "object_pose  skipped" in done.stdout
    assert "align.h      done" in done.stdout
    assert not marker.exists()
    assert not list((workplace / "data" / "a").rglob("*.tmp"))


def test_a_failed_run_still_writes_its_report(tmp_path: Path):
    write_tracker_files(make_sequence(("right",), frames=12), tmp_path / "data" / "a")
    with pytest.raises(HoldprepError, match="images_masks, which holdprep did not make: force=true does, segmenter=import reads it"):
        run(tmp_path / "data", tmp_path / "out", "seq=a", "stage=all", "segmenter=classical")
    shutil.rmtree(tmp_path / "data" / "a" / "processed" / "sam")
    with pytest.raises(HoldprepError, match=r"prompts\.yaml does not exist"):
        run(tmp_path / "data", tmp_path / "out", "seq=a", "stage=all", "segmenter=classical")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "prompts.yaml does not exist" in page
    assert "Not trainable" in page
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["stages"]["segment"]["status"] == "failed"


def test_sigterm_ends_a_run_with_one_line_and_the_same_command_goes_on(workplace: Path):
    """As a batch system's time limit does."""
    told = ("stage=align", "mode=h", "seq=a", "on_fail=warn", "align=hold", "align.max_iterations=100000")
    command = [sys.executable, str(LAUNCH), *told]
    folder = workplace / "data" / "a" / "processed"
    before = (folder / "mano_fit_ckpt" / "h" / "last.ckpt").read_bytes()
    with subprocess.Popen(command, cwd=workplace, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while not (folder / ".holdprep" / "align.h.running").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 143
    assert sum("ended by SIGTERM" in line for line in said.splitlines()) == 1
    assert "Traceback" not in said
    assert (folder / "mano_fit_ckpt" / "h" / "last.ckpt").read_bytes() == before
    done = launch(workplace, "stage=align", "mode=h", "seq=a", "on_fail=warn")
    assert done.returncode == 0, done.stderr
    assert "align.h      runs: its last run was interrupted" in done.stdout


def test_a_batch_over_sequences_prepares_them_and_status_says_so(workplace: Path):
    done = launch(workplace, "-m", "stage=segment", "seq=all", "segmenter=import", "on_fail=warn")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 jobs succeeded" in done.stdout
    assert (workplace / "data" / "b" / "processed" / "masks" / "0000.png").is_file()
    outputs = sorted((workplace / "outputs").rglob("*"))
    said = launch(workplace, "stage=status", "seq=all")
    assert said.returncode == 0, said.stderr
    assert [word in said.stdout for word in ("fresh", "foreign", "missing", "register")] == [True] * 4
    assert sorted((workplace / "outputs").rglob("*")) == outputs  # a question leaves nothing behind
