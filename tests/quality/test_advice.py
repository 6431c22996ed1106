"""Advice for masks of another tool never speaks of clicks, key frames or their file."""

import re

import pytest

from holdprep.quality.advice import IMPORTED, for_imported
from holdprep.quality.gates import judge
from holdprep.quality.rules import RULES, Rule

CLICKS = re.compile(r"click|key frame|prompts\.yaml|segmenter\.fix")


def _missed(rule: Rule) -> float | str:
    return {"at least": -1e9, "at most": 1e9, "within": 1e9, "is": "another"}[rule.direction]


@pytest.mark.parametrize("prefix", ["", "right."])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_no_advice_for_imported_masks_speaks_of_clicks(rule: Rule, prefix: str):
    gates = judge(rule.stage, {prefix + rule.metric: _missed(rule)})
    (gate,) = for_imported(gates)
    assert gate.advice and not CLICKS.search(gate.advice)
    assert (gate.advice != gates[0].advice) == bool(CLICKS.search(gates[0].advice)) or (rule.stage, rule.metric) in IMPORTED


def test_what_passes_has_no_advice():
    assert for_imported(judge("segment", {"reclick_frames": 0}))[0].advice == ""
