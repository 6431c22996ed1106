"""The table of thresholds: every line means what it says, and the verdict follows from the numbers."""

import math
import re

import pytest

from holdprep.config.validation import fields
from holdprep.quality.bounds import show
from holdprep.quality.gates import judge, overall
from holdprep.quality.rule import Rule
from holdprep.quality.rules import RULES


@pytest.mark.parametrize(
    ("stage", "metric", "value", "status"),
    [
        ("object_pose", "registered_pct", 90.0, "pass"),
        ("object_pose", "registered_pct", 89.9, "warn"),
        ("object_pose", "registered_pct", 60, "warn"),
        ("object_pose", "registered_pct", 59.9, "fail"),
        ("object_pose", "reprojection_px", 1.01, "fail"),
        ("object_pose", "focal_ratio", 1.0, "pass"),
        ("object_pose", "focal_ratio", 2.2, "warn"),
        ("object_pose", "focal_ratio", 0.49, "fail"),
        ("object_pose", "focal_ratio", 9.0, "fail"),
        ("object_pose", "rotation_jumps", 0, "pass"),
        ("object_pose", "rotation_jumps", 1, "fail"),
        ("object_pose", "interpolated_frames", 1000, "warn"),
        ("object_pose", "held_pct", 20, "warn"),
        ("object_pose", "held_pct", 20.1, "fail"),
        ("register", "shape_largest", 3.01, "warn"),
        ("register", "shape_mahalanobis", 5.01, "fail"),
        ("register", "finger_breadth_min_mm", 7.9, "warn"),
        ("register", "finger_breadth_max_mm", 32.1, "fail"),
        ("register", "right.palm_breadth_mm", 99.0, "pass"),  # the 99th percentile of men
        ("register", "right.palm_breadth_mm", 70.0, "pass"),  # the 1st of women
        ("register", "right.hand_length_mm", 160.0, "pass"),
        ("register", "right.hand_length_mm", 218.0, "pass"),
        ("register", "right.hand_length_mm", 134.9, "fail"),
        ("register", "beyond_limits_pct", 5.1, "warn"),
        ("align.h", "self_penetration_mm", 10.1, "fail"),
        ("align.ho", "left.mask_iou", 0.74, "warn"),
        ("align.ho", "left.outline_explained_pct", 34.0, "fail"),
        ("register", "left.frame_noise_px", 1.0, "pass"),
        ("register", "left.frame_noise_px", 1.01, "warn"),
        ("align.ho", "left.frame_noise_px", 3.01, "fail"),
        ("register", "hand_model", "mano", "pass"),
        ("register", "hand_model", "standin", "warn"),
        ("build", "trainable", True, "pass"),
        ("build", "trainable", False, "warn"),
        ("build", "roundtrip_px", 0.0101, "fail"),
        ("align.o", "contact.gap_mm", None, "fail"),
        ("align.ho", "object.scale_stderr_pct", math.nan, "fail"),
        ("align.ho", "object.diameter_mm", math.inf, "fail"),
    ],
)
def test_verdicts_at_the_bounds(stage: str, metric: str, value: object, status: str):
    (gate,) = judge(stage, {metric: value})
    assert (gate.stage, gate.metric, gate.status) == (stage, metric, status)
    assert bool(gate.advice) == (status != "pass")


@pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{r.stage}-{r.metric}")
def test_bounds_are_ordered_and_advice_is_given(rule: Rule):
    warn, fail = rule.warn_at, rule.fail_at
    assert warn is not None and rule.advice and "\n" not in rule.advice
    if fail is not None:
        ordered = {
            "at least": lambda: fail <= warn,
            "at most": lambda: warn <= fail,
            "within": lambda: fail[0] <= warn[0] < warn[1] <= fail[1],
            "is": lambda: warn == fail,
        }
        assert ordered[rule.direction]()


@pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{r.stage}-{r.metric}")
def test_advice_names_only_keys_that_exist(rule: Rule):
    known = {name for name, _ in fields()}
    nodes = {name.split(".")[0] for name in known}
    for word in re.findall(r"[a-z0-9_.]+[a-z0-9_]", rule.advice):
        if "." in word and word.split(".")[0] in nodes:
            assert word in known, word


def test_the_full_name_wins_over_its_end():
    object_gate, hand_gate = judge("segment", {"object.frames_with_mask_pct": 85.0, "right.frames_with_mask_pct": 85.0})
    assert (object_gate.status, hand_gate.status) == ("warn", "pass")
    px = judge("align.ho", {"object.reprojection_px": 5.0, "left.reprojection_px": 5.0})
    assert [g.status for g in px] == ["warn", "pass"]


def test_other_metrics_and_other_stages_are_not_judged():
    assert judge("align.ho", {"loss": 3.0, "frames": 1}) == []
    assert judge("nonsense", {"frames": 1}) == []


@pytest.mark.parametrize("stage", ["register", "align.h", "align.ho"])
def test_jitter_is_reported_but_not_judged(stage: str):
    """Fast motion passes its filter; the noise between frames is judged instead."""
    (gate,) = judge(stage, {"right.jitter_px": 50.0, "right.frame_noise_px": 50.0})
    assert (gate.metric, gate.status) == ("right.frame_noise_px", "fail")


def test_the_worst_gate_decides():
    gates = judge("object_pose", {"registered_pct": 100, "points": 100})
    assert overall(gates) == "warn"
    assert overall([*gates, *judge("object_pose", {"rotation_jumps": 2})]) == "fail"
    assert overall([]) == "pass"


def test_a_gate_in_one_line():
    (gate,) = judge("object_pose", {"registered_pct": 45.2})
    assert gate.line().startswith("registered_pct is 45.2 %, should be at least 90, fails below 60 %: the stage's warnings list")
    (gate,) = judge("object_pose", {"focal_ratio": 1.0})
    assert gate.line() == "focal_ratio is 1 x width, should be within 0.60 to 2, fails outside 0.50 to 2.50 x width"
    (gate,) = judge("build", {"trainable": False})
    assert gate.line().startswith("trainable is no, should be yes: not for training")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (12345.6, "12346"),
        (12.34, "12.3"),
        (0.456, "0.46"),
        (0.00012, "0.0001"),
        (math.nan, "unknown"),
        (None, "unknown"),
        (True, "yes"),
    ],
)
def test_numbers_as_people_read_them(value: object, text: str):
    assert show(value) == text


def test_thresholds_go_before_the_table() -> None:
    told = {"object_pose.registered_pct": (99.0, 97.0), "object_pose.focal_ratio": (None, (0.9, 1.1))}
    gates = judge("object_pose", {"registered_pct": 98, "focal_ratio": 1.0, "points": 100}, told)
    assert [g.status for g in gates] == ["warn", "pass", "warn"]
    assert gates[0].threshold == "at least 99, fails below 97 %"
    assert judge("object_pose", {"registered_pct": 96}, told)[0].status == "fail"


@pytest.mark.parametrize(
    ("filled", "words"),
    [("held", "repeat the nearest"), ("hand", "follow the hand"), ("interpolated", "interpolated"), ("other", "no pose")],
)
def test_the_advice_on_a_gap_of_the_object_says_how_it_was_filled(filled: str, words: str):
    (gate,) = judge("object_pose", {"longest_gap": 14, "gap_filled_by": filled})
    assert gate.status == "warn" and words in gate.advice
    (short,) = judge("object_pose", {"longest_gap": 4, "gap_filled_by": filled})
    assert short.status == "pass" and short.advice == ""
