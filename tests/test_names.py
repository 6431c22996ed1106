"""Names are taken as they are typed; folders of a user's own options work as Hydra's users expect."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from holdprep.config import commandline, memory, validation
from holdprep.config.literal import as_typed, literal, quoted
from holdprep.configured import configure
from holdprep.errors import ConfigError
from tests.running import CONF

LAUNCH = Path(__file__).parent.parent / "launch.py"
FILES = (
    "IMG_0001 (1).MOV", "手と物.mp4", "Fan's clip.mp4", "clip,final.mp4", "IMG~2.mp4", "v=2.mp4", "a b.mp4", "clip(1).mp4", "[a].mp4",
    "{b}.mp4", "20200709_141754.mp4", "2024", "1e5", "true", "nan", "a#b;c&d.mp4", 'say "hi".mp4', "it\\'s.mp4", "end\\", "x'", "a\tb", "Zoë.mp4",
)  # fmt: skip


def value_of(override: str) -> object:
    (parsed,) = OverridesParser.create().parse_overrides([override])
    return parsed.value()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("key", ["video", "hand.folder", "data_root", "+hand_model.path"])
def test_a_path_is_taken_as_typed(name: str, key: str):
    assert value_of(as_typed(f"{key}={name}", False)) == name
    assert value_of(f"key={literal(name)}") == name == value_of(f"key={quoted(name)}")


@pytest.mark.parametrize("name", FILES)
def test_a_path_reaches_the_configuration(name: str):
    told = commandline.resolved(["stage=create", f"video={name}"], CONF)
    validation.check_overrides(commandline.overrides_in(told), CONF)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert validation.validate(compose("config", told)).video == Path(name)


@pytest.mark.parametrize("name", ["20200709_141754", "2024", "1e5", "手と物", "007", "null2", "Größe_2"])
def test_a_sequence_name_is_a_name(tmp_path: Path, name: str):
    told = commandline.resolved([f"seq={name}", f"data_root={tmp_path}", "stage=align"], CONF)
    validation.check_overrides(commandline.overrides_in(told), CONF)
    (tmp_path / name).mkdir()
    (tmp_path / name / "holdprep.yaml").write_text("create: {stride: 3}\n")  # it is composed again with the sequence's own settings
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert configure(compose("config", told), told, unpack=False).cfg.seq == name


def test_the_home_folder_sweeps_and_other_meanings_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert value_of(as_typed("video=~/my clip.mp4", False)) == f"{tmp_path}/my clip.mp4"
    assert as_typed("seq=2024,b,2025_1", True) == "seq='2024',b,'2025_1'"
    assert as_typed("seqs=[2024,b]", False) == "seqs=['2024',b]"
    monkeypatch.chdir(tmp_path)
    assert as_typed("video=a.mp4,b.mp4", True) == "video=a.mp4,b.mp4"
    (tmp_path / "a.mp4,b.mp4").touch()
    assert value_of(as_typed("video=a.mp4,b.mp4", True)) == "a.mp4,b.mp4"  # a file of this name exists
    for same in ("video=null", "seq=glob(cup*)", "video='a b'", "weights.contact=1,2", "~video", "seq=all"):
        assert as_typed(same, True) == same
    with pytest.raises(ConfigError, match="seq=a,b names 2 sequences: add -m"):
        commandline.resolved(["seq=a,b"], CONF)


def test_what_cannot_be_read_is_one_line(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"clip\.mp4 is no key=value: a name with blanks needs the shell's quotes"):
        commandline.resolved(["stage=create", "video=my", "clip.mp4"], CONF)
    found = launch(tmp_path, "stage=create", "seq=a", "video=${x}.mp4")
    lines = (found.stdout + found.stderr).splitlines()
    assert found.returncode == 1 and len(lines) == 1 and "Interpolation key 'x' not found" in lines[0] and "write \\${" in lines[0]
    assert "video ${x}.mp4 does not exist" in (again := launch(tmp_path, "stage=create", "seq=a", "video=\\${x}.mp4")).stdout + again.stderr
    for name in ("my clip", "clip(1)"):
        found = launch(tmp_path, "stage=create", f"seq={name}")
        assert f"seq={name}: not allowed; allowed: str of letters, digits, _ . -" in found.stdout + found.stderr


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of a user's own options."""
    for name, text in {
        "experiment/mine": "# @package _global_\ndefaults:\n  - override /weights: heavy\ncreate: {stride: 5}\n",
        "experiment/bare": "# @package _global_\nhands: {which: left}\n",
        "weights/heavy": "defaults:\n  - generic\ncontact: 99\n",
    }.items():
        path = tmp_path / "my conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "my conf"


@pytest.mark.parametrize(
    "form", ["--config-dir {}", "--config-dir={}", "-cd {}", "hydra.searchpath=['file://{}']", "hydra.searchpath=['{}']"]
)
@pytest.mark.parametrize("order", [1, -1])
def test_own_experiments_and_options(own: Path, form: str, order: int):
    flags = [part.format(own) for part in form.split(" ", 1)]
    told = commandline.resolved(
        [*flags, "+experiment=mine", "stage=create"] if order > 0 else ["+experiment=mine", "stage=create", *flags], CONF
    )
    validation.check_overrides(commandline.overrides_in(told), CONF)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = validation.validate(compose("config", told))
    assert (cfg.create.stride, cfg.weights.contact) == (5, 99)
    earlier = [{"given": {"create.stride": "create.stride=2", "weights.contact": "weights.contact=1", "hands": "hands=both"}}]
    assert set(memory.settings(own / "none.yaml", earlier, told, CONF).remembered) == {"hands"}  # what the experiment sets comes first


def test_unknown_options_and_folders_are_named(own: Path):
    with pytest.raises(ConfigError, match="experiment=mine: no such option"):
        validation.check_overrides(["+experiment=mine"], CONF)
    validation.check_overrides(["+experiment=bare", f"hydra.searchpath=['{own}']"], CONF)
    with pytest.raises(ConfigError, match="nowhere is not a folder"):
        commandline.resolved(["--config-dir", "nowhere"], CONF)


def launch(cwd: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(LAUNCH), *arguments]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300, check=False)


def test_completion_is_hydras(tmp_path: Path):
    found = launch(tmp_path, "-sc", "query=bash", COMP_LINE="launch.py stage=al", COMP_POINT="18")
    assert set(found.stdout.split()) >= {"stage=align", "stage=all"}, found.stderr
    assert not list(tmp_path.iterdir())


def test_paths_are_those_of_the_folder_of_the_command(tmp_path: Path):
    """hydra.job.chdir=true changes the folder, not the meaning of a path."""
    (tmp_path / "in").mkdir()
    found = launch(tmp_path, "hydra.job.chdir=true", "stage=create", "seq=a", "video=in", "data_root=my data")
    assert "in holds no" in found.stdout + found.stderr or str(tmp_path / "in") in found.stdout, found.stdout + found.stderr
    assert not [p for p in (tmp_path / "outputs").rglob("my data")]
