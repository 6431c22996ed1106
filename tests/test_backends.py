"""Options of hand trackers, segmenters and sources of object poses: one node each, and new ones as conf/README.md says."""

import inspect
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import cv2
import numpy as np
import pytest
import yaml
from pydantic import Field, create_model

from holdprep.backend import Backend
from holdprep.config.schema import Config, Loggers
from holdprep.hand.registration_option import RegistrationMethod
from holdprep.hand.trackers import trackfile
from holdprep.hand.trackers.option import HandTracker
from holdprep.object.option import ObjectPoseSource
from holdprep.pipeline import Context, runner
from holdprep.runlog import RunLog
from holdprep.segmenters.option import Segmenter
from holdprep.sequence import Sequence
from holdprep.stages import GRAPH
from tests.running import CONF, composed

PROTOCOLS: dict[str, type] = {
    "hand": HandTracker,
    "segmenter": Segmenter,
    "object_pose": ObjectPoseSource,
    "registration": RegistrationMethod,
}
STAGES = ("segment", "hand_pose", "object_pose")
FRAMES = ["0000", "0001", "0002"]


def nodes(group: str) -> list[type]:
    """The classes in a group's union."""
    return list(get_args(Config.model_fields[group].annotation))


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize(("group", "option"), [(group, option) for group in PROTOCOLS for option in options(group)])
def test_every_option_has_one_node_that_follows_the_protocol(group: str, option: str):
    tag = str(Config.model_fields[group].discriminator)
    of_option = [node for node in nodes(group) if option in get_args(node.model_fields[tag].annotation)]
    assert len(of_option) == 1
    node = getattr(composed(f"{group}={option}"), group)
    assert type(node) is of_option[0]
    assert isinstance(node, PROTOCOLS[group])


@pytest.mark.parametrize("group", PROTOCOLS)
def test_every_node_has_an_option_and_an_implementation(group: str):
    tag = str(Config.model_fields[group].discriminator)
    assert sorted(name for node in nodes(group) for name in get_args(node.model_fields[tag].annotation)) == options(group)
    for node in nodes(group):
        methods = inspect.getmembers(node, inspect.isfunction)
        assert not [name for name, method in methods if "NotImplementedError" in method.__code__.co_names]


def test_the_configuration_imports_nothing_heavy():
    code = "import sys, holdprep.config; print([m for m in ('numpy', 'torch', 'cv2', 'scipy', 'pycolmap', 'trimesh') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CONF.parent)
    assert found.stdout.strip() == "[]"


def test_a_sequence_imports_no_torch():
    code = "import sys, holdprep.sequence.colmap; print([m for m in ('torch', 'pycolmap', 'trimesh') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CONF.parent)
    assert found.stdout.strip() == "[]"


@dataclass(frozen=True)
class Example:
    """A new option of the page: its group, its node's class and the values of its yaml file."""

    group: str
    node: type[Backend]
    values: dict[str, Any]


def examples() -> list[Example]:
    """The options that conf/README.md adds."""
    page = (CONF / "README.md").read_text()
    blocks = re.findall(r"^`(\S+)`:\n\n```(python|yaml)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    found = []
    for (module, _, code), (option, _, values) in zip(blocks[::2], blocks[1::2], strict=True):
        group, name = Path(option).parent.name, Path(option).stem
        assert Path(module).name == f"{name}_option.py" and (CONF.parent / module).parent.is_dir()
        namespace: dict[str, Any] = {"__name__": f"example.{name}"}
        exec(compile(code, module, "exec"), namespace)
        (node,) = [v for v in namespace.values() if isinstance(v, type) and v.__module__ == namespace["__name__"]]
        found.append(Example(group, node, yaml.safe_load(values)))
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sequence `s` of grey pictures with a dark square, and a bright one beside it."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "s" / "images").mkdir(parents=True)
    for t, name in enumerate(FRAMES):
        picture = np.full((120, 160, 3), 128, np.uint8)
        picture[40:80, 30 + t : 70 + t], picture[40:80, 90:120] = 20, 240
        cv2.imwrite(str(folder / "s" / "images" / f"{name}.png"), picture)
    return folder


def widened(*added: Example) -> type[Config]:
    """The configuration with classes added to the unions of their groups."""
    fields: dict[str, Any] = {}
    for example in added:
        field = Config.model_fields[example.group]
        union: Any = field.annotation | example.node  # type: ignore[operator]
        fields[example.group] = (Annotated[union, Field(discriminator=str(field.discriminator))], ...)
    return create_model("WiderConfig", __base__=Config, **fields)


def run(root: Path, added: list[Example], **changed: dict[str, Any]) -> dict[str, runner.Outcome]:
    """Run the three stages with the added options; `changed` are values by group."""
    tree = composed("on_fail=warn", "hands=right").model_dump(mode="json")
    tree |= {"data_root": str(root), "seq": "s"}
    tree |= {example.group: example.values | changed.get(example.group, {}) for example in added}
    cfg = widened(*added).model_validate(tree)
    log = RunLog(Loggers(), "s", root, None, {})
    context = Context(cfg, Sequence(root, "s"), log, root / "run")
    return runner.run([stage for stage in GRAPH if stage.name in STAGES], GRAPH, context)


def test_the_pages_examples_are_options_of_the_protocols():
    found = examples()
    assert [example.group for example in found] == ["hand", "segmenter", "object_pose"]
    for example in found:
        assert isinstance(example.node.model_validate(example.values), PROTOCOLS[example.group])


def test_new_options_run_and_decide_about_their_stage(root: Path):
    added = examples()
    assert {name: outcome.status for name, outcome in run(root, added).items()} == dict.fromkeys(STAGES, "done")
    seq = Sequence(root, "s")
    assert np.count_nonzero(seq.masks("object")[0]) == 40 * 40 and np.count_nonzero(seq.masks("right")[2]) == 40 * 30
    track = trackfile.read(seq.path("v3d").parent, FRAMES)
    assert list(track.vertices_m) == ["right"] and track.found("right").all()
    assert track.vertices_m["right"][0, :, 2].mean() == pytest.approx(0.5, abs=0.1)
    o2w = seq.read_npy("colmap", "o2w.npy")
    assert np.degrees(np.arccos((np.trace(o2w[1, :3, :3]) - 1) / 2)) == pytest.approx(10)
    assert {name: outcome.status for name, outcome in run(root, added).items()} == dict.fromkeys(STAGES, "skipped")
    after = run(root, added, hand={"depth_m": 0.7})
    assert {name: outcome.status for name, outcome in after.items()} == {
        "segment": "skipped",
        "hand_pose": "done",
        "object_pose": "skipped",
    }
