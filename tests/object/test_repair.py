"""Frames that stand turned over together with points of their own: solved anew from the frames that are trusted."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from holdprep.geometry.rigid import from_rt, rotation_angle_deg
from holdprep.object import colmap
from holdprep.object.child import Children
from holdprep.object.colmap import Model
from holdprep.object.repair import _Bench
from tests.object.boxes import ExactBox, exact_box

T, TURNED = 16, 5


def database(box: ExactBox) -> None:
    """The box's keypoints and matches where COLMAP looks for them."""
    keypoints = {name: box.crop.to_window(px) for name, px in box.features.keypoints_px.items()}
    colmap.write_keypoints(box.folder, box.crop, box.K, keypoints)
    pairs = [(a, b, pairs) for a, found in box.features.matches.items() for b, pairs in found.items() if a < b]
    colmap.write_matches(box.folder, pairs, 4.0, 0, 2)


def turned_over(box: ExactBox) -> Model:
    """The exact model, but that its first frames see points of their own, which are turned as they are."""
    over = from_rt(Rotation.from_euler("xy", (20, 60), degrees=True).as_matrix(), np.zeros(3))
    first, count = box.names[:TURNED], len(box.model.points)
    poses = {name: pose @ over if name in first else pose for name, pose in box.model.poses.items()}
    index = {n: np.where((at >= 0) & (n in first), at + count, at) for n, at in box.model.point_of_keypoint.items()}
    points = np.concatenate([box.model.points, box.model.points @ over[:3, :3]])
    return replace(box.model, poses=poses, points=points, colors=np.tile(box.model.colors, (2, 1)), point_of_keypoint=index)


def test_a_stretch_that_stands_apart_is_reached_anew_from_the_rest(tmp_path: Path) -> None:
    box = exact_box(tmp_path, T, noise_px=0.3)
    database(box)
    wrong = turned_over(box)
    with Children(tmp_path / "colmap.log", 1) as children:
        bench = _Bench(children, tmp_path, box.crop, box.names, frozenset(box.names), box.features, box.principal_px, False, 60.0)
        found, moved = bench.reached_anew(wrong, set())
        same, nothing = bench.reached_anew(box.model, set())
    R = np.stack([found.poses[name][:3, :3] for name in box.names])
    off = np.swapaxes(box.poses[:, :3, :3], 1, 2) @ R  # the object frame is free: one and the same turn at all frames
    assert rotation_angle_deg(off, np.repeat(off[-1:], T, axis=0)).max() < 0.5
    assert moved == set(range(TURNED))
    assert same is box.model
    assert nothing == set()


def test_the_database_is_open_to_one_at_a_time(tmp_path: Path) -> None:
    entered = threading.Event()

    def second() -> None:
        with colmap.open_database(tmp_path):
            entered.set()

    with colmap.open_database(tmp_path):
        waiting = threading.Thread(target=second)
        waiting.start()
        assert not entered.wait(0.3)
    waiting.join(10)
    assert entered.is_set()
