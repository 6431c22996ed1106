"""Weights that the sequence itself measures: how much its keypoints scatter, and how far hands really depart from registration.

A prior that is too loose lets the fingers follow the keypoints' noise, which makes a hand look larger and stand nearer: with fixed weights
5 px of noise cost 1.3 % of the depth. The weight of a prior is therefore the one that explains the departures best (the evidence
framework: MacKay, Bayesian interpolation, Neural Computation 4(3), 1992).
"""

import numpy as np
from torch import Tensor

from holdprep.hand.lbs import NUM_JOINTS

MIN_NOISE_PX = 0.3  # no keypoint is better
DEPARTURE_RAD = (0.01, 0.5)  # per coordinate: between a prior that holds all and one that holds nothing
MAX_FRAMES = 60  # are asked how well their data determine what the prior holds


def keypoint_variance(pixels: Tensor, weight: Tensor, freedom: float) -> float:
    """px^2 per axis, from the median of residuals (T, 21, 2) with weight (T, 21) > 0; `freedom` is how many of their coordinates were fitted.

    The median squared length of a two-dimensional Gaussian residual is 2 ln(2) times its variance per axis.
    """
    seen = weight > 0
    left = 1 - freedom / (2 * float(seen.sum()))
    variance = float(pixels.square().sum(dim=-1)[seen].median()) / (2 * np.log(2))
    return max(variance / max(left, 0.1), MIN_NOISE_PX**2)


def determined(blocks: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """(n,) which share of each unknown the data determine rather than its prior: 1 - prior * diag(inverse), a mean over frames.

    `blocks` (T, n, n) are the frames' equations, with `prior` (n,) on their diagonal.
    """
    some = np.unique(np.linspace(0, len(blocks) - 1, min(len(blocks), MAX_FRAMES)).round().astype(int))
    spread = np.diagonal(np.linalg.inv(blocks[some]), axis1=1, axis2=2).mean(axis=0)
    return np.asarray(np.clip(1 - spread * prior, 1e-6, 1.0))


def prior_weight(variance_px2: float, departure: Tensor, share: float, before: float) -> float:
    """px^2 per rad^2 for departures (T, n) of which `share` is determined by data: variance / (21 tau^2), tau^2 their true mean square.

    The objective is a mean over 21 joints, hence the 21. `before` is the weight under which they arose: the less the data determine the
    slower this converges, so the change is exaggerated.
    """
    most, least = (of_departures(variance_px2, tau_rad) for tau_rad in DEPARTURE_RAD)
    found = variance_px2 * share / (NUM_JOINTS * max(float(departure.square().mean()), 1e-12))
    return float(np.clip(before * (found / before) ** (3 - 2 * share), least, most))


def of_departures(variance_px2: float, tau: float) -> float:
    """px^2 per rad^2 (or m^2) of a prior on departures of standard deviation `tau`."""
    return variance_px2 / (NUM_JOINTS * tau**2)


def shared_weight(variance_px2: float, joints: float, sigma: float) -> float:
    """px^2 per squared unit of a departure that all frames share and whose standard error is `sigma`, or of one observation's.

    The objective is a mean over `joints` keypoints: times joints / (2 variance) it is minus the logarithm of the likelihood.
    """
    return variance_px2 / (joints * sigma**2)


def contact_weight(variance_px2: float, sigma_m: float, tips: int, share_of_frames: float) -> float:
    """px^2 per m for the mean over `tips` of a distance rounded off at `sigma_m`, which is how well they meet the surface."""
    return 2 * tips * share_of_frames * variance_px2 / (NUM_JOINTS * sigma_m)
