"""Advice of gates where the masks come from another tool: it names that tool, not the page and file of the masks made here."""

from collections.abc import Iterable
from dataclasses import replace

from holdprep.quality.gates import Gate

TOOL = "in the tool that made them, and import them again"
# by stage, and end of the metric's name; the longest fitting one is used
IMPORTED = {
    ("segment", "object.frames_with_mask_pct"): f"complete the object's masks {TOOL}, or cut the clip there (create.start/create.end)",
    ("segment", "frames_with_mask_pct"): f"complete this hand's masks {TOOL}",
    ("segment", "area_jumps"): f"check the mask images; correct those that flicker {TOOL}",
    ("segment", "border_leak_pct"): f"the hand's masks leak into the background: correct them {TOOL}",
    ("segment", "reclick_frames"): f"the masks of the frames listed in the notes look wrong: correct them {TOOL}",
    (
        "register",
        "outline_explained_pct",
    ): f"outlines of hand and mask differ: check the overlays; correct the masks {TOOL}, or try hand=import",
    (
        "align",
        "outline_explained_pct",
    ): f"outlines of hand and mask differ: check the overlays; correct the masks {TOOL}, or try hand=import",
    (
        "build",
        "unusable_frames",
    ): "the trainer crashes on frames without hand and object masks: add masks, or cut them (create.start/create.end)",
}


def for_imported(gates: Iterable[Gate]) -> list[Gate]:
    """The same gates with advice for masks of another tool; a gate that passes has none."""
    return [replace(gate, advice=_advice(gate)) if gate.advice else gate for gate in gates]


def _advice(gate: Gate) -> str:
    parts = gate.metric.split(".")
    keys = [(gate.stage.split(".")[0], ".".join(parts[i:])) for i in range(len(parts))]
    longer = ("segment", "object.border_leak_pct")  # its own advice speaks of the picture's border, which holds for all masks
    return next((IMPORTED[key] for key in keys if key in IMPORTED and longer not in keys), gate.advice)
