"""Metrics of a posed hand without ground truth: shape, breadths, joint limits, self-penetration, noise from frame to frame.

All are measured on the model's skin in MANO's layout, in the same way for MANO and the stand-in hand.
"""

import math

import numpy as np
import torch
from scipy.signal import savgol_filter
from scipy.special import ndtri_exp
from torch import Tensor

from holdprep.geometry.noise import second_difference_variances
from holdprep.hand import lbs
from holdprep.hand.frames import scatter_to_frames
from holdprep.hand.joints import FINGERS
from holdprep.hand.lbs import HandPoints
from holdprep.hand.model import HandModel, ManoParams, Side
from holdprep.hand.priors import LIMIT_SIGMA, beyond_limits, chain_length_m
from holdprep.quality.sections import finger_section, joints_of, palm_section, widths_m
from holdprep.quality.self_penetration import THUMB, self_penetration_mm

PERCENTILE = 95.0  # of frames: detects errors in one of twenty frames, ignores a single bad frame
LIMIT_TOLERANCE = 2 * LIMIT_SIGMA  # rad: the registration's limits are soft, with a standard deviation of LIMIT_SIGMA
WINDOW, ORDER = 11, 3  # frames, and degree of the polynomial of smooth motion


Metrics = dict[str, float]
Curves = dict[str, np.ndarray]


def plausibility(model: HandModel, params: ManoParams, is_valid: np.ndarray) -> tuple[Metrics, Curves]:
    """All metrics of a registered hand without images, over the frames `is_valid` (T,) bool, and curves (T,), NaN in other frames.

    Metrics are those of `shape_sigmas`, `hand_measures` (of the median shape where each frame has its own), `limit_metrics`, and
    self_penetration_mm, the 95th percentile over valid frames. Curves: limit_excess_deg, self_penetration_mm. NaN without a valid frame.
    """
    model, valid = model.to(torch.float64), np.asarray(is_valid, bool)
    rows = torch.from_numpy(valid)
    betas = params.betas.double() if params.betas.ndim == 1 else params.betas[rows].double()
    some = ManoParams(params.global_orient[rows].double(), params.hand_pose[rows].double(), betas, params.transl[rows].double())
    curves = {
        "limit_excess_deg": limit_excess_deg(model.side, lbs.to_state(model, some).rotations),
        "self_penetration_mm": self_penetration_mm(model, lbs.forward(model, some).vertices),
    }
    median = (
        betas if betas.ndim == 1 else torch.from_numpy(np.median(betas.numpy(), axis=0)) if len(betas) else betas.new_full((10,), math.nan)
    )
    metrics = shape_sigmas(betas.numpy()) | hand_measures(model, median)
    metrics |= limit_metrics(curves["limit_excess_deg"]) | {"self_penetration_mm": _percentile(curves["self_penetration_mm"])}
    return metrics, {name: scatter_to_frames(curve, valid, len(valid)) for name, curve in curves.items()}


def shape_sigmas(betas: np.ndarray) -> Metrics:
    """shape_largest and shape_mahalanobis of a shape (10,), or the largest of (T, 10), in standard deviations of one Gaussian variable.

    MANO's coefficients are independent with unit variance over the people scanned (Romero et al. 2017), so the squared Mahalanobis distance
    d2 of a hand is chi-square with 10 degrees of freedom: an average hand has d = 3. Returned is the z of one Gaussian variable of the same
    probability: P(|Z| > z) = P(chi2 > d2); so 3 and 5 have the same meaning for both numbers. For 10 degrees of freedom
    P(chi2 > 2 x) = exp(-x) sum_{k<5} x^k / k! (Abramowitz and Stegun 26.4.21), taken as a logarithm, which does not underflow.
    """
    shapes = np.atleast_2d(np.asarray(betas, float))
    if not len(shapes):
        return {"shape_largest": math.nan, "shape_mahalanobis": math.nan}
    half = float(np.square(shapes).sum(axis=1).max()) / 2
    log_p = -half + math.log(sum(half**k / math.factorial(k) for k in range(5)))
    return {"shape_largest": float(np.abs(shapes).max()), "shape_mahalanobis": float(np.maximum(0.0, -ndtri_exp(log_p - math.log(2))))}


def hand_measures(model: HandModel, betas: Tensor) -> Metrics:
    """Breadths and lengths (mm) of the flat hand of a shape (10,), as measured by a calliper and a ruler.

    finger_breadth_min_mm, finger_breadth_max_mm: narrowest and widest calliper width, in any direction, of the fingers' sections at
    their middle and end joints (of the thumb at its end joint). palm_breadth_mm: across the knuckles of the four fingers.
    hand_length_mm: from the wrist to the middle fingertip along the bones. finger_length_min_mm, finger_length_max_mm: the four
    fingers from knuckle to tip.
    """
    model, betas = model.to(torch.float64), betas.detach().double()
    vertices = (model.v_template + model.shapedirs @ betas).numpy()
    joints = joints_of(model, vertices)
    widths = [
        widths_m(finger_section(model, number, bone, 0.0).points(vertices), joints[finger[bone + 1]] - joints[finger[bone - 1]])
        for number, finger in enumerate(FINGERS)
        for bone in ((2,) if number == THUMB else (1, 2))
    ]
    across = joints[FINGERS[0][0]] - joints[FINGERS[2][0]]
    palm = np.ptp(palm_section(model).points(vertices) @ across) / np.linalg.norm(across)
    lengths = [np.linalg.norm(np.diff(joints[list(finger)], axis=0), axis=1).sum() for finger in FINGERS[:THUMB]]
    length = chain_length_m(HandPoints.of(model, torch.zeros(0, dtype=torch.long)), betas)
    return {
        "finger_breadth_min_mm": 1e3 * float(np.min(widths)),
        "finger_breadth_max_mm": 1e3 * float(np.max(widths)),
        "palm_breadth_mm": 1e3 * float(palm),
        "hand_length_mm": 1e3 * float(length),
        "finger_length_min_mm": 1e3 * float(np.min(lengths)),
        "finger_length_max_mm": 1e3 * float(np.max(lengths)),
    }


def limit_excess_deg(side: Side, rotations: Tensor) -> np.ndarray:
    """(T,) largest excess (degrees) of the joints of `rotations` (T, 16, 3, 3) over their limits."""
    return np.rad2deg(beyond_limits(side, rotations).abs().flatten(1).amax(dim=1).numpy())


def limit_metrics(excess_deg: np.ndarray) -> Metrics:
    """beyond_limits_pct: share of frames with `excess_deg` (T,) above LIMIT_TOLERANCE; limit_excess_deg: its 95th percentile."""
    share = 100 * float((excess_deg > math.degrees(LIMIT_TOLERANCE)).mean()) if len(excess_deg) else math.nan
    return {"beyond_limits_pct": share, "limit_excess_deg": _percentile(excess_deg)}


def jitter_px(points_px: np.ndarray, is_valid: np.ndarray) -> tuple[float, np.ndarray]:
    """RMS over points and frames of the high-pass of points (T, N, 2) px, and the RMS of each frame (T,); NaN where there is none.

    The high-pass is the residual of a cubic fitted to 11 frames at the central one (Savitzky and Golay 1964). It removes slow
    motion: of a swing by 100 px with a period of 60 frames less than 0.2 px remain. Of white noise 89 % of the RMS remain. A frame
    is used if it and five frames on both sides are valid (`is_valid` (T,) bool). Fast motion remains too: see `frame_noise_px`.
    """
    curve = np.full(len(points_px), np.nan)
    valid = np.asarray(is_valid, bool) & np.isfinite(points_px).all(axis=(1, 2))
    steps = np.flatnonzero(np.diff(np.concatenate([[0], valid.astype(int), [0]])))
    for start, end in zip(steps[::2], steps[1::2], strict=True):
        if end - start >= WINDOW:
            part, inner = points_px[start:end], slice(WINDOW // 2, end - start - WINDOW // 2)
            left = (part - savgol_filter(part, WINDOW, ORDER, axis=0))[inner]
            curve[start:end][inner] = np.sqrt(np.square(left).sum(axis=-1).mean(axis=-1))
    known = curve[np.isfinite(curve)]
    return (float(np.sqrt(np.square(known).mean())) if len(known) else math.nan), curve


def frame_noise_px(points_px: np.ndarray, is_valid: np.ndarray) -> float:
    """Standard deviation of a coordinate's noise that is independent from frame to frame, over points (T, N, 2) px.

    NaN with too few frames.

    See `second_difference_variances`. Motion with a period of more than four frames gives neighbouring second differences a positive
    covariance, which is subtracted: with fast motion the result is a lower bound. At least 15 frames in a row are needed.
    """
    known = np.where(np.asarray(is_valid, bool)[:, None, None], points_px, np.nan)
    estimate = second_difference_variances(np.diff(known, 2, axis=0))
    return math.nan if estimate is None else float(np.sqrt(estimate[0]))


def _percentile(values: np.ndarray) -> float:
    return float(np.percentile(values, PERCENTILE)) if len(values) else math.nan
