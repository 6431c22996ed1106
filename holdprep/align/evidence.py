"""Weights estimated from the sequence: the noise of its keypoints, and the variance of the hands' departures from registration.

With a prior that is too weak the fingers follow the keypoints' noise, and the hand appears larger and nearer: with fixed weights
5 px of noise cause an error of 1.3 % of the depth. The weight of a prior is therefore the one under which the departures are most
likely (the evidence framework: MacKay, Bayesian interpolation, Neural Computation 4(3), 1992).
"""

import numpy as np
from torch import Tensor

from holdprep.hand.lbs import NUM_JOINTS

MIN_NOISE_PX = 0.3  # lower bound of the keypoints' standard deviation
DEPARTURE_RAD = (0.01, 0.5)  # standard deviation per coordinate, range of the estimate
MAX_FRAMES = 60  # evenly spaced, on which the share that the data determine is computed


def keypoint_variance(pixels: Tensor, weight: Tensor, freedom: float) -> float:
    """Variance (px^2 per axis) from the median of residuals (T, 21, 2) with weight (T, 21) > 0.

    `freedom` is the number of fitted parameters.

    The median squared length of a two-dimensional Gaussian residual is 2 ln(2) times its variance per axis.
    """
    seen = weight > 0
    left = 1 - freedom / (2 * float(seen.sum()))
    variance = float(pixels.square().sum(dim=-1)[seen].median()) / (2 * np.log(2))
    return max(variance / max(left, 0.1), MIN_NOISE_PX**2)


def determined_share(blocks: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """(n,) share of each unknown that the data determine, not its prior: 1 - prior * diag(inverse), a mean over frames.

    `blocks` (T, n, n) are the frames' equations, with `prior` (n,) on their diagonal.
    """
    some = np.unique(np.linspace(0, len(blocks) - 1, min(len(blocks), MAX_FRAMES)).round().astype(int))
    variance = np.diagonal(np.linalg.inv(blocks[some]), axis1=1, axis2=2).mean(axis=0)
    return np.asarray(np.clip(1 - variance * prior, 1e-6, 1.0))


def prior_weight(variance_px2: float, departure: Tensor, share: float, before: float) -> float:
    """Weight (px^2 per rad^2) of a prior on departures (T, n), of which data determine `share`: variance / (21 tau^2).

    tau^2 is the true variance of the departures; the objective is a mean over 21 joints, hence the 21. `before` is
    the weight of the present departures. The smaller `share`, the slower the iteration converges; therefore the
    change is extrapolated.
    """
    most, least = (departure_weight(variance_px2, tau_rad) for tau_rad in DEPARTURE_RAD)
    estimated = variance_px2 * share / (NUM_JOINTS * max(float(departure.square().mean()), 1e-12))
    return float(np.clip(before * (estimated / before) ** (3 - 2 * share), least, most))


def departure_weight(variance_px2: float, tau: float) -> float:
    """Weight (px^2 per rad^2, or per m^2) of a prior on departures of standard deviation `tau`."""
    return variance_px2 / (NUM_JOINTS * tau**2)


def shared_weight(variance_px2: float, joints: float, sigma: float) -> float:
    """Weight (px^2 per squared unit) of a departure shared by all frames, or of one observation, with standard error `sigma`.

    The objective is a mean over `joints` keypoints: times joints / (2 variance) it is minus the logarithm of the likelihood.
    """
    return variance_px2 / (joints * sigma**2)


def contact_weight(variance_px2: float, sigma_m: float, tips: int, share_of_frames: float) -> float:
    """Weight (px^2 per m) of the mean over `tips` of a smoothed distance of width `sigma_m`, the standard error of tip and surface."""
    return 2 * tips * share_of_frames * variance_px2 / (NUM_JOINTS * sigma_m)
