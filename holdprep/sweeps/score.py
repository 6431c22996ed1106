"""Loss of an alignment that is predicted from figures without ground truth."""

from collections.abc import Mapping


def predicted_loss(figures: Mapping[str, float]) -> float:
    """TODO"""
    return figures["out.px"]
