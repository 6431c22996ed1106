"""Adjustment over exact places finds what was disturbed; a lens is found where there is one."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from holdprep.geometry.cameras import distort, project
from holdprep.geometry.rigid import apply, from_rt, rotation_angle_deg
from holdprep.object.bundle import adjust
from holdprep.object.patches import Located
from tests.object.boxes import ExactBox, exact_box

NOISE_PX = 0.05


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> ExactBox:
    return exact_box(tmp_path_factory.mktemp("bundle"), 12, noise_px=0.3)


def places(box: ExactBox, k: float = 0.0) -> dict[str, Located]:
    """Where a camera with distortion k sees the points, but for noise and one place in twenty that is 5 px off."""
    rng, found = np.random.default_rng(2), {}
    for name, pose in box.model.poses.items():
        index = box.model.point_of_keypoint[name]
        points = index[index >= 0]
        px = project(distort(apply(pose, box.model.points[points]), k), box.K) + rng.normal(0, NOISE_PX, (len(points), 2))
        wrong = rng.random(len(points)) < 0.05
        px[wrong] += 5.0
        found[name] = Located(points, px)
    return found


@pytest.mark.parametrize("k", [0.0, -0.15])
def test_poses_focal_length_and_lens_come_right(box: ExactBox, k: float) -> None:
    turn = Rotation.from_rotvec(np.random.default_rng(3).normal(0, 0.005, (12, 3))).as_matrix()
    poses = {name: pose @ from_rt(R, np.zeros(3)) for (name, pose), R in zip(box.model.poses.items(), turn, strict=True)}
    focal_px = float(box.K[0, 0])
    disturbed = replace(box.model, poses=poses, focal_px=1.03 * focal_px)
    found = adjust(disturbed, places(box, k), box.principal_px, refine_focal=True)
    assert found.focal_px == pytest.approx(focal_px, rel=0.005)
    assert found.distortion == pytest.approx([k], abs=0.03)
    assert k or found.distortion[0] == 0.0
    R, R_true = (np.stack([of[name][:3, :3] for name in box.names]) for of in (found.poses, box.model.poses))
    between = Rotation.from_matrix(np.swapaxes(R, 1, 2) @ R_true).mean().as_matrix()
    assert np.median(rotation_angle_deg(R @ between, R_true)) < 0.1


def test_a_given_focal_length_and_its_lens_stay(box: ExactBox) -> None:
    found = adjust(replace(box.model, focal_px=612.0), places(box, -0.15), box.principal_px, refine_focal=False)
    assert found.focal_px == 612.0
    assert found.distortion == pytest.approx([0.0])
