"""The object's metric size: the interval that the hand gives, and sizes that were measured."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from trimesh.bounds import oriented_bounds

from holdprep.align.marks import scale_by_marks
from holdprep.align.posterior import HandErrors, Posterior
from holdprep.align.problem import Problem, hidden_share
from holdprep.align.surface import Surface
from holdprep.align.tracks import ScaleEstimate
from holdprep.errors import HoldprepError
from holdprep.hand.lbs import HandPoints
from holdprep.hand.model import HandModel
from holdprep.hand.priors import chain_length_m

MEASURED_STD = 0.02  # of a measured size compared with the outermost points, which may lie inside of corners, or beside masks' edges
HAND_RANGE_MM = (130.0, 240.0)  # from a small child's to a very large adult's wrist to middle fingertip
STEPS = 5  # of Newton's method; the length is almost linear in the shape


@dataclass(frozen=True)
class MeasuredSizes:
    """What the user measured: whether the hand's length, the object's `diameter_mm`, and its `size_mm`, extents in any order."""

    hand: bool = False
    diameter_mm: float | None = None
    size_mm: tuple[float, float, float] | None = None

    def of_object(self, problem: Problem, surface: Surface) -> dict[str, ScaleEstimate]:
        """The scale by each of the object's measured sizes and marks, by name; empty where nothing of it was measured.

        Raises HoldprepError for marks that contradict the object's poses.
        """
        found = [scale_by_marks(marks, problem, surface) for marks in problem.marks]
        by_size = self._by_size(surface)
        return {estimate.name: estimate for estimate in ([] if by_size is None else [by_size]) + found}

    def _by_size(self, surface: Surface) -> ScaleEstimate | None:
        """The scale by comparing the object's diameter and extents with those of its surface."""
        ratios = []
        if self.diameter_mm is not None:
            ratios.append(self.diameter_mm / 1e3 / surface.across)
        if self.size_mm is not None:
            extents = np.sort(oriented_bounds(surface.outermost, ordered=False)[1])
            ratios += list(np.sort(self.size_mm) / 1e3 / extents)
        if not ratios:
            return None
        logs = np.log(ratios)
        stderr = float(np.hypot(MEASURED_STD, np.std(logs)))
        return ScaleEstimate("size", float(np.exp(np.median(logs))), stderr)


@dataclass(frozen=True)
class SizeInterval:
    """Bounds `low` and `high` of the scale, metres per unit of SfM, with a probability of 95 %; `sources` says what its width consists of."""

    low: float
    high: float
    sources: str = ""

    @staticmethod
    def of(posterior: Posterior, problem: Problem, length_is_measured: bool) -> "SizeInterval":
        """The interval with the systematic errors of the problem's hands."""
        hidden = hidden_share(problem)
        errors = HandErrors.of(hidden, length_is_measured)
        sources = (
            f"estimators +- {100 * posterior.stderr_ratio:.1f} %, hand length +- {100 * errors.length_std:.1f} %, tracker "
            f"{100 * errors.tracker_mean:+.0f} +- {100 * errors.tracker_std:.1f} % ({100 * hidden:.0f} % of keypoints not observed)"
        )
        return SizeInterval.between(posterior.with_hand(errors), sources)

    @staticmethod
    def between(posterior: Posterior, sources: str) -> "SizeInterval":
        """The interval of a posterior as it is."""
        return SizeInterval(*posterior.bounds, sources)

    @staticmethod
    def read(metrics: Mapping[str, float]) -> "SizeInterval | None":
        """The interval of an alignment's metrics; None where they have none."""
        names = ("object.scale_low", "object.scale_high")
        if not all(name in metrics for name in names):
            return None
        return SizeInterval(metrics[names[0]], metrics[names[1]])

    def figures(self, scale: float, across_sfm: float) -> dict[str, float]:
        """The bounds as scales and as diameters (mm), and size_interval_pct: half the width, by the estimate `scale`."""
        return {
            "object.scale_low": self.low,
            "object.scale_high": self.high,
            "object.diameter_low_mm": 1e3 * self.low * across_sfm,
            "object.diameter_high_mm": 1e3 * self.high * across_sfm,
            "object.size_interval_pct": 50 * (self.high - self.low) / scale,
        }

    def note(self, scale: float, across_sfm: float) -> str:
        """One line for the user."""
        low, middle, high = (1e3 * across_sfm * s for s in (self.low, scale, self.high))
        return f"object: {middle:.0f} mm across, with a probability of 95 % between {low:.0f} and {high:.0f} mm: {self.sources}"


def resized(model: HandModel, betas: Tensor, ratio: float) -> Tensor:
    """(10,) the shape nearest to `betas` (10,) whose hand is longer by a factor, from wrist to middle fingertip along the bones.

    Newton's method on the length, along its gradient. Raises HoldprepError for a length outside HAND_RANGE_MM.
    """
    points = HandPoints.of(model, torch.zeros(0, dtype=torch.long))
    goal_m = ratio * float(chain_length_m(points, betas))
    low, high = HAND_RANGE_MM
    if not low <= 1e3 * goal_m <= high:
        raise HoldprepError(
            f"with the object's measured size the {model.side} hand would be {1e3 * goal_m:.0f} mm long (between {low:.0f} and {high:.0f} "
            "is possible): check what was measured of the object (its size, points, or marker), and the object's cloud in the report"
        )
    found = betas.clone()
    for _ in range(STEPS):
        found.requires_grad_(True)
        length = chain_length_m(points, found)
        (slope,) = torch.autograd.grad(length, found)
        found = (found + (goal_m - length) * slope / slope.square().sum()).detach()
    return found
