"""Smoothing of paths whose truth is known: noise goes, motion stays where and when it was."""

import numpy as np
import pytest

from holdprep.hand.trackers.steady import smooth

T = np.arange(120)
WAVE = np.stack([40 * np.sin(T / 6), 30 * np.cos(T / 9), 10 * np.sin(T / 15)], axis=1)[:, None]


def noise(sigma: float, shape: tuple[int, ...] = (120, 1, 3), seed: int = 0) -> np.ndarray:
    return sigma * np.random.default_rng(seed).normal(size=shape)


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


@pytest.mark.parametrize(("path", "share"), [(np.zeros_like(WAVE), 0.4), (WAVE, 0.7)])
@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_noise_is_taken_off(path: np.ndarray, share: float, sigma: float):
    smoothed = smooth(path + noise(sigma), np.ones((120, 1)))
    assert rms(smoothed - path) < share * sigma


def test_exact_paths_are_unchanged():
    burst = np.cumsum(np.where((T > 50) & (T < 70), 6.0, 0.0))[:, None, None] * [1.0, 0, 0.5]
    for path in (WAVE, burst, np.zeros_like(WAVE)):
        np.testing.assert_allclose(smooth(path, np.ones((120, 1))), path, atol=1e-6)


def test_there_is_no_lag():
    """The same backward in time; and a wave is as near to its own place as noise allows, farther from where it is a frame sooner or later."""
    noisy = WAVE + noise(2.0)
    smoothed = smooth(noisy, np.ones((120, 1)))
    np.testing.assert_allclose(smooth(noisy[::-1], np.ones((120, 1)))[::-1], smoothed, atol=1e-6)
    here, late, early = (rms(smoothed[1:-1] - WAVE[1 + s : 119 + s]) for s in (0, -1, 1))
    assert here < 0.5 * min(late, early)


def test_uncertain_frames_are_moved_more_and_gaps_stay_gaps():
    noisy, trust = WAVE + noise(1.0), np.ones((120, 1))
    noisy[60] += 15
    trust[60] = 30
    noisy[80:84] = np.nan
    smoothed = smooth(noisy, trust)
    assert np.abs(smoothed[60] - WAVE[60]).max() < 4
    np.testing.assert_array_equal(np.isnan(smoothed), np.isnan(noisy))
    few = np.full((120, 1, 3), np.nan)
    few[:5] = noisy[:5]
    np.testing.assert_array_equal(smooth(few, trust), few)
    assert np.isnan(smooth(np.full((120, 2, 3), np.nan), np.ones((120, 2)))).all()


def test_joints_are_smoothed_each_by_its_own_noise():
    both = np.concatenate([WAVE, WAVE + noise(3.0)], axis=1)
    smoothed = smooth(both, np.ones((120, 2)))
    np.testing.assert_allclose(smoothed[:, 0], WAVE[:, 0], atol=1e-6)
    assert rms(smoothed[:, 1] - WAVE[:, 0]) < 0.7 * 3.0
