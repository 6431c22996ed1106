"""A rewrite is all or nothing: whatever ends the process, the old outputs or the new ones are there, never a mixture."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from holdprep.errors import HoldprepError
from holdprep.pipeline import exchange, records
from tests.pipeline.world import World

ROOT = Path(__file__).parent.parent.parent
CHILD = """
import os, signal, sys
from pathlib import Path
from tests.pipeline.world import World
world = World(Path(sys.argv[1]))
world.during[sys.argv[2]] = lambda: os.kill(os.getpid(), signal.{signal})
world.run(*sys.argv[3:])
"""


def raising(error: BaseException):
    def act() -> None:
        raise error

    return act


def snapshot(world: World) -> dict[str, bytes]:
    return {str(p.relative_to(world.folder)): p.read_bytes() for p in world.folder.rglob("*") if p.is_file() and ".holdprep" not in p.parts}


@pytest.fixture
def world(tmp_path: Path) -> World:
    found = World(tmp_path)
    found.run()
    return found


@pytest.mark.parametrize("stage", ["create", "segment", "hand_pose"])
@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device"), RuntimeError("a defect")],
    ids=["ctrl-c", "full", "bug"],
)
def test_an_interrupted_rewrite_changes_nothing_and_is_made_up_for(world: World, stage: str, error: BaseException):
    told = ("create.max_side=960", "seed=1", "hands.length_mm=185")
    before = {a: world.content(a) for a in ("images", "masks_object", "masks_right", "v3d", "j2d")}
    world.during[stage] = raising(error)
    with pytest.raises(type(error)):
        world.run(*told)
    order = {"create": 0, "segment": 1, "hand_pose": 2}
    made = {"images": 0, "masks_object": 1, "masks_right": 1, "v3d": 2, "j2d": 2}
    for artefact, content in before.items():
        assert (world.content(artefact) == content) == (made[artefact] >= order[stage]), artefact
    assert world.kinds(*told)[stage] == "half-written"
    assert not exchange.staging(world.seq(), stage).exists()
    assert world.run(*told) == [s for s in order if order[s] >= order[stage]]
    assert set(world.kinds(*told).values()) == {"fresh"}


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_killed_rewrite_changes_nothing_and_is_made_up_for(world: World, name: str):
    before = snapshot(world)
    told = ("create.max_side=960",)
    ended = subprocess.run(
        [sys.executable, "-c", CHILD.format(signal=name), str(world.root), "create", *told], cwd=ROOT, capture_output=True, check=False
    )
    assert ended.returncode == -getattr(signal, name), ended.stderr
    assert snapshot(world) == before
    assert world.kinds()["create"] == "half-written"
    assert world.run(*told) == ["create", "segment", "hand_pose"]
    assert not exchange.staging(world.seq(), "create").exists()


def test_a_stage_that_refuses_leaves_what_was_there(world: World):
    before = snapshot(world)
    world.during["hand_pose"] = raising(HoldprepError("no hand in 4 frames: click one"))
    with pytest.raises(HoldprepError, match="click one"):
        world.run("hands.length_mm=185")
    assert {k: v for k, v in snapshot(world).items() if k != "report.html"} == {k: v for k, v in before.items() if k != "report.html"}
    assert world.kinds("hands.length_mm=185")["hand_pose"] == "stale"
    assert world.kinds()["hand_pose"] == "fresh"  # the settings of before are still what is there
    assert records.read(world.seq(), "hand_pose", "failed.json")["error"] == "no hand in 4 frames: click one"
    world.run("hands.length_mm=185")
    assert records.read(world.seq(), "hand_pose", "failed.json") is None


@pytest.mark.parametrize("moves", range(6))
def test_an_exchange_cut_short_anywhere_is_finished_by_the_next_run(world: World, moves: int, monkeypatch: pytest.MonkeyPatch):
    """The process ends before the n-th rename of the exchange: two masks' folders and one that goes."""
    real, count = os.replace, 0

    def replace(source: str, target: str) -> None:
        nonlocal count
        if ".holdprep/staging" in f"{source}{target}":
            count += 1
            if count > moves:
                raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            world.run("seed=1", "hands=right", only="segment")
    assert world.kinds("seed=1", "hands=right")["segment"] == "half-written"
    assert world.run("seed=1", "hands=right") == ["hand_pose"]  # the masks were complete: they are not made again
    assert world.content("masks_object").startswith("mask classical 1") and world.content("masks").startswith("mask classical 1")
    assert world.seq().entities() == ["right", "object"]
    assert set(world.kinds("seed=1", "hands=right").values()) == {"fresh"}


def test_two_jobs_at_once_do_not_write_the_same_stage(world: World):
    told = ("create.max_side=960",)

    def second() -> None:
        assert world.kinds(*told)["create"] == "running"
        with pytest.raises(HoldprepError, match="create: another process is running it"):
            World(world.root).run(*told)

    world.during["create"] = second
    assert world.run(*told)[0] == "create"
    assert set(world.kinds(*told).values()) == {"fresh"}


def test_the_lock_is_given_to_one_alone(world: World):
    with (
        records.lock(world.seq(), "create") as marker,
        pytest.raises(HoldprepError, match="another process is running stage create"),
        records.lock(world.seq(), "create"),
    ):
        pass
    marker.unlink()


def test_what_a_person_changed_after_an_interruption_is_kept(world: World):
    world.during["hand_pose"] = raising(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        world.run("hands.length_mm=185")
    world.seq().path("v3d").write_text("foreign 90")
    assert world.kinds("hands.length_mm=185")["hand_pose"] == "foreign"
    with pytest.raises(HoldprepError, match="force=true"):
        world.run("hands.length_mm=185")
    assert world.content("v3d") == "foreign 90"
