"""The predicted loss of a search: fitted as stated, and in the order of the truth on sequences that it was not fitted to."""

import numpy as np
import pytest

from holdprep.sweeps.score import TERMS, predicted_loss
from tests.benchmarks import weight_score


def test_the_exponents_are_those_of_the_data():
    found = weight_score.fit(weight_score.load())
    assert [round(x, 2) for x in found] == pytest.approx([exponent for _, exponent in TERMS.values()], abs=0.02)


def test_the_loss_orders_weights_like_the_truth_on_sequences_left_out():
    """Medians of Spearman's correlation over sets of trials: with keypoints whose noise has no bias; less with the default tracker's bias."""
    found = weight_score.held_out(weight_score.load())
    medians = weight_score.medians(found)
    assert medians["noisy"] > 0.8 and medians["all"] > 0.55
    assert np.mean([correlation < 0 for correlation, _ in found.values()]) < 0.3


def test_the_loss_grows_with_each_figure_and_skips_missing_ones():
    figures = dict.fromkeys(TERMS, 5.0)
    for name in TERMS:
        assert predicted_loss(figures | {name: 8.0}) > predicted_loss(figures) > predicted_loss(figures | {name: 0.0}) > 0
    assert predicted_loss({"contact.gap_mm": 1.0, "other": 9.0}) == pytest.approx(2.0 ** TERMS["contact.gap_mm"][1])
    assert predicted_loss(figures | {"contact.gap_mm": float("nan")}) == predicted_loss(
        {k: v for k, v in figures.items() if k != "contact.gap_mm"}
    )
