"""Import of poses from other tools: a scene of three frames and six points, written in every supported format."""

from pathlib import Path

import numpy as np
import pycolmap
import pytest
from scipy.spatial.transform import Rotation

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import distort, pinhole_K, project
from holdprep.geometry.rigid import apply, from_rt
from holdprep.object.foreign import read_poses

NAMES = ["0000", "0002", "0004", "0006"]  # 0004 has no pose
POSED = [0, 1, 3]
SIZE = (640, 480)
K = pinhole_K(600.0, *SIZE)
LENS = -0.05
POINTS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]], float)
POSES = np.stack([from_rt(Rotation.from_euler("y", 10 * t, degrees=True).as_matrix(), np.array([0.1 * t, -0.2, 5.0])) for t in range(4)])


def projected(t: int) -> np.ndarray:
    return project(distort(apply(POSES[t], POINTS), LENS), K)


def write_text_model(folder: Path) -> Path:
    """COLMAP's text files as written before version 3.12: without rigs and frames; the centre of the first pixel is at 0.5."""
    folder.mkdir()
    (folder / "cameras.txt").write_text(f"1 SIMPLE_RADIAL 640 480 600 320 240 {LENS}\n")
    lines, tracks = [], {n: [] for n in range(len(POINTS))}
    for image, t in enumerate(POSED, start=1):
        x, y, z, w = Rotation.from_matrix(POSES[t, :3, :3]).as_quat()
        numbers = " ".join(f"{v!r}" for v in map(float, (w, x, y, z, *POSES[t, :3, 3])))
        lines.append(f"{image} {numbers} 1 images/{int(NAMES[t]):05d}.jpg")
        lines.append(" ".join(f"{float(u)!r} {float(v)!r} {n + 7}" for n, (u, v) in enumerate(projected(t) + 0.5)))
        for n in tracks:
            tracks[n].append(f"{image} {n}")
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    rows = [f"{n + 7} {' '.join(map(repr, map(float, POINTS[n])))} {10 * n} 20 30 0.5 {' '.join(t)}" for n, t in tracks.items()]
    (folder / "points3D.txt").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(params=["text", "binary"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    text = write_text_model(tmp_path / "text")
    if request.param == "text":
        return text
    binary = tmp_path / "binary"
    binary.mkdir()
    pycolmap.Reconstruction(text).write_binary(binary)
    return binary


def test_a_colmap_model_is_read_unchanged(model: Path) -> None:
    found = read_poses(model, NAMES, SIZE)
    assert found.K.ravel() == pytest.approx(K.ravel())
    assert found.distortion == pytest.approx([LENS])
    assert found.T_cam_obj[POSED] == pytest.approx(POSES[POSED], abs=1e-9)
    assert found.origin == ["sfm", "sfm", "interpolated", "sfm"]
    order = np.lexsort(found.points_obj.T)
    assert found.points_obj[order] == pytest.approx(POINTS[np.lexsort(POINTS.T)])
    assert sorted(found.colors[:, 0].tolist()) == [0, 10, 20, 30, 40, 50]
    assert found.inliers.tolist() == [6, 6, 0, 6]
    assert found.reprojection_px == pytest.approx(0, abs=1e-6)
    assert found.observation_px[found.observation_frame == 1] == pytest.approx(projected(1))


def test_a_colmap_folder_of_hold_is_read(tmp_path: Path) -> None:
    scale = np.diag([0.5, 0.5, 0.5, 1.0])
    scale[:3, 3] = -0.25
    np.save(tmp_path / "intrinsic.npy", K)
    np.save(tmp_path / "o2w.npy", POSES)
    np.save(tmp_path / "normalization_mat.npy", scale)
    (tmp_path / "sparse_points_normalized.obj").write_text("".join("v {} {} {}\n".format(*p) for p in apply(scale, POINTS)))
    found = read_poses(tmp_path, NAMES, SIZE)
    assert found.T_cam_obj == pytest.approx(POSES)
    assert found.points_obj == pytest.approx(POINTS)
    assert np.isnan(found.reprojection_px)
    assert len(found.observation_px) == 0
    with pytest.raises(HoldprepError, match=r"o2w.npy has shape \(4, 4, 4\), \(3, 4, 4\) is needed"):
        read_poses(tmp_path, NAMES[:3], SIZE)


def test_poses_of_an_npz_are_matched_by_name(tmp_path: Path) -> None:
    path = tmp_path / "poses.npz"
    poses = POSES[[3, 0, 1]].copy()
    poses[1] = np.nan
    np.savez(path, T_cam_obj=poses, points_obj=POINTS, focal_px=600.0, names=["0006", "0", "0002"])
    found = read_poses(path, NAMES, SIZE)
    assert found.registered.tolist() == [False, True, False, True]
    assert found.T_cam_obj[[1, 3]] == pytest.approx(POSES[[1, 3]])
    assert found.K.ravel() == pytest.approx(K.ravel())


def test_unusable_input_is_reported_in_one_line(tmp_path: Path) -> None:
    text = write_text_model(tmp_path / "text")
    wrong: list[tuple[Path, list[str], tuple[int, int], str]] = [
        (text, NAMES, (320, 240), "640 x 480, images/ has 320 x 240"),
        (text, ["a", "b"], SIZE, "none of its 3 entries .*first: 00000 there, a here"),
        (tmp_path / "nothing", NAMES, SIZE, "is no COLMAP model"),
    ]
    several, fisheye = write_text_model(tmp_path / "several"), write_text_model(tmp_path / "fisheye")
    (several / "cameras.txt").write_text("1 SIMPLE_PINHOLE 640 480 600 320 240\n2 SIMPLE_PINHOLE 640 480 700 320 240\n")
    lines = (several / "images.txt").read_text()
    (several / "images.txt").write_text(lines.replace(" 1 images/00002", " 2 images/00002"))
    (fisheye / "cameras.txt").write_text("1 OPENCV_FISHEYE 640 480 600 600 320 240 0 0 0 0\n")
    wrong.append((several, NAMES, SIZE, "several cameras"))
    wrong.append(
        (fisheye, NAMES, SIZE, "OPENCV_FISHEYE camera, SIMPLE_PINHOLE, PINHOLE, SIMPLE_RADIAL, RADIAL, OPENCV, FULL_OPENCV are read")
    )
    for name, arrays, message in (
        ("few", {"T_cam_obj": POSES}, "lacks points_obj, K or focal_px"),
        ("short", {"T_cam_obj": POSES[:2], "points_obj": POINTS, "K": K}, "2 poses and no names, images/ has 4 frames"),
        ("mirrored", {"T_cam_obj": POSES * [-1, 1, 1, 1], "points_obj": POINTS, "K": K}, "4 of 4 frames are mirrored"),
        ("no camera", {"T_cam_obj": POSES, "points_obj": POINTS, "K": K + np.inf}, "the camera holds values that are not finite"),
        ("bent", {"T_cam_obj": 2 * POSES, "points_obj": POINTS, "K": K}, "is no rotation"),
        ("empty", {"T_cam_obj": POSES, "points_obj": POINTS[:2], "K": K}, "4 finite points or more"),
    ):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        wrong.append((tmp_path / f"{name}.npz", NAMES, SIZE, message))
    for path, names, size, message in wrong:
        with pytest.raises(HoldprepError, match=message) as error:
            read_poses(path, names, size)
        assert "\n" not in str(error.value)
