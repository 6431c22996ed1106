"""+reproduce=<run folder>: a run again with its own settings, and what differs since."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from holdprep import cli
from holdprep.config import validation
from holdprep.configured import CONF_DIR
from holdprep.errors import ConfigError
from holdprep.io.bounded import read_yaml
from holdprep.sweeps import provenance

GIVEN = [
    *("seq='2024'", "stage=align", "mode=ho", "weights.contact=33.5", "object_pose=import"),
    *("hand=import", "hand.format=wilor", "create.crop=[1,2,3,4]", "registration=adam"),
]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run's folder as the command leaves it, of the overrides GIVEN and one input."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("config", GIVEN, return_hydra_config=True)
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create({"hydra": {"runtime": {"choices": dict(cfg.hydra.runtime.choices)}}}), folder / ".hydra" / "hydra.yaml")
    plain = OmegaConf.masked_copy(cfg, [str(k) for k in cfg if k != "hydra"])
    OmegaConf.save(OmegaConf.create(validation.validate(plain).model_dump(mode="json")), folder / "resolved.yaml")
    (tmp_path / "clip.mp4").write_bytes(b"one")
    provenance.write(folder, {"video": tmp_path / "clip.mp4"})
    return folder


def composed(arguments: list[str]) -> dict:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return validation.validate(compose("config", arguments)).model_dump(mode="json")


def test_the_repeated_run_has_the_same_configuration(run_dir: Path):
    found, lines = provenance.expanded([f"+reproduce={run_dir}", "device=cpu"], CONF_DIR)
    assert lines == ["code, packages and inputs are those of the run"]
    again, before = composed(found), read_yaml(run_dir / "resolved.yaml")
    for tree in (again, before):
        for key in ("overlay", "force", "logger"):
            tree.pop(key)
    assert again == before
    assert {"overlay=true", "force=true"} <= set(found)
    other, _ = provenance.expanded([f"+reproduce={run_dir}", "weights.contact=5"], CONF_DIR)
    assert composed(other)["weights"]["contact"] == 5


def test_what_differs_is_named(run_dir: Path, tmp_path: Path):
    (tmp_path / "clip.mp4").write_bytes(b"two")
    made = json.loads((run_dir / "provenance.json").read_text())
    made["code"], made["packages"]["numpy"] = "another", "1.0"
    (run_dir / "provenance.json").write_text(json.dumps(made))
    _, lines = provenance.expanded([f"+reproduce={run_dir}"], CONF_DIR)
    assert any(line.startswith("the code differs") for line in lines)
    assert any(line.startswith("numpy ") and line.endswith("the run had 1.0") for line in lines)
    assert f"input video differs: {tmp_path / 'clip.mp4'}" in lines
    (tmp_path / "clip.mp4").unlink()
    assert f"input video is gone: {tmp_path / 'clip.mp4'}" in provenance.expanded([f"+reproduce={run_dir}"], CONF_DIR)[1]


def test_a_folder_without_a_run_is_one_line(tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="no folder of a run that can be repeated") as refused:
        provenance.expanded([f"+reproduce={tmp_path}"], CONF_DIR)
    assert "\n" not in str(refused.value)
    (run_dir / "provenance.json").write_text("{}")
    with pytest.raises(ConfigError, match="no folder of a run"):
        provenance.expanded([f"+reproduce={run_dir}"], CONF_DIR)
    monkeypatch.setattr("sys.argv", ["launch.py", f"+reproduce={tmp_path}"])
    with pytest.raises(SystemExit, match="error: reproduce="):
        cli.main()
