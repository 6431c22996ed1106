"""Files that travel with a sequence: what they name stays in its folder, and nothing of this machine gets into results."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from holdprep.config import memory
from holdprep.configured import configure
from holdprep.errors import HoldprepError
from holdprep.hand.trackers import hamer_network
from holdprep.object.foreign import read_poses
from holdprep.segmenters.prompts import mask_files, read_prompts
from tests.running import CONF

SECRET = "${oc.env:AWS_SECRET_ACCESS_KEY}"


@pytest.fixture
def box(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "box"
    (folder / "images").mkdir(parents=True)
    cv2.imwrite(str(folder / "images" / "0000.png"), np.zeros((12, 16, 3), np.uint8))
    return folder


def configured(box: Path, *told: str) -> object:
    told = (f"data_root={box.parent}", "seq=box", *told)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return configure(compose("config", list(told)), list(told), unpack=False).cfg


@pytest.mark.parametrize(
    "text",
    [
        f"logger: wandb\nlogger.wandb.project: '{SECRET}'",
        f"hand: {{folder: '{SECRET}'}}",
        "create: {stride: '${oc.decode:3}'}",
        "score_metric: 'x${oc.env:HOME}y'",
        "gates: {'${oc.env:HOME}': [1, 2]}",
        "object_pose: {attempts: [{upsample: '${seed}'}]}",
    ],
)
def test_interpolations_are_refused(box: Path, text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
    (box / "holdprep.yaml").write_text(text)
    with pytest.raises(HoldprepError, match=r"holdprep\.yaml: .*interpolation") as error:
        configured(box)
    assert "s3cr3t" not in str(error.value) and "\n" not in str(error.value)


def test_interpolations_in_other_files_are_refused(tmp_path: Path):
    for name, text, read in (
        ("w.yaml", f"contact: '{SECRET}'", lambda p: memory.expanded(f"weights={p}")),
        ("prompts.yaml", f"frames: {{'0000': {{object: {{mask: '{SECRET}'}}}}}}", read_prompts),
        ("model_config.yaml", f"MODEL: {{IMAGE_SIZE: '{SECRET}'}}", hamer_network._sizes),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(HoldprepError, match=rf"{name}: .*interpolation"):
            read(tmp_path / name)


@pytest.mark.parametrize("given", [SECRET, "${hydra.runtime.cwd}"])
def test_records_do_not_bring_interpolations_or_hydras_keys(box: Path, given: str):
    record = {"format": 2, "outputs": {}, "inputs": {}, "metrics": {}, "settings": {}, "finished": "2025", "own": {}}
    record["given"] = {
        "hand.folder": f"hand.folder='{given}'",
        "hydra.searchpath": "hydra.searchpath=[/x]",
        "seq": "weights.contact=7",
        "hands.length_mm": "hands.length_mm=181",
    }
    path = box / "processed" / ".holdprep" / "register.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record))
    cfg = configured(box, "hand=import")
    assert (cfg.hand.folder, cfg.hands.length_mm, cfg.weights.contact) == (None, 181, None)


@pytest.mark.parametrize("value", ["/etc", "../other", "a/../../../x", "link/x", "loop"])
@pytest.mark.parametrize("key", ["video", "segmenter.right", "hand_model.path"])
def test_paths_of_the_file_stay_in_the_sequence(box: Path, key: str, value: str, tmp_path: Path):
    path = box / "holdprep.yaml"
    (box / "link").symlink_to(tmp_path)
    (box / "loop").symlink_to("loop")
    group, _, name = key.rpartition(".")
    path.write_text(f"{group}: {{{'name: import, ' if group == 'segmenter' else ''}{name}: {value}}}" if group else f"{key}: {value}")
    with pytest.raises(HoldprepError, match=rf"holdprep\.yaml: {key}: .* leads out of .*set {key} on the command line"):
        memory.overrides(path, [], CONF)
    path.write_text(path.read_text().replace(value, "inside/masks"))
    assert f"{key}={box}/inside/masks" in memory.overrides(path, [], CONF)


@pytest.mark.parametrize("key", ["hydra.searchpath: [/x]", "hydra: {run: {dir: /x}}", "+video: x", "~weights: x", "'a b': 1", "'': 1"])
def test_keys_of_hydra_are_no_keys(box: Path, key: str):
    (box / "holdprep.yaml").write_text(key)
    with pytest.raises(HoldprepError, match="unknown key"):
        configured(box)


def test_masks_of_prompts_stay_beside_them(tmp_path: Path):
    folder = tmp_path / "seq"
    folder.mkdir()
    cv2.imwrite(str(tmp_path / "secret.png"), np.full((12, 16), 255, np.uint8))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png"):
        (folder / "prompts.yaml").write_text(f"frames: {{'0000': {{object: {{mask: {name}}}}}}}")
        for read in (read_prompts, mask_files):
            with pytest.raises(HoldprepError, match=r"prompts\.yaml.* leads out of"):
                read(folder / "prompts.yaml")


@pytest.mark.parametrize("where", ["images/0001.png", "processed", "video.mp4", "processed_masks/deep/x.png"])
def test_links_out_of_the_sequence_are_refused(box: Path, where: str, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    link = box / where
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HoldprepError, match="is a link out of the sequence's folder"):
        configured(box)
    link.unlink()
    link.symlink_to(box / "images" / "0000.png")  # a link inside is one
    configured(box)
    (box.parent / "other").symlink_to(box)  # and the folder itself may be one
    configured(box.parent / "other", "seq=other")


def test_a_cloud_of_nerfstudio_is_beside_its_file(tmp_path: Path):
    shots = [{"file_path": "0000.png", "transform_matrix": np.eye(4).tolist()}]
    tree = {"w": 16, "h": 12, "fl_x": 20.0, "ply_file_path": "../../x.ply", "frames": shots}
    (tmp_path / "transforms.json").write_text(json.dumps(tree))
    with pytest.raises(HoldprepError, match=r"transforms\.json.*leads out of"):
        read_poses(tmp_path, ["0000"], (16, 12))
