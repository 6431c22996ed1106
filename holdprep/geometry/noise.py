"""Noise of a time series that is independent from sample to sample, estimated from second differences."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

CLIP = 3.0  # robust standard deviations beyond which second differences are clipped
NORMAL_MAD = 0.6745  # median of |x| for a normal x of standard deviation 1
Axes = int | Sequence[int] | None


def second_difference_variances(
    second: np.ndarray,
    axes: Axes = None,
    *,
    clip_axes: Axes = 0,
    min_pairs: int = 12,
    median: Literal["linear", "lower"] = "linear",
) -> tuple[np.ndarray, np.ndarray] | None:
    """Variance of the independent noise in a series, and the mean square of its second differences.

    `second` (D, ...) are second differences in the order of time, NaN where unknown; rows with a NaN are not used. Independent noise of
    variance v adds 6 v to their variance and -4 v to the covariance of neighbours. Slow motion has no negative covariance. Both results
    are means over `axes` (None: all). Values beyond CLIP robust standard deviations are clipped; these are medians over `clip_axes`,
    `median` being the interpolation of `numpy.quantile`. None with fewer than `min_pairs` pairs of neighbouring rows.
    """
    known = np.isfinite(second).all(axis=tuple(range(1, second.ndim)))
    if (known[1:] & known[:-1]).sum() < min_pairs:
        return None
    axes, clip_axes = (tuple(x) if isinstance(x, Sequence) else x for x in (axes, clip_axes))
    limit = CLIP * np.quantile(np.abs(second[known]), 0.5, axis=clip_axes, method=median) / NORMAL_MAD
    clipped = np.where(known.reshape(-1, *[1] * (second.ndim - 1)), np.clip(second, -limit, limit), np.nan)
    covariance = np.nanmean(clipped[1:] * clipped[:-1], axis=axes)
    return np.maximum(-covariance / 4, 0.0), np.asarray(np.nanmean(np.square(clipped), axis=axes))
