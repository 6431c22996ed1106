"""Pose prediction against a motion known in closed form; models without points are dropped."""

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from holdprep.geometry.rigid import from_rt
from holdprep.object import colmap
from holdprep.object.mapper import predict_pose
from tests.object.clouds import PinholeCamera, cloud, halves, map_cloud, rotation_errors_deg


def steady(t: float) -> np.ndarray:
    """Constant velocity: 7 degrees and 1 cm per frame."""
    R = Rotation.from_rotvec(np.radians(7.0 * t) * np.array([0.6, 0.0, 0.8])).as_matrix()
    return from_rt(R, np.array([0.01 * t, 0.0, 0.5]))


@pytest.mark.parametrize(("known", "t"), [((3, 4), 5), ((3, 4), 6), ((8, 6), 4), ((2, 4), 6)])
def test_constant_velocity_is_extrapolated(known: tuple[int, ...], t: int) -> None:
    gap, poses = predict_pose({s: steady(s) for s in known}, t)
    assert gap == min(abs(s - t) for s in known)
    assert poses[0] == pytest.approx(steady(min(known, key=lambda s: abs(s - t))))
    assert poses[-1] == pytest.approx(steady(t), abs=1e-12)


def test_distant_frames_and_frames_on_the_other_side_give_no_velocity() -> None:
    assert len(predict_pose({4: steady(4), 0: steady(0)}, 5)[1]) == 1
    assert len(predict_pose({4: steady(4), 6: steady(6)}, 5)[1]) == 1


def test_frames_without_points_are_no_model(tmp_path: Path) -> None:
    """Mappings from a bad initial pair; without points a model has no reprojection errors to compare."""
    scene = halves(cloud((200.0, 150.0), camera=PinholeCamera((320, 240)), num_frames=12, num_points=70), 5)
    models, runs = map_cloud(tmp_path, scene, 1.0, refine_focal=False)
    assert any(run.max_frames > 2 and run.frames == 0 for run in runs)
    assert len(models) == sum(run.frames > 0 for run in runs)
    assert all(len(model.points) for model in models)


@pytest.mark.parametrize("refine_focal", [False, True])
def test_the_global_mapping_finds_the_same_poses(refine_focal: bool, tmp_path: Path) -> None:
    scene = cloud((200.0, 150.0), camera=PinholeCamera((320, 240)), num_frames=10, num_points=70)
    (model, *_), runs = map_cloud(tmp_path, scene, 1.0, refine_focal=refine_focal, number=1)
    assert sorted(model.poses) == scene.names
    assert rotation_errors_deg(model.poses, scene).max() < 1.0
    assert runs[0].frames == 10 and not runs[0].camera_rejected
    (again, *_), _ = map_cloud(tmp_path / "again", scene, 1.0, refine_focal=refine_focal, number=1)
    assert all((again.poses[name] == pose).all() for name, pose in model.poses.items())


def test_a_database_is_copied_after_another_process_has_released_it(tmp_path: Path) -> None:
    """Opening a database writes: two mappings that open one at the same time would fail."""
    scene = cloud((200.0, 150.0), camera=PinholeCamera((320, 240)), num_frames=6, num_points=40)
    map_cloud(tmp_path, scene, 1.0, refine_focal=False)
    held, released = threading.Event(), []

    def hold() -> None:
        with colmap.open_database(tmp_path), closing(sqlite3.connect(tmp_path / "database.db")) as database:
            database.execute("begin exclusive")
            held.set()
            time.sleep(1.0)
            released.append(True)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    colmap.copy_database(tmp_path, tmp_path / "copy.db")
    assert released
    holder.join()
    for table in ("images", "keypoints", "matches", "two_view_geometries"):
        with closing(sqlite3.connect(tmp_path / "database.db")) as one, closing(sqlite3.connect(tmp_path / "copy.db")) as other:
            counts = [x.execute(f"select count(*) from {table}").fetchone()[0] for x in (one, other)]
        assert counts[0] == counts[1] > 0
