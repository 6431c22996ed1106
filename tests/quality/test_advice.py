"""Advice for masks of another tool never speaks of clicks, key frames or their file, that for its poses of no key that reading lacks."""

import re

import pytest

from holdprep.object.import_option import ImportObjectPose
from holdprep.quality.advice import IMPORTED, POSES, for_imported
from holdprep.quality.gates import judge
from holdprep.quality.rule import Rule
from holdprep.quality.rules import RULES

CLICKS = re.compile(r"click|key frame|prompts\.yaml|segmenter\.fix")


def _missed(rule: Rule) -> float | str:
    return {"at least": -1e9, "at most": 1e9, "within": 1e9, "is": "another"}[rule.direction]


@pytest.mark.parametrize("prefix", ["", "right."])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_no_advice_for_imported_masks_speaks_of_clicks(rule: Rule, prefix: str):
    gates = judge(rule.stage, {prefix + rule.metric: _missed(rule)})
    (gate,) = for_imported(gates, masks=True, poses=False)
    assert gate.advice and not CLICKS.search(gate.advice)
    assert (gate.advice != gates[0].advice) == bool(CLICKS.search(gates[0].advice)) or (rule.stage, rule.metric) in IMPORTED


def test_what_passes_has_no_advice():
    assert for_imported(judge("segment", {"reclick_frames": 0}), masks=True, poses=True)[0].advice == ""


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.stage == "object_pose"], ids=lambda rule: rule.name)
def test_no_advice_for_imported_poses_names_a_key_of_structure_from_motion(rule: Rule):
    (gate,) = for_imported(judge(rule.stage, {rule.metric: _missed(rule)}), masks=False, poses=True)
    keys = set(re.findall(r"object_pose\.(\w+)", gate.advice))
    assert gate.advice and keys <= set(ImportObjectPose.model_fields) and "seed" not in gate.advice and "max_features" not in gate.advice


def test_every_advice_for_imported_poses_is_of_a_rule():
    assert set(POSES) <= {rule.metric for rule in RULES if rule.stage == "object_pose"}
