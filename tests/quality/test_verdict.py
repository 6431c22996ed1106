"""Trainable or not in one sentence, every problem once, and the frames that it is about."""

import numpy as np
import pytest

from holdprep.quality.gates import judge
from holdprep.quality.verdict import StageReport, frames_of, problems, ranges, verdict

GOOD = {"frames": 100}


def stage(name: str, **metrics: object) -> StageReport:
    return StageReport(name, 1.0, False, metrics, judge(name, metrics))


def of(*stages: StageReport, **curves: np.ndarray):
    found = problems(stages, curves)
    return verdict(stages, found), found


def test_without_problems_a_build_is_trainable():
    found, _ = of(stage("create", **GOOD), stage("build", trainable=True))
    assert found.is_trainable and found.sentence == "Trainable."


def test_without_a_build_nothing_is_trainable():
    found, _ = of(stage("create", **GOOD))
    assert not found.is_trainable and "run stage=all" in found.todo


def test_warnings_leave_it_trainable_and_name_the_first_thing_to_do():
    found, listed = of(stage("create", frames=30), stage("build", trainable=True))
    assert found.is_trainable and found.headline == "Trainable, with 1 warning" and "film longer" in found.todo
    assert len(listed) == 1


@pytest.mark.parametrize("error", ["no video", "disk full"])
def test_a_failed_stage_comes_first(error: str):
    found, _ = of(stage("create", frames=3), StageReport("segment", 1.0, False, error=error))
    assert not found.is_trainable and found.headline == "Not trainable: segment failed" and found.todo == error


def test_a_failed_gate_outweighs_the_stand_in_and_warnings():
    found, listed = of(stage("create", frames=3), stage("register", hand_model="standin"), stage("build", trainable=False))
    assert not found.is_trainable and "frames is 3" in found.headline
    assert [p.status for p in listed] == ["fail", "warn"]


def test_one_problem_of_several_stages_and_modes_is_listed_once():
    alignments = [stage(f"align.{m}", **{"right.reprojection_px": v}) for m, v in (("h", 11.0), ("o", 11.5), ("ho", 30.0))]
    _, listed = of(*alignments, stage("register", **{"right.shape_largest": 4.0, "right.shape_mahalanobis": 4.0}))
    assert [(p.status, len(p.lines)) for p in listed] == [("fail", 1), ("warn", 2)]
    assert "align.ho: right.reprojection_px is 30" in listed[0].lines[0]


def test_frames_are_those_in_which_the_curve_is_bad():
    error = np.array([1, 9, 10, np.nan, 2, 30.0])
    valid = np.array([1, 1, 0, 0, 1, 0.0])
    curves = {"register/right.error_mm": error, "register/right.is_valid": valid, "segment/object.area_px": np.array([0, 5, 5, 5, 5, 5.0])}
    cases = {
        ("register", "right.error_mm"): (9.0, [1, 2, 5]),
        ("register", "right.valid_pct"): (50.0, [2, 3, 5]),
        ("register", "right.longest_gap"): (20.0, [2, 3, 5]),
        ("segment", "object.frames_with_mask_pct"): (83.0, [0]),
        ("register", "right.palm_breadth_mm"): (40.0, []),
    }
    for (name, metric), (value, frames) in cases.items():
        (gate,) = judge(name, {metric: value})
        assert gate.status != "pass" and frames_of(gate, curves) == frames, metric
    _, listed = of(stage("register", **{"right.valid_pct": 50.0}), **curves)
    assert listed[0].frames == [2, 3, 5] and ranges(listed[0].frames) == [(2, 3), (5, 5)]
