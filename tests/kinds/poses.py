"""Object poses and hands of other tools' projects: a scene of eight frames, written as each tool does."""

import json
import shutil
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import distort, pinhole_K, project
from holdprep.geometry.rigid import apply, from_rt
from holdprep.hand.trackers import keypoints, meshes
from holdprep.io import tracks
from holdprep.object.cloud import normalization_matrix
from holdprep.object.foreign import read_poses
from holdprep.object.reconstruction import ObjectReconstruction
from tests.kinds.registry import kind

NAMES = [f"{t:04d}" for t in range(8)]
SIZE = (640, 480)
K = pinhole_K(600.0, *SIZE)
POINTS = np.random.default_rng(0).uniform(-1, 1, (30, 3))
POSES = np.stack([from_rt(Rotation.from_euler("y", 10 * t, degrees=True).as_matrix(), np.array([0.1 * t, -0.2, 5.0])) for t in range(8)])
PINHOLE = "SIMPLE_PINHOLE 640 480 600 320 240"


def _model(folder: Path, names: list[str], cameras: tuple[str, ...] = (PINHOLE,), gone: int = 0, k: float = 0.0) -> Path:
    """COLMAP's text model; the first `gone` points are deleted, and image i has camera i modulo their number."""
    folder.mkdir(parents=True)
    lines = []
    for i, (name, T) in enumerate(zip(names, POSES, strict=False)):
        x, y, z, w = Rotation.from_matrix(T[:3, :3]).as_quat()
        px = project(distort(apply(T, POINTS), k), K) + 0.5
        lines.append(" ".join(map(str, (i + 1, w, x, y, z, *T[:3, 3], i % len(cameras) + 1, name))))
        lines.append(" ".join(f"{u} {v} {n + 1}" for n, (u, v) in enumerate(px)))
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    (folder / "cameras.txt").write_text("".join(f"{i + 1} {camera}\n" for i, camera in enumerate(cameras)))
    track = " ".join(f"{i + 1} {{0}}" for i in range(len(names)))
    rows = [f"{n + 1} {' '.join(map(str, p))} 9 9 9 0.5 {track.format(n)}\n" for n, p in enumerate(POINTS) if n >= gone]
    (folder / "points3D.txt").write_text("".join(rows))
    return folder


def _assert_exact(found: ObjectReconstruction, frames: int = 8) -> None:
    assert found.registered.sum() == frames
    assert np.abs(found.T_cam_obj - POSES).max() < 1e-6 and np.abs(found.K - K).max() < 1e-9
    assert not len(found.observation_px) or found.reprojection_px < 1e-5


@kind("poses: COLMAP's points were deleted")
def points_gone(folder: Path) -> None:
    found = read_poses(_model(folder / "some", [f"{n}.jpg" for n in NAMES], gone=7), NAMES, SIZE)
    _assert_exact(found)
    assert len(found.points_obj) == 23 and found.inliers.tolist() == [23] * 8
    with pytest.raises(HoldprepError, match="has 0 points, 4 are needed: export"):
        read_poses(_model(folder / "all", [f"{n}.jpg" for n in NAMES], gone=30), NAMES, SIZE)


@kind("poses: COLMAP counted from 1, names with blanks, folders")
def names(folder: Path) -> None:
    for form in ("{:05d}.jpg", "my frame {:03d}.png", "images/{:06d}.jpg", "cam (1)/{}.jpg"):
        given = [form.format(t + 1) for t in range(8)]
        found = read_poses(_model(folder / str(len(list(folder.iterdir()))), given), NAMES, SIZE)
        _assert_exact(found)
        assert "in order" in found.warnings[0]
    with pytest.raises(HoldprepError, match="count frames from 1"):
        read_poses(_without(_model(folder / "gap", [f"{t + 1:05d}.jpg" for t in range(8)]), "00004.jpg"), NAMES, SIZE)
    with pytest.raises(HoldprepError, match=r"two poses for frame 0000, of cam0/0000\.jpg and cam1/0000\.jpg"):
        read_poses(_model(folder / "cams", [f"cam{t // 4}/{t % 4:04d}.jpg" for t in range(8)]), NAMES, SIZE)


def _without(model: Path, image: str) -> Path:
    """The model without one image, of which its points' tracks know nothing."""
    lines = (model / "images.txt").read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.endswith(image))
    number = lines[at].split()[0]
    (model / "images.txt").write_text("\n".join(lines[:at] + lines[at + 2 :]) + "\n")
    rows = [row.split() for row in (model / "points3D.txt").read_text().splitlines()]
    kept = [row[:8] + [x for pair in zip(row[8::2], row[9::2], strict=True) if pair[0] != number for x in pair] for row in rows]
    (model / "points3D.txt").write_text("".join(" ".join(row) + "\n" for row in kept))
    return model


@kind("poses: COLMAP's project folders, several models, rigs and frames, binary files")
def projects(folder: Path) -> None:
    own = [f"{n}.jpg" for n in NAMES]
    text = _model(folder / "project" / "sparse" / "0", own)
    _model(folder / "project" / "sparse" / "1", own[:3])
    for path in (folder / "project", folder / "project" / "sparse", text, text / "images.txt"):
        _assert_exact(read_poses(path, NAMES, SIZE))
    assert "several models, the largest is used: 0" in read_poses(folder / "project", NAMES, SIZE).warnings[0]
    model = pycolmap.Reconstruction(text)
    for name, write in (("bin", model.write_binary), ("txt", model.write_text)):
        newest = folder / name
        newest.mkdir()
        write(newest)
        assert {"rigs", "frames"} <= {f.stem for f in newest.iterdir()}
        _assert_exact(read_poses(newest, NAMES, SIZE))
    for file in ("rigs.bin", "frames.bin"):
        (folder / "bin" / file).unlink()
    _assert_exact(read_poses(folder / "bin", NAMES, SIZE))
    empty = folder / "empty"
    (empty / "sparse").mkdir(parents=True)
    with pytest.raises(HoldprepError, match="is no COLMAP model or project"):
        read_poses(empty, NAMES, SIZE)


@kind("poses: COLMAP's camera models")
def camera_models(folder: Path) -> None:
    own = [f"{n}.jpg" for n in NAMES]
    for name, camera, k in (
        ("zero", "OPENCV 640 480 600 600 320 240 0 0 0 0", 0.0),
        ("full", "FULL_OPENCV 640 480 600 600 320 240 0 0 0 0 0 0 0 0", 0.0),
        ("radial", "RADIAL 640 480 600 320 240 -0.05 0", -0.05),
        ("k1", "OPENCV 640 480 600 600 320 240 -0.05 0 0 0", -0.05),
    ):
        found = read_poses(_model(folder / name, own, (camera,), k=k), NAMES, SIZE)
        _assert_exact(found)
        assert found.distortion.tolist() == ([k] if k else [])
    for name, cameras, words in (
        ("k2", ("OPENCV 640 480 600 600 320 240 0 0.1 0 0",), "distortion .k2 0.1., of which k1 alone is read"),
        (
            "each",
            tuple(f"SIMPLE_PINHOLE 640 480 {600 + t} 320 240" for t in range(8)),
            "8 for 8 images: SIMPLE_PINHOLE, focal lengths 600 to 607",
        ),
        ("fisheye", ("OPENCV_FISHEYE 640 480 600 600 320 240 0 0 0 0",), "undistort the images first"),
    ):
        with pytest.raises(HoldprepError, match=words) as error:
            read_poses(_model(folder / name, own, cameras), NAMES, SIZE)
        assert "\n" not in str(error.value)


@kind("poses: nerfstudio's transforms.json")
def nerfstudio(folder: Path) -> None:
    opengl = np.diag([1.0, -1, -1, 1])
    frames = [
        {"file_path": f"./images/frame_{t + 1:05d}.png", "transform_matrix": (np.linalg.inv(T) @ opengl).tolist()}
        for t, T in enumerate(POSES)
    ]
    trimesh.PointCloud(POINTS).export(folder / "sparse_pc.ply")
    kinds = {
        "shared": {
            "fl_x": 600.0,
            "fl_y": 600.0,
            "cx": 320.0,
            "cy": 240.0,
            "w": 640,
            "h": 480,
            "k1": 0.0,
            "k2": 0.0,
            "camera_model": "OPENCV",
        },
        "angle": {"camera_angle_x": 2 * np.arctan(320 / 600)},
    }
    for name, values in kinds.items():
        (folder / f"{name}.json").write_text(json.dumps({**values, "frames": frames, "ply_file_path": "sparse_pc.ply"}))
        found = read_poses(folder / f"{name}.json", NAMES, SIZE)
        _assert_exact(found)
        assert np.abs(np.sort(found.points_obj, axis=0) - np.sort(POINTS, axis=0)).max() < 1e-5
    shutil.copyfile(folder / "shared.json", folder / "transforms.json")
    _assert_exact(read_poses(folder, NAMES, SIZE))
    left_handed = [
        {**f, "transform_matrix": (np.array(f["transform_matrix"]) * ([-1, 1, 1, 1] if t == 2 else 1)).tolist()}
        for t, f in enumerate(frames)
    ]
    each = [{**f, **kinds["shared"], "fl_x": 600.0 + t, "fl_y": 600.0 + t} for t, f in enumerate(frames)]
    for content, words in (
        ({**kinds["shared"], "frames": each}, "several cameras .8 for 8 images"),
        ({**kinds["shared"], "k1": 0.1, "k2": 0.2, "frames": frames}, "k1 0.1, k2 0.2"),
        ({**kinds["shared"], "frames": frames, "ply_file_path": "none.ply"}, "has no cloud: none.ply"),
        ({**kinds["shared"], "frames": frames, "ply_file_path": "x" * 300}, "names only files beside it"),
        ({**kinds["shared"], "frames": left_handed}, "the poses of 1 of 8 frames are mirrored .first: 0002."),
        ({"frames": [{}]}, "is no transforms.json of nerfstudio"),
    ):
        (folder / "bad.json").write_text(json.dumps(content))
        with pytest.raises(HoldprepError, match=words):
            read_poses(folder / "bad.json", NAMES, SIZE)


def _hold(folder: Path, poses: np.ndarray, points: np.ndarray) -> np.ndarray:
    """HOLD's arrays; returns its canonical matrix."""
    folder.mkdir(exist_ok=True)
    matrix = normalization_matrix(points)
    for name, array in (("intrinsic", K), ("o2w", poses), ("normalization_mat", matrix)):
        np.save(folder / f"{name}.npy", array)
    lines = ("v {:.8f} {:.8f} {:.8f}\n".format(*p) for p in apply(matrix, points))
    (folder / "sparse_points_normalized.obj").write_text("".join(lines))
    return matrix


@kind("poses: tracks.npz that HOLD's colmap step left behind")
def left_behind(folder: Path) -> None:
    """The observations count for the arrays that they were written with; after HOLD's script they do not."""
    k = -0.04
    px = project(apply(POSES, POINTS), K)
    own = {
        "points_obj": POINTS,
        "registered": np.arange(8) != 3,
        "lens": np.array(k),
        "observation_frame": np.repeat(np.arange(8), 30),
        "observation_point": np.tile(np.arange(30), 8),
        "observation_px": px.reshape(-1, 2),
    }
    for has_digest in (True, False):
        path = folder / str(has_digest)
        _hold(path, POSES, POINTS)
        tracks.write(path, own) if has_digest else np.savez(path / tracks.FILE, **own)
        found = read_poses(path, NAMES, SIZE)
        assert found.registered.tolist() == own["registered"].tolist() and found.distortion.tolist() == [k]
        assert found.reprojection_px < 1e-3  # observations are those of the distorted images again
        _hold(path, POSES, 1.7 * POINTS[:12] + 0.3)
        assert tracks.read(path) == {}
        found = read_poses(path, NAMES, SIZE)
        assert found.registered.all() and len(found.points_obj) == 12 and not len(found.observation_px) and not len(found.distortion)
    moved = folder / "True"
    holes = POSES.copy()
    holes[2, 1, 3] = np.nan
    _hold(moved, holes, POINTS)
    with pytest.raises(HoldprepError, match="the pose of frame 0002 holds values that are not finite"):
        read_poses(moved, NAMES, SIZE)
    _hold(moved, POSES, POINTS)
    once = own | {"observation_frame": np.arange(30) % 8, "observation_point": np.arange(30), "observation_px": px[0]}
    tracks.write(moved, once)
    with pytest.raises(HoldprepError, match="0 of 30 points are observed in two frames or more, 4 are needed"):
        read_poses(moved, NAMES, SIZE)
    tracks.write(moved, own)
    np.save(moved / "o2w.npy", POSES[::-1])
    assert tracks.read(moved) == {}


@kind("hands: names of files, counted from 1, of a video, padded")
def hands(folder: Path) -> None:
    rng = np.random.default_rng(2)
    base = rng.uniform(200, 300, (21, 2))
    for form, first in (("{:04d}", 0), ("clip_{:012d}", 0), ("{:012d}", 0), ("my clip {:05d}", 1), ("{:05d}", 1)):
        own = folder / f"{len(list(folder.iterdir()))}"
        own.mkdir()
        for t in range(8):
            row = np.concatenate([base + 5 * t, np.full((21, 1), 0.9)], axis=1)
            person = {"hand_right_keypoints_2d": row.ravel().tolist(), "hand_left_keypoints_2d": [0] * 63}
            (own / f"{form.format(t + first)}_keypoints.json").write_text(json.dumps({"people": [person]}))
        found, notes = keypoints.read(own, NAMES, SIZE)
        wrists = found["right"].j2d_px[:, 0]
        assert np.allclose(wrists - wrists[0], 5 * np.arange(8)[:, None])
        assert bool(notes and "in order" in notes[0]) == (first == 1)
    stem = folder / "meshes"
    stem.mkdir()
    for t in range(3):
        (stem / f"clip_{t:012d}.obj").write_text("v 0 0 0\n")
    assert [f.frame for f in meshes.list_files(stem, NAMES)] == [f"clip_{t:012d}" for t in range(3)]
    for t in range(3):
        (stem / f"clip_{t:012d}.obj").rename(stem / f"{t:04d}_{t % 2}.obj")
    assert [f.frame for f in meshes.list_files(stem, NAMES)] == NAMES[:3]
