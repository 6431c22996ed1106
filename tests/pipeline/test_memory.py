"""What a sequence was made with stays with it; jobs of a sweep lie over it and share what does not differ."""

from pathlib import Path

import pytest

from holdprep.pipeline import records
from holdprep.pipeline.plan import verdict
from holdprep.sequence import RECORDS, Sequence
from holdprep.sequence.layout import ABSENT
from tests.pipeline.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    found = World(tmp_path)
    found.run()
    return found


FRESH = {"create": "fresh", "segment": "fresh", "hand_pose": "fresh"}


@pytest.mark.parametrize(
    ("told", "only"),
    [(("create.max_side=960",), "create"), (("hand=truth",), "hand_pose"), (("segmenter=truth", "segmenter.erode_px=3"), "segment")],
)
def test_what_was_given_once_stays(world: World, told: tuple[str, ...], only: str):
    world.run(*told, only=only)
    again = world.run()
    assert only not in again
    assert world.kinds() == FRESH
    context = world.context()
    assert {text for text in told} <= set(context.given.values())


def test_another_option_hides_the_keys_of_the_one_before(world: World):
    world.run("hand=mediapipe", "hand.min_presence=0.7", "hands.length_mm=185", only="hand_pose")
    assert world.context().cfg.hand.min_presence == 0.7
    cfg = world.context("hand=truth").cfg
    assert (cfg.hand.name, cfg.hands.length_mm) == ("truth", 185)
    world.run("hand=truth", only="hand_pose")
    assert "hand.min_presence" not in world.context().given
    assert world.context("hand=mediapipe").cfg.hand.min_presence == 0.5


def test_the_latest_run_says(world: World):
    world.run("hands.length_mm=185", only="hand_pose")
    world.run("hands.length_mm=null", only="hand_pose")
    assert world.context().cfg.hands.length_mm is None


def test_an_edited_holdprep_yaml_goes_before_what_was_given(world: World):
    (world.folder / "holdprep.yaml").write_text("create: {max_side: 1000}")
    assert world.context().cfg.create.max_side == 1000
    world.run("create.max_side=960", only="create")
    assert world.context().cfg.create.max_side == 960  # named after the file was written
    (world.folder / "holdprep.yaml").write_text("create: {max_side: 1200}")
    assert world.context().cfg.create.max_side == 1200
    assert world.plan()["create"].reason == "create.max_side changed (960 -> 1200)"


def test_what_opens_a_page_or_fails_is_not_remembered(world: World):
    world.run("hand=mediapipe", "hand.check=true", "hand.threads=1", "hands.length_mm=185", only="hand_pose")
    assert set(world.context().given) >= {"hand", "hands.length_mm"} and "hand.check" not in world.context().given
    world.during["hand_pose"] = lambda: (_ for _ in ()).throw(RuntimeError("no weights"))
    with pytest.raises(RuntimeError):
        world.run("hand=truth", only="hand_pose")
    assert world.context().cfg.hand.name == "mediapipe"


class TestJobs:
    """A sweep's job writes into its overlay alone."""

    def snapshot(self, world: World) -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in world.folder.rglob("*") if p.is_file()}

    def test_only_what_differs_runs(self, world: World):
        before = self.snapshot(world)
        assert world.run(job="0") == []
        assert world.run("hands.length_mm=185", job="1") == ["hand_pose"]
        assert world.run("hands.length_mm=185", job="1") == []  # its own result is fresh
        assert world.run("seed=1", job="2") == ["segment", "hand_pose"]
        assert self.snapshot(world) == before
        assert not (world.root / "jobs" / "0" / "processed" / "v3d.npy").exists()
        assert (world.root / "jobs" / "1" / "processed" / "v3d.npy").is_file()

    def test_what_a_job_no_longer_makes_does_not_shine_through(self, world: World):
        world.run("hands=left", job="0")
        assert world.seq("0").entities() == ["left", "object"]
        assert "['left']" in world.seq("0").path("v3d").read_text()
        assert world.seq().entities() == ["right", "left", "object"]
        world.run("hands=both", job="0")
        assert world.seq("0").entities() == ["right", "left", "object"]

    def test_a_job_remembers_nothing_in_the_sequence(self, world: World):
        world.run("hands.length_mm=185", job="0")
        assert world.context().cfg.hands.length_mm is None

    def test_a_sequence_that_lacks_a_stage_gets_it_in_the_job(self, tmp_path: Path):
        world = World(tmp_path)
        world.run(only="create")
        assert world.run(job="0") == ["segment", "hand_pose"]
        assert world.run() == ["segment", "hand_pose"]


def test_a_verdict_for_every_state(world: World):
    stages = {s.name: s for s in world.graph}

    def said(*told: str) -> str:
        context = world.context(*told)
        return verdict(stages["hand_pose"], context.cfg, context.seq, world.plan(*told)["hand_pose"].state)

    assert said() == "pass"
    assert said("gates={hand_pose.detected_pct:[95,80]}") == "warn: right.detected_pct 90 %"
    world.during["hand_pose"] = lambda: (_ for _ in ()).throw(RuntimeError("no weights"))
    with pytest.raises(RuntimeError):
        world.run("hands.length_mm=185")
    assert said() == "failed: RuntimeError: no weights"


def test_a_runs_own_folder_is_read_as_a_sequence_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The folder of a rendered sequence's run also says which artefacts it hides."""
    seq = Sequence(tmp_path, "a")
    seq.write_absent(frozenset({"fit_meshes", "raw_images"}))
    assert (seq.root / RECORDS / ABSENT).is_file()
    assert records.of_sequence(seq) == []
    assert not caplog.messages
