"""Colour models of labels: mixtures of Gaussians in CIE Lab, one for each label, fitted to the pixels of an image's labels."""

import cv2
import numpy as np

COMPONENTS, OF_BACKGROUND, MAX_SAMPLES, MIN_SAMPLES = 6, 12, 6000, 40
MIN_STD, OUTLIER = 3.0, 1e-9  # of a component in Lab units; density of colours that the label has not shown


def color_log_likelihood(lab: np.ndarray, labels: np.ndarray, count: int, same: dict[int, list[int]]) -> np.ndarray:
    """Log-likelihood (N, L) of pixels (N, 3) in Lab under the mixtures of their `labels` (N,), each below `count`.

    Labels in `same` have the colours of their listed labels; a label with too few pixels has that of an outlier everywhere.
    """
    pixels = lab.astype(np.float32)
    found = np.full((len(pixels), count), np.log(OUTLIER), np.float32)
    fitted: dict[tuple[int, ...], np.ndarray] = {}
    for k in range(count):
        of = tuple(same.get(k, [k]))
        if of not in fitted:
            samples = pixels[np.isin(labels, of)]
            fitted[of] = _log_density(pixels, samples, COMPONENTS if k else OF_BACKGROUND) if len(samples) >= MIN_SAMPLES else found[:, k]
        found[:, k] = fitted[of]
    return found


def _log_density(pixels: np.ndarray, samples: np.ndarray, components: int) -> np.ndarray:
    samples = samples[:: max(len(samples) // MAX_SAMPLES, 1)]
    cv2.setRNGSeed(0)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 12, 0.5)
    _, of, _ = cv2.kmeans(samples, min(components, len(samples)), None, criteria, 1, cv2.KMEANS_PP_CENTERS)  # type: ignore[call-overload]
    density = np.full(len(pixels), OUTLIER, np.float32)
    for k in np.unique(of):
        members = samples[of.ravel() == k]
        covariance = np.cov(members.T, bias=True) + MIN_STD**2 * np.eye(3)
        off = (pixels - members.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(covariance)).T.astype(np.float32)
        weight = len(members) / len(samples) / np.sqrt((2 * np.pi) ** 3 * np.linalg.det(covariance))
        density += (weight * np.exp(-0.5 * np.square(off).sum(axis=1))).astype(np.float32)
    return np.log(density)
