"""holdprep.yaml: any key, any option, under the command line's keys; what is wrong in it is named with the file."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from holdprep.config import memory, validation
from holdprep.config.schema import Config
from holdprep.errors import ConfigError

CONF = Path(__file__).parent.parent / "conf"


def merged(tmp_path: Path, text: str, *told: str) -> Config:
    path = tmp_path / "holdprep.yaml"
    path.write_text(text)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return validation.validate(compose("config", [*memory.overrides(path, told, CONF), *told]))


def test_keys_and_options_of_the_file_hold(tmp_path: Path):
    text = """
create: {stride: 3, crop: [0, 0, 64, 48]}
hands: left
segmenter: {name: import, right: "a folder/masks"}
registration: {method: adam, max_iterations: 7}
weights: {contact: 7}
gates: {object_pose.registered_pct: [95, 80], object_pose.focal_ratio: [[0.7, 1.5], null]}
"""
    cfg = merged(tmp_path, text)
    assert (cfg.create.stride, cfg.create.crop) == (3, (0, 0, 64, 48))
    assert cfg.hands.which == "left"
    assert cfg.segmenter.name == "import"
    assert cfg.segmenter.right == tmp_path / "a folder" / "masks"  # beside the file
    assert cfg.registration.method == "adam"
    assert cfg.registration.max_iterations == 7
    assert cfg.weights.contact == 7
    assert cfg.gates == {"object_pose.registered_pct": (95, 80), "object_pose.focal_ratio": ((0.7, 1.5), None)}
    assert merged(tmp_path, "") == merged(tmp_path, "# nothing")


@pytest.mark.parametrize(
    ("text", "told", "key", "value"),
    [
        ("hands: {length_mm: 180}", "hands.length_mm=null", "hands.length_mm", None),
        ("create: {stride: 3}", "create.stride=null", "create.stride", None),
        ("create: {crop: [0, 0, 9, 9]}", "create.crop=[0,0,5,5]", "create.crop", (0, 0, 5, 5)),
        ("hands: {which: left}", "hands=right", "hands.which", "right"),
        ("weights: {contact: 7}", "weights=arctic", "weights.contact", 10),
        ("hand: {name: import, format: metro}", "hand=mediapipe", "hand.name", "mediapipe"),
        ("weights: {contact: 7, j2d: 2}", "weights.contact=8", "weights.j2d", 2),
    ],
)
def test_the_command_line_comes_after_the_file(tmp_path: Path, text: str, told: str, key: str, value: object):
    cfg = merged(tmp_path, text, told)
    for name in key.split("."):
        cfg = getattr(cfg, name)
    assert cfg == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("create: {strid: 3}", ["create.strid", "'create.stride'"]),
        ("hand: medipipe", ["hand=medipipe", "'mediapipe'"]),
        ("hands: " + 300 * "left", ["hands=left", "no such option"]),
        ("segmenter: imp." + 5000 * "9", ["segmenter=imp.9", "no such option"]),
        ("create: [", ["is not YAML"]),
        ("- a", ["holds a list"]),
        ("seq: other", ["seq determines the path of this file"]),
        ("create: {stride: abc}", ["create.stride=abc"]),
    ],
)
def test_mistakes_are_named_with_the_file(tmp_path: Path, text: str, words: list[str]):
    with pytest.raises(ConfigError) as error:
        merged(tmp_path, text)
    assert all(word in str(error.value) for word in ["holdprep.yaml", *words])
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_another_encoding_is_named(tmp_path: Path):
    (tmp_path / "holdprep.yaml").write_bytes("seq: é".encode("latin-1"))
    with pytest.raises(ConfigError, match="UTF-8"):
        memory.overrides(tmp_path / "holdprep.yaml", [], CONF)


RECORDS = [
    {"given": {"source": "source=synthetic", "source.object": "source.object=can", "create.max_side": "create.max_side=960"}, "own": {}},
    {"given": {"hand": "hand=hamer", "hand.batch": "hand.batch=8", "weights.nonsense": "weights.nonsense=1"}, "own": {}},
    {"given": {"align": "align=hold", "hands": "hands=left"}, "own": {}},
]


@pytest.mark.parametrize(
    ("told", "gone"),
    [
        ((), ()),
        (("create.max_side=500",), ("create.max_side",)),
        (("hand=mediapipe",), ("hand", "hand.batch")),
        (("hand.batch=4",), ("hand.batch",)),
        (("video=clip.mp4",), ("source", "source.object")),
        (("+experiment=arctic",), ("align", "hands")),
    ],
)
def test_what_is_named_hides_what_was_given_before(tmp_path: Path, told: tuple[str, ...], gone: tuple[str, ...]):
    found = memory.settings(tmp_path / "holdprep.yaml", RECORDS, told, CONF)
    every = {"source", "source.object", "create.max_side", "hand", "hand.batch", "align", "hands"}  # what is no key any more is dropped
    assert set(found.remembered) == every - set(gone)
    assert set(found.named) == {t.lstrip("+").partition("=")[0] for t in told}


def test_paths_that_are_remembered_begin_at_the_root():
    given = {"segmenter.weights": "segmenter.weights=weights/sam2", "hands.length_mm": "hands.length_mm=185"}
    found = memory.absolute(given)
    assert found == given | {"segmenter.weights": f"segmenter.weights={Path('weights/sam2').absolute()}"}
