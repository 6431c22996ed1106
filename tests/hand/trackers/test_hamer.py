"""Files in HaMeR's published layout, as torch tensors and as arrays."""

from pathlib import Path

import numpy as np
import pytest
import torch

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from holdprep.hand.trackers import trackfile

K = np.array([[900.0, 0, 319.5], [0, 900, 239.5], [0, 0, 1]])


def save_pickled(path: Path, value: object) -> None:
    np.save(path, np.array(value, dtype=object), allow_pickle=True)


def random_hand(rng: np.random.Generator, frames: int) -> np.ndarray:
    return rng.normal(0, 0.04, (frames, 778, 3))


def write_hamer(folder: Path, frames: list[str], rng: np.random.Generator, torch_tensors: bool = True) -> dict[str, np.ndarray]:
    """Two of HOLD's files: right hand everywhere but in the first frame, no left hand."""
    v = (random_hand(rng, len(frames)) + np.array([0, 0, 0.6])).astype(np.float32)
    v[0] = np.nan
    nothing = np.full_like(v, np.nan)
    j2d = project(v[:, :21], K).astype(np.float32)
    wrap = torch.from_numpy if torch_tensors else np.asarray
    im_paths = [f"./data/seq/images/{f}.jpg" for f in frames]
    arrays = {"v3d.right": v, "v3d.left": nothing, "j3d.right": v[:, :21], "j3d.left": nothing[:, :21]}
    save_pickled(folder / "v3d.npy", {**{k: wrap(a) for k, a in arrays.items()}, "im_paths": im_paths, "K": wrap(K)})
    save_pickled(folder / "j2d.full.npy", {"j2d.right": wrap(j2d), "j2d.left": wrap(nothing[:, :21, :2].copy()), "im_paths": im_paths})
    return {"v": v, "j2d": j2d}


@pytest.mark.parametrize("torch_tensors", [True, False])
def test_hamer_rows_follow_the_names_not_the_order(tmp_path: Path, torch_tensors: bool):
    frames = ["0004", "0000", "0006"]  # 0002 was left out by the tracker
    written = write_hamer(tmp_path, frames, np.random.default_rng(0), torch_tensors)
    track = trackfile.read(tmp_path, ["0000", "0002", "0004", "0006"])
    assert list(track.vertices_m) == ["right"]
    np.testing.assert_array_equal(track.vertices_m["right"][[0, 3]], written["v"][[1, 2]])
    np.testing.assert_array_equal(track.j2d_px["right"][[0, 3]], written["j2d"][[1, 2]])
    np.testing.assert_array_equal(np.isnan(track.vertices_m["right"]).all(axis=(1, 2)), [False, True, True, False])
    np.testing.assert_allclose(project(track.vertices_m["right"][3, :21], track.K), track.j2d_px["right"][3], atol=1e-2)
    assert track.notes == ("HaMeR: 1 of 4 frames are absent",)


def test_hamer_errors_are_one_line(tmp_path: Path):
    names = ["0000", "0002"]
    write_hamer(tmp_path, names, np.random.default_rng(0))
    with pytest.raises(
        HoldprepError, match=r"none of its 2 entries belongs to one of the 2 frames of images/ \(first: 0000 there, a here\)"
    ):
        trackfile.read(tmp_path, ["a", "b"])
    keypoints = {"j2d.right": np.zeros((2, 20, 2)), "im_paths": names}
    save_pickled(tmp_path / "j2d.full.npy", keypoints)
    with pytest.raises(HoldprepError, match=r"j2d.right is float64 \(2, 20, 2\), \(2, 21, 2\) numbers are needed"):
        trackfile.read(tmp_path, names)
    save_pickled(tmp_path / "v3d.npy", {"v3d.right": np.zeros((2, 778, 3)), "K": K})
    with pytest.raises(HoldprepError, match="has no 'im_paths'"):
        trackfile.read(tmp_path, names)
    save_pickled(tmp_path / "v3d.npy", {"v3d.right": np.zeros((2, 778, 3)), "K": K, "im_paths": ["a/0000.jpg", "b/0000.png"]})
    with pytest.raises(HoldprepError, match="names frame '0000' 2 times among 2 rows"):
        trackfile.read(tmp_path, names)
    save_pickled(tmp_path / "v3d.npy", {"v3d.left": np.full((2, 778, 3), np.nan), "K": K, "im_paths": names})
    with pytest.raises(HoldprepError, match="both hands are NaN in all 2 frames"):
        trackfile.read(tmp_path, names)
    np.save(tmp_path / "v3d.npy", np.zeros((2, 778, 3)))
    with pytest.raises(HoldprepError, match=r"try hand.format=metro") as error:
        trackfile.read(tmp_path, names)
    assert "\n" not in str(error.value)
