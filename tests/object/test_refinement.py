"""Frames with a wrong rotation and their own points are registered again from the trusted frames."""

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from holdprep.geometry.rigid import from_rt, rotation_angle_deg
from holdprep.object import colmap
from holdprep.object.child import Children
from holdprep.object.colmap import Model
from holdprep.object.model_selection import score_models
from holdprep.object.refinement import Refiner
from tests.object.boxes import ExactBox, exact_box

T, NUM_WRONG = 16, 5


def write_database(box: ExactBox) -> None:
    """Write the box's keypoints and matches to COLMAP's database."""
    folder, crop = box.workspace.folder, box.workspace.crop
    keypoints = {name: crop.to_window(px) for name, px in box.features.keypoints_px.items()}
    colmap.write_keypoints(folder, crop, box.K, keypoints)
    pairs = [(a, b, pairs) for a, found in box.features.matches.items() for b, pairs in found.items() if a < b]
    colmap.write_matches(folder, pairs, 4.0, 0, 2)


def with_wrong_frames(box: ExactBox) -> Model:
    """The exact model, but its first frames are rotated together with their own copies of the points."""
    wrong = from_rt(Rotation.from_euler("xy", (20, 60), degrees=True).as_matrix(), np.zeros(3))
    first, count = box.names[:NUM_WRONG], len(box.model.points)
    poses = {name: pose @ wrong if name in first else pose for name, pose in box.model.poses.items()}
    index = {n: np.where((at >= 0) & (n in first), at + count, at) for n, at in box.model.point_of_keypoint.items()}
    points = np.concatenate([box.model.points, box.model.points @ wrong[:3, :3]])
    return replace(box.model, poses=poses, points=points, colors=np.tile(box.model.colors, (2, 1)), point_of_keypoint=index)


def test_frames_beyond_a_jump_are_registered_again(tmp_path: Path) -> None:
    box = exact_box(tmp_path, T, noise_px=0.3)
    write_database(box)
    wrong = with_wrong_frames(box)
    with Children(tmp_path / "colmap.log", 1) as children:
        refiner = Refiner(children, box.workspace, box.features, 60.0)
        found, corrected = refiner.recover_untrusted(wrong, set())
        unchanged, none_corrected = refiner.recover_untrusted(box.model, set())
    R = np.stack([found.poses[name][:3, :3] for name in box.names])
    relative = np.swapaxes(box.poses[:, :3, :3], 1, 2) @ R  # the same rotation at all frames: the object frame is arbitrary
    assert rotation_angle_deg(relative, np.repeat(relative[-1:], T, axis=0)).max() < 0.5
    assert corrected == set(range(NUM_WRONG))
    assert unchanged is box.model
    assert none_corrected == set()


@pytest.mark.parametrize("spoilt", [True, False])
def test_merging_keeps_what_the_best_mapping_had(spoilt: bool, tmp_path: Path) -> None:
    """The merged model loses frames to a flip, as that of an object with two similar sides may."""
    box = exact_box(tmp_path, T, noise_px=0.3)
    wrong, tried = with_wrong_frames(box), []

    class Merging(Refiner):
        def complete(self, model: Model, poses: Mapping[str, np.ndarray]) -> tuple[Model, set[int]]:
            tried.append(model)
            return (wrong if spoilt else box.model), {3}

        def retriangulate(self, model: Model, poses: Mapping[str, np.ndarray]) -> Model:
            return replace(model, poses=dict(poses))

    few = replace(box.model, poses={name: box.model.poses[name] for name in box.names[:8]})
    models = [few, box.model]
    with Children(tmp_path / "colmap.log", 1) as children:
        refiner = Merging(children, box.workspace, box.features, 60.0)
        scores = score_models(box.names, models, box.features, box.workspace.principal_px)
        found, corrected = refiner.merge(models, scores)
    assert len(found.poses) == T and all((found.poses[name] == box.model.poses[name]).all() for name in box.names)
    assert corrected == (set() if spoilt else {3}) and len(tried) == (2 if spoilt else 1)


def test_the_database_is_locked_while_open(tmp_path: Path) -> None:
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
