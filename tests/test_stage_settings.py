"""Which values decide about a stage: all that change its result, and no other."""

import os
import shutil
import stat
import warnings
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from holdprep.configured import Configured, configure
from holdprep.errors import ConfigError
from holdprep.hand.model import export_mano_pkl
from holdprep.optimisation import Optimisation, Training
from holdprep.sequence import Sequence
from holdprep.stages import inputs
from tests.running import CONF, composed, run
from tests.synthetic import make_sequence, write_tracker_files

SETTINGS = {
    "create": inputs.create_settings,
    "segment": inputs.segment_settings,
    "hand_pose": inputs.hand_pose_settings,
    "register": inputs.register_settings,
    "object_pose": inputs.object_pose_settings,
    "align": inputs.align_settings,
    "build": inputs.build_settings,
}


@pytest.mark.parametrize(
    ("base", "override", "stages"),
    [
        ((), "hands.length_mm=185", {"hand_pose", "register", "align"}),
        ((), "object.diameter_mm=120", {"align"}),
        (("hand=hamer",), "hands.length_mm=185", {"register", "align"}),
        ((), "hands.which=left", {"segment", "hand_pose", "register"}),
        ((), "seed=1", {"object_pose", "align"}),
        (("segmenter=truth",), "seed=1", {"segment", "object_pose", "align"}),
        (("hand=truth",), "seed=1", {"hand_pose", "object_pose", "align"}),
        (("object_pose=import",), "seed=1", {"align"}),
        ((), "create.raw_images=false", set()),
        ((), "create.stride=5", {"create"}),
        ((), "segmenter.ui=true", set()),
        ((), "hand.threads=4", set()),
        ((), "object_pose.threads=8", set()),
        ((), "registration.save_mesh=true", set()),
        ((), "weights.contact=7", {"align"}),
        ((), "object_pose.focal_px=600", {"hand_pose", "object_pose"}),
        ((), "build.shift=paper", {"build"}),
        ((), "device=cuda", set()),
        ((), "on_fail=warn", set()),
    ],
)
def test_a_setting_concerns_the_stages_that_it_changes(base: tuple[str, ...], override: str, stages: set[str]):
    before, after = composed(*base), composed(*base, override)
    assert {name for name, settings in SETTINGS.items() if settings(before) != settings(after)} == stages


def test_metros_files_are_inputs_where_they_are_imported(tmp_path: Path):
    seq = Sequence(tmp_path, "s")
    found = inputs.hand_pose_files(composed("hand=import", "hand.format=metro"), seq)
    assert {seq.path(a) for a in ("v3d_metro", "j2d_metro", "boxes")} <= set(found.values())
    assert inputs.hand_pose_outputs(composed("hand=import", "hand.format=metro")) == ()
    assert set(inputs.hand_pose_outputs(composed("hand=metro"))) == {"v3d_metro", "j2d_metro", "boxes"}


def configured(root: Path, *told: str) -> Configured:
    lines = [f"data_root={root}", "seq=s", "logger=none", *told]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return configure(compose("config", lines), lines)


def test_the_hand_model_stays_whatever_the_shell_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data, mano = tmp_path / "data", tmp_path / "mano"
    mano.mkdir()
    export_mano_pkl(mano)
    monkeypatch.delenv("MANO_DIR", raising=False)
    write_tracker_files(make_sequence(("right",), frames=12), data / "s")
    told = ("seq=s", "stage=register", "on_fail=warn")
    assert run(data, tmp_path / "0", *told)["register"]["status"] == "done"
    monkeypatch.setenv("MANO_DIR", str(mano))
    assert run(data, tmp_path / "1", *told)["register"]["status"] == "skipped"  # made with the stand-in, and says so
    assert run(data, tmp_path / "2", *told, f"hand_model.path={mano}")["register"]["status"] == "done"
    monkeypatch.delenv("MANO_DIR")
    assert configured(data).cfg.hand_model.path == mano
    assert run(data, tmp_path / "3", *told)["register"]["status"] == "skipped"
    shutil.rmtree(mano)
    with pytest.raises(ConfigError, match=r"the hands of s were made with the model in .*mano, which does not exist: set hand_model.path"):
        configured(data)
    assert configured(data, "hand_model.path=null").cfg.hand_model.path is None


def test_the_demo_is_unpacked_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told = [f"data_root={tmp_path}", "seq=demo"]
    real, calls = shutil.copyfile, []

    def copy(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(source, target)

    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", told)
        monkeypatch.setattr(shutil, "copyfile", copy)
        with pytest.raises(KeyboardInterrupt):
            configure(cfg, told)
        assert not (tmp_path / "demo").exists()
        configure(cfg, told)
    assert {p.name for p in (tmp_path / "demo").iterdir()} == {"video.mp4", "prompts.yaml", "holdprep.yaml", "LICENSE.visp"}


class Once(Optimisation):
    """One iteration that does nothing."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)

    def iterate(self) -> dict[str, float]:
        self.finished = True
        return {"loss": 0.0}


def test_an_optimisation_is_quiet_on_a_host_with_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/sh\n")
    srun.chmod(srun.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        Training().fit(Once("x"), 1)
    assert not [str(w.message) for w in said if "srun" in str(w.message)]
    assert "srun" not in "".join(capfd.readouterr())
