"""Assembling a reconstruction from poses, points and observations."""

import numpy as np
import pytest

from holdprep.geometry.cameras import pinhole_K, project
from holdprep.geometry.rigid import from_rt
from holdprep.object.reconstruction import Observations, PoseUncertainty, RawReconstruction, assemble, frame_weights

K = pinhole_K(600.0, 640, 480)
POINTS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], float)


def test_points_near_a_camera_plane_or_behind_it_are_dropped() -> None:
    poses = from_rt(np.tile(np.eye(3), (3, 1, 1)), np.array([[0, 0, 5.0], [0.2, 0, 5.0], [0, 0.2, 5.0]]))
    outliers = np.array([[0.3, 0.2, -5.0 + 1e-9], [0.3, 0.2, -7.0]])  # in the plane of the cameras, and behind them
    points = np.concatenate([POINTS, outliers])
    frame, point = (x.ravel() for x in np.meshgrid(range(3), range(len(points)), indexing="ij"))
    px = project(points[point] + poses[frame, :3, 3], K)
    px[point >= len(POINTS)] = [300.0, 200.0]
    found = assemble(RawReconstruction(list("abc"), K, poses, np.ones(3, bool), points, Observations(frame, point, px)))
    assert found.reprojection_px == pytest.approx(0, abs=1e-9)
    assert found.points_obj == pytest.approx(POINTS)
    assert found.inliers.tolist() == [5, 5, 5]
    assert found.track_length.tolist() == [3] * 5


def test_poses_of_large_variance_have_little_weight() -> None:
    registered = np.array([True, True, True, True, False])
    covariance = np.tile(np.eye(6), (5, 1, 1)) * np.array([1.0, 1.0, 4.0, np.nan, 1.0])[:, None, None]
    assert frame_weights(registered, covariance).tolist() == [1.0, 1.0, 0.25, 1.0, 0.0]
    assert frame_weights(registered, None).tolist() == [1.0, 1.0, 1.0, 1.0, 0.0]
    known = PoseUncertainty(np.radians(2) ** 2 / 3 * covariance, 0.0, np.nan, None)
    assert known.rotation_stderr_deg()[:3] == pytest.approx([2.0, 2.0, 4.0])
