"""Score (mm) of an alignment without ground truth, for a search over weights."""

from collections.abc import Mapping

import numpy as np

from holdprep.hand.model import SIDES

JERK_OF_NOISE = float(np.sqrt(20.0))  # standard deviation of the third difference of white noise: 1 + 9 + 9 + 1


def label_free_mm(metrics: Mapping[str, float], focal_px: float) -> float:
    """Sum of errors (mm) of an aligned sequence from `align`'s metrics of mode ho; infinite where hand and object are never in contact.

    The sum of the keypoints' reprojection error at the hand's depth (median, mean over hands), the gap between hand and object, the
    penetration, and the jitter of hands and object, which is their jerk by that of white noise. All are in mm and have equal weight.
    """
    hands = [side for side in SIDES if f"{side}.reprojection_px" in metrics]
    if not hands or "contact.gap_mm" not in metrics:
        return float("inf")
    missed = [1e3 * metrics[f"{s}.reprojection_px"] * metrics[f"{s}.depth_m"] / focal_px for s in hands]
    jerks = [metrics[name] for name in (*(f"{s}.jerk_mm" for s in hands), "object.jerk_mm") if name in metrics]
    jitter = float(np.mean(jerks)) / JERK_OF_NOISE if jerks else 0.0
    return float(np.mean(missed)) + metrics["contact.gap_mm"] + metrics["contact.penetration_mm"] + jitter
