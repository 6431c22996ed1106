"""A run's name says sequence, stage, and what differs in its sweep."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from holdprep.logs.content import Labels, StageOutcome
from holdprep.logs.labels import labels, swept_keys
from tests.running import composed


def test_names():
    cfg = composed("stage=align", "mode=ho")
    overrides = ["seq=a", "weights.contact=10", "+weights.x=1", "on_fail=warn"]
    found = labels(cfg, ["seq", "weights.contact"], overrides)
    assert found.name("a") == "a align/ho weights.contact=10"
    assert set(found.tags) == {"hand:mediapipe", "hands:auto", "object_pose:sift"}
    assert labels(composed("stage=all")).name("bottle") == "bottle all"
    assert Labels().name("s") == "s"


@pytest.mark.parametrize("params", [None, {"weights.contact": "tag(log, interval(1, 100))"}])
def test_swept_keys_are_those_of_the_command_line_and_of_the_sweeper(tmp_path: Path, params: dict | None):
    task = ["seq=a,b", "weights.smooth=1,10", "on_fail=warn", "align.scale=choice(auto,contact)", "seed=range(3)"]
    OmegaConf.save(OmegaConf.create({"hydra": {"overrides": {"task": task}}}), tmp_path / "multirun.yaml")
    found = swept_keys(tmp_path, OmegaConf.create({"params": params}))
    assert found == ["seq", "weights.smooth", "align.scale", "seed", *(params or {})]
    assert swept_keys(tmp_path / "none") == []


def test_one_spelling_of_every_metric():
    outcome = StageOutcome(
        "align.ho", {"contact.gap_mm": 1.5, "hand_model": "mano", "ok": True, "none": None}, {"a": [1.0], "b": [1.0, 2.0]}
    )
    assert outcome.values == {"align/ho/contact.gap_mm": 1.5, "align/ho/hand_model": "mano", "align/ho/ok": True}
    assert outcome.numbers == {"align/ho/contact.gap_mm": 1.5, "align/ho/ok": 1.0}
    assert list(outcome.columns()) == ["b"]  # curves of all frames alone
