"""Detection of frames with suspect masks, as a list of frames to click again."""

from collections.abc import Mapping, Sequence

import numpy as np

from holdprep.quality.mask_changes import mask_changes
from holdprep.quality.metrics import mask_curves

REASONS: dict[str, str] = {  # in the order of importance
    "empty": "mask gone",
    "jump": "area jumps",
    "border": "leaks to the border",
    "overlap": "hand and object overlap",
    "flicker": "flickers",
    "gain": "background gained",
    "loss": "a visible part lost",
    "hole": "hole in the mask",
}
EMPTY_SHARE = 0.25  # of the median area: an entity leaving the image becomes small first; a larger mask that vanishes is an error
BORDER_STEP_PCT = 5.0  # of the image's border, above the clip's median, which contains the arm
OVERLAP_PCT = 10.0  # of the smaller mask; a few pixels are due to rounding
FLICKER_IOU = 0.6  # with the previous frame after its motion; true masks of fast and thin objects have above 0.65


def suspects(masks: Mapping[str, Sequence[np.ndarray]], images: Sequence[np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """{entity: {reason: (T,) bool}} of the frames whose mask is suspect; reasons are those of REASONS.

    `masks` holds T (H, W) bool by entity (right, left, object), `images` are the T BGR frames, from which motion is estimated.
    """
    changes = mask_changes(masks, images)
    found = {}
    for entity, frames in masks.items():
        curves = mask_curves(frames)
        others = ("object",) if entity != "object" else tuple(e for e in masks if e != "object")
        overlap = [_overlaps(frames, masks[other]) for other in others if other in masks]
        found[entity] = {
            "empty": vanished(curves.area_px),
            "jump": curves.is_jump,
            "border": _leaks(curves.border_pct, curves.area_px > 0),
            "overlap": np.any([np.zeros(len(frames), bool), *overlap], axis=0),
            "flicker": changes[entity].iou < FLICKER_IOU,  # NaN is not flicker
            "gain": changes[entity].gained,
            "loss": changes[entity].lost,
            "hole": changes[entity].has_hole,
        }
    return found


def vanished(area_px: np.ndarray) -> np.ndarray:
    """(T,) bool: frames without a mask next to one whose area (T,) is above EMPTY_SHARE of the median."""
    seen = area_px > 0
    if not seen.any():
        return np.zeros(len(area_px), bool)
    large = np.concatenate([[False], area_px > EMPTY_SHARE * np.median(area_px[seen]), [False]])
    return ~seen & (large[:-2] | large[2:])


def _leaks(border_pct: np.ndarray, seen: np.ndarray) -> np.ndarray:
    usual = float(np.median(border_pct[seen])) if seen.any() else 0.0
    return border_pct > usual + BORDER_STEP_PCT


def _overlaps(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> np.ndarray:
    shares = []
    for one, other in zip(a, b, strict=True):
        smaller = min(np.count_nonzero(one), np.count_nonzero(other))
        shares.append(100 * np.count_nonzero(one & other) / smaller if smaller else 0.0)
    return np.array(shares) > OVERLAP_PCT


def reclick(found: Mapping[str, Mapping[str, np.ndarray]], max_distance: int = 5) -> dict[int, list[str]]:
    """{frame: reasons} to click again: of suspect frames with gaps of at most `max_distance`, the one with most reasons.

    `found` is the result of `suspects`. A reason has the form `object: mask gone`.
    """
    reasons: dict[int, list[str]] = {}
    for entity, flags in found.items():
        for reason, words in REASONS.items():
            for t in np.flatnonzero(flags[reason]).tolist():
                reasons.setdefault(t, []).append(f"{entity}: {words}")
    groups: list[list[int]] = []
    for t in sorted(reasons):
        if groups and t - groups[-1][-1] <= max_distance:
            groups[-1].append(t)
        else:
            groups.append([t])
    best = [max(group, key=lambda t: (len(reasons[t]), -abs(t - group[len(group) // 2]))) for group in groups]
    return {t: reasons[t] for t in best}
