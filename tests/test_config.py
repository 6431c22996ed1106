"""A wrong command line is refused by the key's full name, in one line, before anything runs."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from holdprep.config import validation
from holdprep.config.schema import Config
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
        ("object_pose=aliked", ["object_pose=aliked", "allowed: auto, import, sift, superpoint_lightglue, superpoint_superglue, truth"]),
        ("seq=a/b", ["seq=a/b", "matching"]),
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


def test_every_key_is_explained():
    described = validation.describe()
    for key in ("weights.contact", "create.stride", "data_root", "hand.focal_px", "segmenter.prompts"):
        assert f"  {key} " in described


@pytest.mark.parametrize("key", ["align.scale=contact", "align.refine_shape=true", "align.refine_obj_pose=true"])
def test_what_holds_own_method_does_not_do_is_refused(key: str):
    with pytest.raises(ConfigError, match=f"unknown key '{key.partition('=')[0]}'"):
        validation.check_overrides(["align=hold", key], CONF)
    validation.check_overrides([key], CONF)
