"""Meshes of 778 vertices in every convention that is converted, of hands whose pose is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from holdprep.hand.model import SIDES, Side
from holdprep.hand.trackers import meshes, wilor
from tests.hand.trackers.known import MODELS, NAMES, SIZE, mesh

FOCAL_PX = 600.0


def write(folder: Path, named: dict[str, np.ndarray], suffix: str = ".ply") -> Path:
    for name, vertices in named.items():
        path = folder / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        trimesh.Trimesh(vertices, MODELS["right"].faces.numpy(), process=False).export(path)
    return folder


def vertices(side: Side = "right", depth_m: float = 0.6) -> np.ndarray:
    return mesh(side, depth_m).vertices.numpy()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("suffix", "scale", "axes", "words"), [
    (".ply", 1.0, 1, []),
    (".obj", 1000.0, 1, ["millimetres"]),
    (".ply", 100.0, [1, -1, -1], ["centimetres", "OpenGL's axes"]),
])  # fmt: skip
def test_units_and_axes_are_converted(tmp_path: Path, side: Side, suffix: str, scale: float, axes: object, words: list[str]):
    folder = write(tmp_path / "meshes", dict(zip(NAMES, scale * vertices(side) * axes, strict=True)), suffix)
    track = meshes.read(folder, NAMES, SIZE, MODELS, FOCAL_PX)
    assert list(track.vertices_m) == [side]
    np.testing.assert_allclose(track.vertices_m[side], vertices(side), atol=1e-6)
    assert len(track.notes) == len(words) and all(word in note for word, note in zip(words, track.notes, strict=True))
    joints = mesh(side, 0.6).joints.numpy()
    assert np.abs(track.j2d_px[side] - project(joints, track.K)).max() < 15  # regressed from a posed mesh, joints are some mm off


def test_names_tell_frame_and_side_and_the_closed_wrist_is_opened(tmp_path: Path):
    right, left = vertices("right"), vertices("left")
    closed = np.concatenate([right[2], right[2, :1]])
    folder = write(tmp_path, {"0000_right": right[0], "right/0002": right[1], "0004": closed, "0000_left": left[0], "left/0002_1": left[1]})
    track = meshes.read(folder, NAMES, SIZE, MODELS, FOCAL_PX)
    np.testing.assert_allclose(track.vertices_m["right"], right, atol=1e-6)
    np.testing.assert_allclose(track.vertices_m["left"][:2], left[:2], atol=1e-6)
    assert np.isnan(track.vertices_m["left"][2]).all() and np.isnan(track.j2d_px["left"][2]).all()


@pytest.mark.parametrize("side", SIDES)
def test_the_demos_of_wilor_and_hamer(tmp_path: Path, side: Side):
    """OpenGL's axes, invented camera 5000/256 longer sides away, hands numbered as they were detected: the largest of a side is taken."""
    depth_m = 12.0
    near, far = vertices(side, depth_m), vertices(side, 2 * depth_m)
    named = {f"{n}_{i}": v * [1, -1, -1] for n, a, b in zip(NAMES, near, far, strict=True) for i, v in enumerate((b, a))}
    track = wilor.read(write(tmp_path, named, ".obj"), NAMES, SIZE, MODELS)
    np.testing.assert_allclose(track.vertices_m[side], near, atol=1e-6)
    assert track.K[0, 0] == 5000 / 256 * 640
    assert "3 hands were left out" in track.notes[-1]


def test_bad_input_is_one_line(tmp_path: Path):
    right = vertices()

    def refused(named: dict[str, np.ndarray], folder: str, focal_px: float | None = FOCAL_PX) -> str:
        with pytest.raises(HoldprepError) as error:
            meshes.read(write(tmp_path / folder, named), NAMES, SIZE, MODELS, focal_px)
        assert "\n" not in str(error.value)
        return str(error.value)

    every = dict(zip(NAMES, right, strict=True))
    assert "3 of 3 meshes that are named left are right hands (first: 0000_left.ply)" in refused(
        {f"{n}_left": v for n, v in every.items()}, "a"
    )
    assert "0002.ply has 500 vertices, a MANO hand has 778" in refused(every | {"0002": right[1, :500]}, "b")
    assert "its hand is 0.003" in refused({n: v / 50 for n, v in every.items()}, "c")
    shuffled = np.random.default_rng(0).permutation(778)
    assert "in 3 of 3 meshes the palm is not that of the stand-in hand, whose vertices differ from MANO's" in refused(
        {n: v[shuffled] for n, v in every.items()}, "d"
    )
    published = {**MODELS, "right": replace(MODELS["right"], name="mano")}
    with pytest.raises(HoldprepError, match="the palm is not that of MANO's, or their order is another"):
        meshes.read(tmp_path / "d", NAMES, SIZE, published, FOCAL_PX)
    assert "at the camera" in refused({n: v - v[:1] for n, v in every.items()}, "e")
    assert "outside the image of 640 x 480 under a focal length of 12500 px" in refused(every, "f", None)
    assert "none of its 1 entries belongs to one of the 3 frames" in refused({"9": right[0]}, "g")
    assert "vertices that are not finite" in refused(every | {"0004": np.full((778, 3), np.nan)}, "h")
    assert "holds no .obj or .ply files" in refused({}, "nothing")
    (tmp_path / "a" / "0000.ply").write_bytes((tmp_path / "b" / "0000.ply").read_bytes()[:3000])
    assert "0000.ply is not a readable mesh" in refused({}, "a")
