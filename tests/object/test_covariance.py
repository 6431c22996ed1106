"""Covariance of an adjustment against the scatter of many adjustments of one scene with new noise."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from holdprep.geometry.rigid import apply, from_rt
from holdprep.object.covariance import Observed, estimate

FOCAL_PX, NOISE_PX, FRAMES, POINTS = 600.0, 0.5, 6, 30


@pytest.fixture(scope="module")
def scene() -> Observed:
    """Six frames of thirty points, all seen, without noise."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (POINTS, 3))
    R = Rotation.from_euler("yx", [[15 * t, 6 * t] for t in range(FRAMES)], degrees=True).as_matrix()
    T = from_rt(R, np.tile([0.3, -0.2, 4.5], (FRAMES, 1)))
    frame, point = np.repeat(np.arange(FRAMES), POINTS), np.tile(np.arange(POINTS), FRAMES)
    seen = Observed(T, points, frame, point, np.zeros((len(frame), 2)), FOCAL_PX, (320.0, 240.0), 0.0)
    return replace(seen, px=project(seen))


def project(seen: Observed) -> np.ndarray:
    cam = apply(seen.T_cam_obj[seen.frame], seen.points_obj[seen.point][:, None])[:, 0]
    x = cam[:, :2] / cam[:, 2:]
    return seen.focal_px * (1 + seen.k * (x**2).sum(axis=1, keepdims=True)) * x + seen.principal_px


def adjusted(seen: Observed, free: tuple[bool, bool]) -> Observed:
    """The least-squares solution from the true one, poses as small rotations and translations before them."""

    def moved(x: np.ndarray) -> Observed:
        steps = x[: 6 * FRAMES].reshape(FRAMES, 6)
        T = from_rt(Rotation.from_rotvec(steps[:, :3]).as_matrix(), steps[:, 3:])
        R, t = T[:, :3, :3] @ seen.T_cam_obj[:, :3, :3], seen.T_cam_obj[:, :3, 3] + steps[:, 3:]
        focal, k = (scale * value for scale, value in zip((100.0, 1.0), x[-2:], strict=True))
        camera = {"focal_px": FOCAL_PX + free[0] * focal, "k": free[1] * k}
        return replace(seen, T_cam_obj=from_rt(R, t), points_obj=seen.points_obj + x[6 * FRAMES : -2].reshape(-1, 3), **camera)

    def miss(x: np.ndarray) -> np.ndarray:
        # the second term fixes the gauge and what is not free: of all solutions the nearest one is taken
        return np.concatenate([(project(moved(x)) - seen.px).ravel(), 1e-3 * x])

    return moved(least_squares(miss, np.zeros(6 * FRAMES + 3 * POINTS + 2), x_scale="jac").x)


def test_standard_errors_are_the_scatter_over_noise(scene: Observed) -> None:
    free = (True, False)
    rng = np.random.default_rng(1)
    found, errors = [], []
    for _ in range(16):
        noisy = adjusted(replace(scene, px=scene.px + rng.normal(0, NOISE_PX, scene.px.shape)), free)
        known = estimate(noisy, refine_focal=free[0], refine_k=free[1])
        common = Rotation.from_matrix(np.swapaxes(noisy.T_cam_obj[:, :3, :3], 1, 2) @ scene.T_cam_obj[:, :3, :3]).mean().as_matrix()
        R = noisy.T_cam_obj[:, :3, :3] @ common @ np.swapaxes(scene.T_cam_obj[:, :3, :3], 1, 2)
        angle = np.linalg.norm(Rotation.from_matrix(R).as_rotvec(), axis=1)
        found.append((noisy.focal_px - FOCAL_PX, noisy.k, np.sqrt((angle**2).mean())))
        errors.append((known.focal_px, known.k, np.sqrt(np.trace(known.poses[:, :3, :3], axis1=1, axis2=2).mean())))
    scatter = np.sqrt((np.array(found) ** 2).mean(axis=0))
    stderr = np.sqrt((np.array(errors) ** 2).mean(axis=0))
    is_free = [*free, True]
    assert np.isfinite(stderr).tolist() == is_free
    assert scatter[is_free] == pytest.approx(stderr[is_free], rel=0.5)  # of sixteen draws, whose standard deviation has an error of 18 %


def test_errors_that_repeat_between_frames_are_not_independent(scene: Observed) -> None:
    """Each point's observations are off by the same pixels in every frame: more frames of the same errors are no more information."""
    rng = np.random.default_rng(2)
    of_point = rng.normal(0, NOISE_PX, (POINTS, 2))
    same = replace(scene, px=scene.px + of_point[scene.point] * (1 + np.sin(scene.frame))[:, None])
    fitted = adjusted(same, (True, False))
    twice = {"T_cam_obj": np.concatenate([fitted.T_cam_obj] * 2), "frame": np.concatenate([fitted.frame, fitted.frame + FRAMES])}
    doubled = replace(fitted, **twice, point=np.tile(fitted.point, 2), px=np.tile(fitted.px, (2, 1)))
    once, again = (estimate(each, refine_focal=True, refine_k=False).focal_px for each in (fitted, doubled))
    assert again == pytest.approx(once, rel=0.25)


def test_frames_without_observations_are_unknown_and_long_videos_are_estimated_in_parts(scene: Observed) -> None:
    rng = np.random.default_rng(3)
    noisy = replace(scene, px=scene.px + rng.normal(0, NOISE_PX, scene.px.shape))
    gone = noisy.frame != 2
    partly = replace(noisy, frame=noisy.frame[gone], point=noisy.point[gone], px=noisy.px[gone])
    assert np.isfinite(estimate(partly, refine_focal=True, refine_k=False).poses).all(axis=(1, 2)).tolist() == [
        t != 2 for t in range(FRAMES)
    ]
    times = 100
    frame = np.concatenate([noisy.frame + FRAMES * i for i in range(times)])
    px = np.tile(scene.px, (times, 1)) + rng.normal(0, NOISE_PX, (times * len(scene.px), 2))
    long = replace(noisy, T_cam_obj=np.tile(noisy.T_cam_obj, (times, 1, 1)), frame=frame, point=np.tile(noisy.point, times), px=px)
    found = estimate(long, refine_focal=False, refine_k=False)
    assert found.poses.shape == (600, 6, 6) and np.isfinite(found.poses).all() and np.isnan(found.focal_px)


def test_points_that_are_eliminated_a_few_at_a_time_give_the_same(scene: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = replace(scene, px=scene.px + np.random.default_rng(4).normal(0, NOISE_PX, scene.px.shape))
    whole = estimate(noisy, refine_focal=True, refine_k=True)
    monkeypatch.setattr("holdprep.object.covariance._POINTS_AT_ONCE", 7)
    parts = estimate(noisy, refine_focal=True, refine_k=True)
    assert parts.poses == pytest.approx(whole.poses, rel=1e-6, abs=1e-15)
    assert (parts.focal_px, parts.k) == pytest.approx((whole.focal_px, whole.k), rel=1e-6)
