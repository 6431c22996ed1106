"""What is put together from poses, points and sightings."""

import numpy as np
import pytest

from holdprep.geometry.cameras import pinhole_K, project
from holdprep.geometry.rigid import from_rt
from holdprep.object.reconstruction import Observations, assemble

K = pinhole_K(600.0, 640, 480)
POINTS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], float)


def test_a_point_in_a_camera_s_plane_spoils_nothing() -> None:
    poses = from_rt(np.tile(np.eye(3), (3, 1, 1)), np.array([[0, 0, 5.0], [0.2, 0, 5.0], [0, 0.2, 5.0]]))
    runaways = np.array([[0.3, 0.2, -5.0 + 1e-9], [0.3, 0.2, -7.0]])  # in the plane of the cameras, and behind them
    points = np.concatenate([POINTS, runaways])
    frame, point = (x.ravel() for x in np.meshgrid(range(3), range(len(points)), indexing="ij"))
    px = project(points[point] + poses[frame, :3, 3], K)
    px[point >= len(POINTS)] = [300.0, 200.0]
    found = assemble(
        list("abc"), K, np.zeros(0), poses, np.ones(3, bool), points, np.zeros((7, 3), np.uint8), Observations(frame, point, px)
    )
    assert found.reprojection_px == pytest.approx(0, abs=1e-9)
    assert found.points_obj == pytest.approx(POINTS)
    assert found.inliers.tolist() == [5, 5, 5]
    assert found.track_length.tolist() == [3] * 5
