"""Advice of gates where masks or object poses come from another tool: it names that tool, not what makes them here."""

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
        "object_pose",
        "mask_lost_frames_pct",
    ): f"the masks of the frames listed lack a part of the object: complete them {TOOL}; if they are whole, the poses there are wrong",
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
POSES = {
    "reprojection_px": "its poses do not fit its observations here: were the pictures resized, cropped or undistorted? run it on images/",
    "focal_ratio": "no camera has this focal length: give the tool the focal length, or check object_pose.path",
    "field_of_view_deg": "no camera has this field of view: give the tool the focal length, or check object_pose.path",
    "focal_stderr_pct": "the pictures hardly determine the focal length: give it to the tool, or rotate the object further",
    "points": "the cloud is too sparse: export the model with all of its points, or run the tool with more features",
    "rotation_jumps": "the object flips between frames: correct these poses in the tool that made them, or leave the frames out there",
    "longest_gap": "poses in this gap are interpolated, or repeat the nearest one: add poses there in the tool that made them, or cut the clip there",
    "track_length": "features are not matched over many frames: run the tool with more features and pairs, or film slower and sharper",
    "cloud_outside_pct": "the cloud leaves the masks: check the overlay; correct the masks, or remove the background's points in the tool",
    "mask_covered_pct": "the cloud is smaller or flatter than the object: rotate it further, or run the tool with more features",
    "agreement_pct": "mappings disagree: the object has repeated parts or is symmetric; put tape with a pattern on it",
    "interpolated_frames": "these frames have no measured object pose: film slower, or add poses in the tool that made them",
}


def for_imported(gates: Iterable[Gate], masks: bool, poses: bool) -> list[Gate]:
    """The same gates with advice for masks, or object poses, of another tool; a gate that passes has none."""
    return [replace(gate, advice=_advice(gate, masks, poses)) if gate.advice else gate for gate in gates]


def _advice(gate: Gate, masks: bool, poses: bool) -> str:
    advice = _of_masks(gate) if masks else gate.advice
    return POSES.get(gate.metric, advice) if poses and gate.stage == "object_pose" else advice


def _of_masks(gate: Gate) -> str:
    parts = gate.metric.split(".")
    keys = [(gate.stage.split(".")[0], ".".join(parts[i:])) for i in range(len(parts))]
    longer = ("segment", "object.border_leak_pct")  # its own advice speaks of the picture's border, which holds for all masks
    return next((IMPORTED[key] for key in keys if key in IMPORTED and longer not in keys), gate.advice)
