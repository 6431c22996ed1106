"""True joints of HO-3D and DexYCB as tracks: their axes, orders, cameras and absent hands."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import pinhole_K, project
from holdprep.hand.joints import OPENPOSE_FROM_MANO21
from holdprep.hand.model import SIDES, Side
from holdprep.hand.trackers import datasets
from tests.hand.trackers.known import NAMES, mesh

K = pinhole_K(610, 640, 480) + np.array([[0, 0, 3.0], [0, 0, -2.0], [0, 0, 0]])
ORDER = list(OPENPOSE_FROM_MANO21)


def check(found: datasets.Found, side: Side, joints_m: np.ndarray, factor: float) -> None:
    tracks, camera, _ = found
    assert list(tracks) == [side]
    np.testing.assert_allclose(camera, np.diag([factor, factor, 1]) @ K, atol=1e-5)
    np.testing.assert_allclose(tracks[side].j3d_m[[0, 2]], (joints_m - joints_m[:, :1])[[0, 2]], atol=1e-6)
    np.testing.assert_allclose(tracks[side].j2d_px[[0, 2]], project(joints_m, camera)[[0, 2]], atol=1e-3)
    assert tracks[side].found.tolist() == [True, False, True] and (tracks[side].confidence[1] == 0).all()


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_ho3d(tmp_path: Path, factor: float):
    joints_m = mesh("right", 0.6).joints.numpy()
    (tmp_path / "meta").mkdir()
    for t, name in enumerate(NAMES):
        frame = {"camMat": K, "objRot": np.zeros(3), "objTrans": np.zeros(3), "objName": "021_bleach_cleanser"}
        frame["handJoints3D"] = joints_m[t] * [1, -1, -1] if t != 1 else None  # OpenGL's axes
        (tmp_path / "meta" / f"{name}.pkl").write_bytes(pickle.dumps(frame, protocol=2))
    check(datasets.read("ho3d", tmp_path, NAMES, (int(640 * factor), int(480 * factor))), "right", joints_m, factor)


@pytest.mark.parametrize("side", SIDES)
def test_dexycb(tmp_path: Path, side: Side):
    joints_m, folder = mesh(side, 0.6).joints.numpy(), tmp_path / "836212060125"
    folder.mkdir()
    (tmp_path / "meta.yml").write_text(
        f"mano_calib:\n- 20200709-subject-01_{side}\nmano_sides:\n- {side}\nnum_frames: 3\nserials:\n- '836212060125'\n"
    )
    for t, name in enumerate(NAMES):
        there = t != 1
        joint_3d = joints_m[None, t, ORDER] if there else np.full((1, 21, 3), -1.0)
        joint_2d = project(joints_m[t], K)[None, ORDER] if there else np.full((1, 21, 2), -1.0)
        np.savez(folder / f"labels_{int(name):06d}.npz", joint_3d=joint_3d.astype(np.float32), joint_2d=joint_2d, pose_m=np.zeros((1, 51)))
    check(datasets.read("dexycb", folder, NAMES, (640, 480)), side, joints_m, 1.0)


def test_other_content_is_one_line(tmp_path: Path):
    with pytest.raises(HoldprepError, match="holds no labels"):
        datasets.read("dexycb", tmp_path, NAMES, (640, 480))
    np.savez(tmp_path / "labels_000000.npz", joint_3d=np.zeros(3))
    with pytest.raises(HoldprepError, match=r"labels_000000\.npz: joint_3d is .* is it DexYCB's"):
        datasets.read("dexycb", tmp_path, NAMES, (640, 480))
