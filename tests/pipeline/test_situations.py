"""What the pipeline makes of every situation that a sequence can be in: a table of fake stages, no video."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from holdprep.errors import HoldprepError
from holdprep.pipeline import records
from tests.pipeline.world import World

FRESH = {"create": "fresh", "segment": "fresh", "hand_pose": "fresh"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Every stage has run."""
    found = World(tmp_path)
    assert found.run() == ["create", "segment", "hand_pose"]
    return found


def replace(artefact: str, text: str) -> Callable[[World], None]:
    return lambda w: w.seq().path(artefact).write_text(text) and None


def delete(artefact: str) -> Callable[[World], None]:
    def act(w: World) -> None:
        path = w.seq().path(artefact)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return act


def change(artefact: str, name: str = "0001.png") -> Callable[[World], None]:
    return lambda w: (w.seq().path(artefact) / name).write_text("by hand") and None


SITUATIONS = [
    ("untouched", lambda w: None, (), {}, []),
    ("setting changed", lambda w: None, ("create.max_side=960",), {"create": "stale"}, ["create", "segment", "hand_pose"]),
    ("setting of a later stage", lambda w: None, ("hands.length_mm=185",), {"hand_pose": "stale"}, ["hand_pose"]),
    ("input changed", lambda w: (w.folder / "video.mp4").write_text("other") and None, (), {"create": "stale"}, ["create", "segment"]),
    ("input gone", lambda w: (w.folder / "video.mp4").unlink(), (), {}, []),
    ("output replaced", replace("v3d", "foreign 90"), (), {"hand_pose": "foreign"}, []),
    ("output deleted", delete("v3d"), (), {"hand_pose": "missing"}, ["hand_pose"]),
    ("optional output deleted", delete("boxes"), (), {"hand_pose": "missing"}, ["hand_pose"]),
    ("folder output changed", change("masks_right"), (), {"segment": "foreign", "hand_pose": "stale"}, ["hand_pose"]),
    ("preview deleted", delete("hpe_vis"), (), {}, []),
    ("preview deleted, setting changed", delete("raw_images"), ("create.max_side=960",), {"create": "stale"}, ["create", "segment"]),
    ("preview changed", change("hpe_vis"), (), {}, []),
    ("preview changed, setting changed", change("hpe_vis"), ("hands.length_mm=185",), {"hand_pose": "stale"}, ["hand_pose"]),
    ("other hand model", lambda w: w.model.write_text("MANO") and None, (), {"hand_pose": "stale"}, ["hand_pose"]),
    ("other seed", lambda w: None, ("seed=1",), {"segment": "stale"}, ["segment", "hand_pose"]),
    ("entity dropped", lambda w: None, ("hands=right",), {"segment": "stale"}, ["segment", "hand_pose"]),
    ("record damaged", lambda w: (w.folder / "processed/.holdprep/hand_pose.json").write_text("{"), (), {"hand_pose": "foreign"}, None),
]


@pytest.mark.parametrize(("act", "told", "changed", "ran"), [s[1:] for s in SITUATIONS], ids=[s[0] for s in SITUATIONS])
def test_situations(world: World, act: Callable[[World], None], told: tuple[str, ...], changed: dict[str, str], ran: list[str] | None):
    act(world)
    assert world.kinds(*told) == FRESH | changed
    if ran is not None:
        assert world.run(*told)[: len(ran)] == ran
        assert [name for name in world.ran if name in ran] == ran
        kinds = world.kinds(*told)
        assert {n: k for n, k in kinds.items() if changed.get(n) != "foreign"} == {n: "fresh" for n in FRESH if changed.get(n) != "foreign"}
    else:
        with pytest.raises(HoldprepError, match="is no track"):  # what cannot be measured is an error, not a pass
            world.run(*told)


def test_every_stage_that_runs_says_why(world: World, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", "holdprep")
    world.run("create.max_side=960")
    said = [r.getMessage() for r in caplog.records]
    assert said[0] == ("plan         runs again: create (create.max_side changed (2000 -> 960)); then segment, hand_pose")
    assert "create       runs: create.max_side changed (2000 -> 960)" in said
    assert any(line.startswith("segment      runs: images has changed") for line in said)


def test_what_is_unchanged_in_content_stops_what_follows(world: World):
    """The stage runs, its outputs are the same bytes: nothing after it runs."""
    assert world.run("create.stride=5") == ["create"]


def test_a_preview_comes_back_when_it_is_asked_for(world: World):
    delete("hpe_vis")(world)
    assert world.run("force=true", only="hand_pose") == ["hand_pose"]
    assert world.seq().has("hpe_vis")


def test_outputs_that_are_no_longer_made_are_removed(world: World):
    assert world.seq().entities() == ["right", "left", "object"]
    world.run("hands=right")
    assert world.seq().entities() == ["right", "object"]
    assert world.content("v3d").startswith("mediapipe ['right']")
    world.run("hand=truth")  # which makes no boxes
    assert not world.seq().has("boxes")


def test_an_input_among_the_outputs_is_read_again_and_never_removed(world: World):
    """Another tracker's files lie where this project's own ones would."""
    told = ("hand=import",)
    world.run(*told)
    assert world.seq().has("boxes")
    assert world.kinds(*told) == FRESH
    world.seq().path("boxes").write_text("a newer track")
    assert world.kinds(*told) == FRESH | {"hand_pose": "stale"}
    world.run(*told)
    assert "a newer track" in world.content("v3d")


class TestForeign:
    """Artefacts that others made are kept, measured and judged."""

    def test_it_is_measured_and_gated(self, world: World):
        replace("v3d", "foreign 20")(world)
        with pytest.raises(HoldprepError, match=r"hand_pose: right.detected_pct is 20 %.*fails below 30"):
            world.run()
        assert world.outcomes()["hand_pose"]["metrics"] == {"right.detected_pct": 20.0}
        assert "hand_pose {'right.detected_pct': 20.0} foreign" in world.content("report")

    def test_the_report_alone_measures_it_too(self, world: World):
        assert "hand_pose {'right.detected_pct': 90.0} own" in world.content("report")
        replace("v3d", "foreign 85")(world)
        world.run(only="report")
        assert "hand_pose {'right.detected_pct': 85.0} foreign" in world.content("report")

    def test_a_newer_one_is_measured_again(self, world: World):
        for share in (85.0, 70.0):
            replace("v3d", f"foreign {share}")(world)
            world.run("on_fail=warn")
            assert world.outcomes()["hand_pose"]["metrics"] == {"right.detected_pct": share}

    def test_its_seconds_are_not_those_of_the_run_before(self, world: World):
        replace("v3d", "foreign 85")(world)
        world.run("on_fail=warn")
        assert world.outcomes()["hand_pose"]["seconds"] == world.outcomes()["create"]["seconds"] == 0

    def test_naming_a_setting_that_would_replace_it_asks_for_force(self, world: World):
        replace("v3d", "foreign 85")(world)
        with pytest.raises(HoldprepError, match=r"hand_pose: .*v3d.npy was changed by hand.*hands.length_mm would replace it: force=true"):
            world.run("hands.length_mm=185")
        assert world.ran == []  # said before anything ran
        assert world.run("hands.length_mm=185", "force=true", only="hand_pose") == ["hand_pose"]
        assert world.kinds() == FRESH

    def test_a_change_before_it_is_said_and_does_not_replace_it(self, world: World, caplog: pytest.LogCaptureFixture):
        replace("v3d", "foreign 85")(world)
        assert world.run("create.max_side=960") == ["create", "segment"]
        assert world.content("v3d") == "foreign 85"
        assert any("kept: " in r.getMessage() and "not used: " in r.getMessage() for r in caplog.records if r.levelname == "WARNING")

    def test_what_lies_in_the_way_of_a_first_run_is_not_replaced(self, tmp_path: Path):
        world = World(tmp_path)
        world.seq().target("masks").mkdir()
        (world.seq().target("masks") / "0000.png").write_text("painted by hand")
        with pytest.raises(HoldprepError, match=r"segment: .*processed/masks, which holdprep did not make: force=true"):
            world.run()
        assert world.ran == []
        assert world.run("force=true") == ["create", "segment", "hand_pose"]

    def test_everything_from_elsewhere_is_used(self, tmp_path: Path):
        world = World(tmp_path)
        for artefact in ("v3d", "j2d"):
            world.seq().target(artefact).write_text("foreign 95")
        assert world.run() == ["create", "segment"]
        assert world.outcomes()["hand_pose"]["status"] == "kept"


def test_a_record_of_an_older_holdprep_is_its_own_work_not_a_persons(world: World):
    """It lists previews among its outputs, and holds whole nodes of the configuration instead of settings."""
    path = records.path(world.seq(), "create")
    old = json.loads(path.read_text())
    del old["format"], old["settings"]
    path.write_text(json.dumps(old | {"config": {"create": {}}, "outputs": old["outputs"] | {"raw_images": "0" * 32}}))
    delete("raw_images")(world)
    assert world.kinds() == FRESH | {"create": "stale"}
    assert world.plan()["create"].reason == "its record is of an older holdprep"
    assert world.run() == ["create"]
