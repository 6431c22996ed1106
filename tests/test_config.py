"""A wrong command line is refused by the key's full name, in one line, before anything runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from holdprep.align import term_files, terms
from holdprep.config import helptext, validation
from holdprep.config.schema import Config, Weights
from holdprep.errors import ConfigError

CONF = Path(__file__).parent.parent / "conf"


def composed(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return validation.validate(compose("config", list(overrides)))


def test_defaults_are_valid_and_run_the_demo():
    cfg = composed()
    assert (cfg.stage, cfg.seq, cfg.data_root, cfg.hand.name) == ("all", "demo", Path("data"), "mediapipe")


@pytest.mark.parametrize(
    "path", sorted(CONF.glob("[!h]*/*.yaml")) + sorted(CONF.glob("hand*/*.yaml")), ids=lambda p: f"{p.parent.name}-{p.stem}"
)
def test_every_option_of_every_group_is_valid(path: Path):
    group = path.parent.name
    composed(f"+{group}={path.stem}" if group in ("sweep", "experiment") else f"{group}={path.stem}")


def test_thresholds_are_checked_by_name_and_kind():
    assert composed("gates={object_pose.registered_pct:[95,80]}").gates == {"object_pose.registered_pct": (95, 80)}
    with pytest.raises(
        ConfigError, match=r"there is no gate for a metric named 'object_pose.registred_pct' \(did you mean 'object_pose.registered_pct'"
    ):
        composed("gates={object_pose.registred_pct:[95,80]}")
    with pytest.raises(ConfigError, match=r"object_pose.focal_ratio=\[0.7, 0.5\]: two bounds like 0.60 to 2 are needed"):
        composed("gates={object_pose.focal_ratio:[0.7,0.5]}")


@pytest.mark.parametrize("hand", ["mediapipe", "hamer", "metro"])
def test_a_known_camera_is_told_once(hand: str):
    assert composed(f"hand={hand}", "object_pose.focal_px=600").hand.focal_px == 600
    assert composed(f"hand={hand}", "object_pose.focal_px=600", "hand.focal_px=500").hand.focal_px == 500
    assert composed(f"hand={hand}").hand.focal_px is None
    assert composed(f"hand={hand}", "object_pose=truth").hand.focal_px is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("weights.contcat=10", ["weights.contcat", "weights.contact"]),
        ("stgae=align", ["stgae", "stage"]),
        ("stage=algin", ["stage=algin", "'align'", "object_pose"]),
        ("weights.contact=-1", ["weights.contact=-1", ">= 0"]),
        ("weights.contact=10,ten", ["weights.contact=ten", "float"]),
        ("weights.contact=inf", ["weights.contact=inf", "float"]),
        ("weights.contact=nan", ["weights.contact=nan", "float"]),
        ("create.stride=0", ["create.stride=0", ">= 1"]),
        ("mode=x", ["mode=x", "h | o | ho"]),
        ("hand.folder=x", ["hand.folder"]),
        ("hand=medipipe", ["hand=medipipe", "'mediapipe'"]),
        (
            "object_pose=aliked",
            [
                "object_pose=aliked",
                "allowed: auto, import, sift, sift_xfeat, silhouettes, superpoint_lightglue, superpoint_superglue, truth, xfeat",
            ],
        ),
        ("seq=a/b", ["seq=a/b", "letters, digits"]),
        ("build.shift=orgin", ["'origin'", "origin | fixed | paper"]),
        ("force=maybe", ["force=maybe", "bool"]),
    ],
)
def test_wrong_overrides_are_refused_in_one_line(override: str, words: list[str]):
    with pytest.raises(ConfigError) as error:
        validation.check_overrides([override], CONF)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    "override",
    [
        "weights.contact=10,100",
        "hands.length_mm=185",
        "hand=import",
        "seq=a,b",
        "object_pose.focal_px=null",
        "create.crop=[0,0,64,64]",
        "video=/x/a b.mp4",
    ],
)
def test_right_overrides_pass(override: str):
    validation.check_overrides([override.replace("a b", "ab")], CONF)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["logger.wandb.project=x"], "'logger.wandb.project' with logger=csv; it belongs to logger=wandb"),
        (["logger=[csv,tensorboard]", "logger.wandb.project=x"], "with logger=csv,tensorboard; it belongs to logger=wandb"),
        (["callbacks.early_stopping.patience=5"], "with callbacks=none; it belongs to callbacks=early_stopping"),
        (["hand.folder=x"], "'hand.folder' with hand=mediapipe; it belongs to hand=import"),
        (["segmenter.weights=x"], "with segmenter=classical; it belongs to segmenter=sam2 or segmenter=sam3"),
    ],
)
def test_a_key_of_another_option_is_refused_with_the_option_that_has_it(overrides: list[str], words: str):
    with pytest.raises(ConfigError) as error:
        validation.check_overrides(overrides, CONF)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("logger", ["logger=wandb", "logger=[csv,wandb]"])
def test_keys_of_a_chosen_logger_are_known(logger: str):
    validation.check_overrides([logger, "logger.wandb.project=x"], CONF)
    node = composed(logger, "logger.wandb.project=x").logger.wandb
    assert node is not None and node.project == "x"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the new term of holdprep/README.md and its line of yaml; the rest are links."""
    root = CONF.parent
    links = [p for p in (root / "holdprep").iterdir() if p.name not in ("align", "__pycache__", "configured.py", "config")]
    for folder in ("conf", "holdprep/align", "holdprep/config"):
        shutil.copytree(root / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in links:
        (tmp_path / path.relative_to(root)).symlink_to(path)
    for path in ("launch.py", "holdprep/configured.py"):  # Python and CONF_DIR resolve links: these must be files of the checkout
        shutil.copy(root / path, tmp_path / path)
    (module, _, code), (option, _, line) = re.findall(
        r"^`(\S+)`:\n\n```(python|yaml)\n(.*?)^```$", (root / "holdprep" / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    (tmp_path / module).write_text(code)
    with (tmp_path / option).open("a") as file:
        file.write(line)
    return tmp_path


def in_checkout(checkout: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=checkout, env=environment)


def test_a_new_terms_weight_is_a_key(checkout: Path):
    listed = in_checkout(checkout, "launch.py", "--help").stdout
    assert (
        "  weights.far                  Depth by which the hand's centroid is nearer than half a metre (px^2 per m^2).  [float >= 0 or null; 2.0]"
        in listed
    )
    told = ("-m", "holdprep.cli_of_test", "stage=create", "weights.far=3")
    (checkout / "holdprep" / "cli_of_test.py").write_text(
        "import sys\nfrom hydra import compose, initialize_config_dir\nfrom holdprep import configured\nfrom holdprep.align.problem import Weights\n"
        "from holdprep.align.terms import every\nfrom holdprep.config import validation\n"
        "validation.check_overrides(sys.argv[1:], configured.CONF_DIR)\n"
        "with initialize_config_dir(str(configured.CONF_DIR), version_base='1.3'):\n"
        "    told, untold, other = (validation.validate(compose('config', x)) for x in (sys.argv[1:], [], ['weights=arctic']))\n"
        "found = [Weights.from_dict(x.weights.model_dump()) for x in (told, untold, other)]\n"
        "print([x.of('far') for x in found], 'far' in found[2].with_open({n: 1.0 for n in vars(found[2])}), [c.name for c in every()])\n"
    )
    done = in_checkout(checkout, *told)
    assert "[3.0, 2.0, None] False" in done.stdout and "'far'" in done.stdout, done.stderr
    for value, words in (("weights.far=-1", "weights.far=-1: not allowed"), ("weights.farr=1", "did you mean 'weights.far'?")):
        refused = in_checkout(checkout, "launch.py", value)
        assert refused.returncode == 1 and words in refused.stderr and len(refused.stderr.splitlines()) == 1


def test_without_the_terms_file_its_weight_is_no_key():
    with pytest.raises(ConfigError, match=r"unknown key 'weights.far'"):
        validation.check_overrides(["weights.far=3"], CONF)


def test_terms_are_found_without_importing_them():
    assert list(term_files.files()) == terms.names() == [term.name for term in terms.every()]
    assert set(term_files.files()) < set(Weights.model_fields)


def test_keys_of_a_chosen_option_are_known():
    validation.check_overrides(["hand=import", "hand.folder=x"], CONF)
    validation.check_overrides(["segmenter=import", "segmenter.right=x"], CONF)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("weights.contcat", 3, ["weights.contcat", "weights.contact"]),
        ("segmenter.work_side", 1, ["segmenter.work_side=1", ">= 160"]),
        ("object_pose.attempts", [{"upsampel": 3}], ["object_pose.attempts", "upsampel"]),
        ("object_pose.attempts", [{"erode_px": -1}], ["erode_px=-1", ">= 0"]),
    ],
)
def test_wrong_yaml_is_refused(key: str, value: object, words: list[str]):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["object_pose=auto"])
    OmegaConf.set_struct(cfg, False)
    OmegaConf.update(cfg, key, value)
    with pytest.raises(ConfigError) as error:
        validation.validate(cfg)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_help_has_defaults_and_only_the_keys_of_the_chosen_options():
    described = helptext.text([], CONF)
    for key in ("weights.contact", "create.stride", "data_root", "hand.smooth", "segmenter.prompts"):
        assert f"  {key} " in described
    (line,) = [line for line in described.splitlines() if line.startswith("  create.max_side ")]
    assert line.endswith("[int >= 64; 2000]")
    assert "hand.checkpoint" not in described and "  source.object " not in described
    chosen = helptext.text(["hand=hamer", "source=synthetic", "video=a.mp4"], CONF)
    assert "  hand=hamer\n" in chosen and "  hand.checkpoint " in chosen and "  source.object " in chosen and "hand.smooth" not in chosen


@pytest.mark.parametrize("key", ["align.scale=contact", "align.refine_shape=true", "align.refine_obj_pose=true"])
def test_what_holds_own_method_does_not_do_is_refused(key: str):
    with pytest.raises(ConfigError, match=f"unknown key '{key.partition('=')[0]}'"):
        validation.check_overrides(["align=hold", key], CONF)
    validation.check_overrides([key], CONF)
