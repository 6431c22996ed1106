"""Metrics of the aligned hand."""

from dataclasses import replace

import pytest
import torch

from holdprep.align.metrics import hand_metrics
from holdprep.hand.lbs import to_state

from .synthetic import grasp

HIDDEN = [13, 14, 15, 16]  # the thumb


def reprojection_px(confidence: float) -> float:
    """Of an exact hand whose thumb the tracker has placed 200 px off with a confidence."""
    problem, truth = grasp(frames=4)
    hand = problem.hands["right"]
    j2d_px, weight = hand.j2d_px.clone(), torch.ones(4, 21, dtype=torch.float64)
    j2d_px[:, HIDDEN] += 200
    weight[:, HIDDEN] = confidence
    moved = replace(problem, hands={"right": replace(hand, j2d_px=j2d_px, weight=weight)})
    return hand_metrics(moved, "right", to_state(hand.model, truth["right"]), {})["right.reprojection_p95_px"]


def test_hidden_keypoints_are_not_compared():
    assert reprojection_px(0.02) == pytest.approx(reprojection_px(0.0))
    assert reprojection_px(1.0) > 100
