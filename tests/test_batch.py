"""Batches as users type them: which sequences, what is done is not done again, launchers, and a job that is killed."""

import csv
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from holdprep.config import commandline
from holdprep.configured import CONF_DIR
from holdprep.errors import ConfigError
from holdprep.pipeline import records
from holdprep.sequence import Sequence
from holdprep.sweeps import batch, done, summary
from holdprep.sweeps.jobs import Failed, Job, returned
from tests.synthetic import make_sequence, write_tracker_files

LAUNCH = Path(__file__).parent.parent / "launch.py"
COMMAND = ("-m", "stage=segment", "segmenter=import", "on_fail=warn", "logger=none")
STAGES = {"create": {"error": None, "gates": [{"status": "warn"}], "metrics": {"frames": 4}}}


def stub(root: Path, name: str) -> Path:
    """A sequence with two files."""
    (root / name / "images").mkdir(parents=True)
    for k in range(2):
        (root / name / "images" / f"{k:04d}.png").write_bytes(b"x")
    return root / name


def test_a_text_file_names_the_sequences(tmp_path: Path):
    for name in ("cup", "2024", "box"):
        stub(tmp_path / "data", name)
    (tmp_path / "mine.txt").write_text("cup\n\n# not today: box\n2024  # by name\ncup\n")
    found = commandline.resolved(["-m", f"seq={tmp_path / 'mine.txt'}", f"data_root={tmp_path / 'data'}"], CONF_DIR)
    assert "seq=cup,'2024'" in found and "overlay=false" in found
    assert commandline.batch_over(found, CONF_DIR) == (["cup", "2024"], tmp_path / "data")
    (tmp_path / "empty.txt").write_text("# none\n")
    for file, message in (("empty.txt", "names no sequence"), ("none.txt", "cannot be read")):
        with pytest.raises(ConfigError, match=message):
            commandline.resolved(["-m", f"seq={tmp_path / file}"], CONF_DIR)


def changed_image(seq: Path, outside: Path) -> None:
    (seq / "images" / "0000.png").write_bytes(b"yy")


def new_setting(seq: Path, outside: Path) -> None:
    (seq / "holdprep.yaml").write_text("create: {stride: 2}\n")


def gone_image(seq: Path, outside: Path) -> None:
    (seq / "images" / "0001.png").unlink()


def changed_video(seq: Path, outside: Path) -> None:
    outside.write_bytes(b"another")


def damaged_mark(seq: Path, outside: Path) -> None:
    (seq / done.MARK).write_text('{"command": 3')


@pytest.mark.parametrize("change", [changed_image, new_setting, gone_image, changed_video, damaged_mark])
def test_a_sequence_is_done_until_one_of_its_files_or_inputs_changes(tmp_path: Path, change):
    seq, video = stub(tmp_path, "a"), tmp_path / "clip.mp4"
    video.write_bytes(b"v")
    key = done.command_key(["seq=a", "stage=all", "video=clip.mp4"], [CONF_DIR])
    assert done.read(seq, key) is None
    done.write(seq, key, [video, tmp_path / "not_there"], STAGES)
    assert done.read(seq, key) == {"create/verdict": "warn", "create/frames": 4}
    change(seq, video)
    assert done.read(seq, key) is None


def test_another_command_is_not_done(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MANO_DIR", raising=False)
    key = done.command_key(["seq=a", "stage=all"], [CONF_DIR])
    assert key == done.command_key(["stage=all", "seq='b c'", "overlay=false", "hydra/launcher=joblib", "logger=wandb"], [CONF_DIR])
    assert key != done.command_key(["seq=a", "stage=create"], [CONF_DIR])
    assert key != done.command_key(["seq=a", "stage=all", "create.stride=2"], [CONF_DIR])
    monkeypatch.setenv("MANO_DIR", "/elsewhere")
    assert key != done.command_key(["seq=a", "stage=all"], [CONF_DIR])


def test_a_batch_leaves_out_what_is_done_and_tells_it_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    names = [f"s{k:03d}" for k in range(200)]
    for name in names:
        stub(tmp_path, name)
    arguments = commandline.resolved(["-m", "stage=all", "seq=all", f"data_root={tmp_path}"], CONF_DIR)
    key = done.command_key(commandline.overrides_in(arguments), [CONF_DIR])
    for name in names[:-2]:
        done.write(tmp_path / name, key, [], STAGES)
    left = batch.remaining(arguments, CONF_DIR)
    assert left is not None and "seq=s198,s199" in left and "hydra/sweeper=batch" in left
    assert "seq=s198,s199" not in (batch.remaining([*arguments, "force=true"], CONF_DIR) or [])
    for name in names[-2:]:
        done.write(tmp_path / name, key, [], STAGES)
    assert batch.remaining(arguments, CONF_DIR) is None
    assert not summary.conclude(tmp_path / "out", summary.up_to_date())
    assert "200 of 200 sequences were up to date; table: " in capsys.readouterr().out
    with (tmp_path / "out" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["seq"] for r in rows] == names and {r["create/verdict"] for r in rows} == {"warn"}


def test_the_mark_and_failures_are_no_records_of_stages(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    seq = Sequence(tmp_path, stub(tmp_path, "a").name)
    records.write(seq, "create", {"error": "no video"}, "failed.json")
    done.write(seq.root, "key", [], STAGES)
    assert records.of_sequence(seq) == [] and not caplog.records


def launch(cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(LAUNCH), *COMMAND, *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def open_files(folder: Path) -> set[str]:
    """What a process has open, by its folder /proc/<pid>/fd; files that it closes meanwhile are left out."""
    found = set()
    with suppress(OSError):  # it ended, or is of another user
        for link in folder.iterdir():
            with suppress(OSError):
                found.add(os.readlink(link))
    return found


def kill_job(folder: Path, name: str) -> None:
    """Kill the process that runs a job, which is the one that has its log open."""
    until = time.monotonic() + 200
    while time.monotonic() < until:
        for log in folder.glob(f"*/*_{name}/run.log"):
            for process in Path("/proc").glob("[0-9]*/fd"):
                if str(log) in open_files(process):
                    os.kill(int(process.parent.name), signal.SIGKILL)
                    return
        time.sleep(0.01)
    raise AssertionError(f"no process runs the job of {name}")


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, seq = tmp_path_factory.mktemp("batch"), make_sequence(("right",), frames=4)
    for launcher in ("joblib", "submitit_local", "ray"):
        for name in ("a", "b"):
            write_tracker_files(seq, root / launcher / "data" / name)
    return root


@pytest.mark.parametrize(
    ("launcher", "package", "options"),
    [
        ("joblib", "cloudpickle", ("hydra.launcher.n_jobs=2",)),
        ("submitit_local", "submitit", ()),
        ("ray", "ray", ("hydra.launcher.workers=2",)),
    ],
)
def test_a_killed_job_does_not_stop_the_others_and_the_same_command_completes_the_batch(
    sequences: Path, launcher: str, package: str, options: tuple[str, ...]
):
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    root, given = sequences / launcher, ("seq=all", f"hydra/launcher={launcher}", *options)
    first = launch(root, *given)
    kill_job(root / "outputs" / "multirun", "b")
    text, _ = first.communicate(timeout=240)
    assert first.returncode == 1, text
    assert "1 of 2 jobs succeeded" in text and "Traceback" not in text
    with next((root / "outputs" / "multirun").glob("*/summary.csv")).open() as file:
        rows = {r["seq"]: r for r in csv.DictReader(file)}
    assert rows["a"]["status"] == "ok" and rows["b"]["status"] == "failed"
    assert "killed" in rows["b"]["error"] or "ended without a result" in rows["b"]["error"]
    again = launch(root, *given)
    text, _ = again.communicate(timeout=240)
    assert again.returncode == 0, text
    assert "1 of 2 sequences were up to date; 1 of 1 jobs succeeded" in text


@pytest.mark.parametrize("left", [None, "", "- se"])
def test_a_job_killed_while_its_folder_was_written_is_in_the_table_with_its_overrides(tmp_path: Path, left: str | None):
    hydra = {"sweep": {"dir": str(tmp_path), "subdir": "1_b"}, "overrides": {"task": ["seq=b", "weights.contact=10"]}, "job": {}}
    loader = SimpleNamespace(load_sweep_config=lambda config, overrides: OmegaConf.create({"hydra": hydra}))
    killed = Job(1, ["seq=b", "weights.contact=10"], OmegaConf.create(), SimpleNamespace(config_loader=loader), None, {})
    if left is not None:
        (tmp_path / "1_b" / ".hydra").mkdir(parents=True)
        (tmp_path / "1_b" / ".hydra" / "overrides.yaml").write_text(left)
    assert math.isnan(returned(killed, Failed("its process was killed")).return_value)
    (row,) = summary.collect(tmp_path)
    assert (row["seq"], row["weights.contact"], row["status"], row["error"]) == ("b", "10", "failed", "its process was killed")


@pytest.mark.parametrize("launcher", ["submitit_local", "submitit_slurm"])
def test_a_job_that_starts_before_it_is_registered_succeeds(launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    submitit = pytest.importorskip("submitit")
    folder = OmegaConf.merge(
        OmegaConf.load(CONF_DIR / "hydra" / "launcher" / f"{launcher}.yaml"), {"hydra": {"sweep": {"dir": str(tmp_path)}}}
    ).folder
    register = submitit.core.utils.JobPaths.move_temporary_file

    def late(*arguments: Any) -> None:
        time.sleep(3)
        register(*arguments)

    monkeypatch.setattr(submitit.core.utils.JobPaths, "move_temporary_file", late)
    assert submitit.AutoExecutor(folder=folder, cluster="local").submit(len, "abc").result() == 3


def test_without_slurm_the_cluster_is_refused_in_one_line(sequences: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(sequences))
    refused = launch(sequences / "joblib", "seq=a,b", "force=true", "hydra/launcher=submitit_slurm")
    text, _ = refused.communicate(timeout=240)
    assert refused.returncode == 1
    assert "Traceback" not in text
    assert text.splitlines()[-1].startswith("error: hydra/launcher=submitit_slurm: this machine has no Slurm")
