"""Loss of an alignment, predicted from figures without ground truth."""

import math
from collections.abc import Mapping

# figure: (offset, exponent), fitted by tests/benchmarks/weight_score.py to the true MRRPE of rendered sequences
TERMS: dict[str, tuple[float, float]] = {
    "hand.contradicted_pct": (2.0, 0.43),
    "contact.tips_mm": (1.0, 0.76),
    "out.missed_pct": (2.0, 0.75),
    "contact.gap_mm": (1.0, 0.20),
    "contact.spread_mm": (2.0, 0.48),
    "hand.jerk_mm": (0.5, 0.79),
}


def predicted_loss(figures: Mapping[str, float]) -> float:
    """Product of (figure + offset) ** exponent over TERMS; it orders weights on one sequence, and has no unit.

    `out.missed_pct` is measured on frames whose mask outlines are left out of the alignment; the other figures depend on quantities that weights
    influence, which limits what the score can tell. A figure that a sequence does not have, for example without masks, is left out: it would
    be missing under all weights.
    """
    known = {name: figures[name] for name in TERMS if name in figures and math.isfinite(figures[name])}
    return math.exp(sum(TERMS[name][1] * math.log(max(value, 0.0) + TERMS[name][0]) for name, value in known.items()))
