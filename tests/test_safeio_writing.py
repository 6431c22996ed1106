"""Files that are written open under old numpy, appear whole or not at all."""

import pickletools
import zipfile

import numpy as np
import pytest
import torch

from holdprep.io import safeio

WRITTEN = {
    "right": {
        "hand_pose": torch.arange(6.0).reshape(2, 3),
        "scale": np.float64(0.1),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    },
    "im_paths": ["a", "b"],
    np.str_("names"): np.array(["a", "bc"]),
    "none": None,
    "pair": (np.int64(1), True),
}


def names_in(pickled: bytes) -> set[str]:
    """Every text and global name in a pickle."""
    return {str(argument) for _, argument, _ in pickletools.genops(pickled) if isinstance(argument, str)}


def test_written_dict_opens_under_old_numpy(tmp_path):
    safeio.save_npy(tmp_path / "a.npy", WRITTEN)
    raw = (tmp_path / "a.npy").read_bytes()
    with (tmp_path / "a.npy").open("rb") as stream:
        assert np.lib.format.read_magic(stream) == (1, 0)
        assert np.lib.format.read_array_header_1_0(stream) == ((), False, np.dtype(object))
        pickled = stream.read()
    operations = list(pickletools.genops(pickled))
    assert operations[0][1] == 4  # protocol
    assert b"numpy._core" not in raw
    assert "numpy.core.multiarray _reconstruct" in names_in(pickled)
    assert not any(word in name for name in names_in(pickled) for word in ("_core", "torch", "scalar"))


@pytest.mark.parametrize("read", [safeio.load_npy, lambda p: np.load(p, allow_pickle=True).item()])
@pytest.mark.filterwarnings("ignore:numpy.core")
def test_written_dict_reads_back(tmp_path, read):
    safeio.save_npy(tmp_path / "a.npy", WRITTEN)
    back = read(tmp_path / "a.npy")
    np.testing.assert_array_equal(back["right"]["hand_pose"], np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(back["right"]["fortran"], np.arange(6).reshape(2, 3))
    assert type(back["right"]["scale"]) is float
    assert back["right"]["scale"] == 0.1
    assert back["im_paths"] == ["a", "b"]
    assert back["pair"] == (1, True)
    assert type(back["pair"][0]) is int
    assert back["none"] is None
    assert list(back["names"]) == ["a", "bc"]
    assert all(type(key) is str for key in back)


def test_written_array_reads_back(tmp_path):
    safeio.save_npy(tmp_path / "a.npy", torch.arange(3.0))
    assert safeio.load_npy(tmp_path / "a.npy").dtype == np.float32
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), [0, 1, 2])


@pytest.mark.parametrize("value", [{"a": object()}, {"a": {1, 2}}, {"a": np.array([None])}, {object(): 1}])
def test_what_is_not_data_is_not_written(tmp_path, value):
    with pytest.raises(TypeError):
        safeio.save_npy(tmp_path / "a.npy", value)
    assert list(tmp_path.iterdir()) == []


def test_atomic_path_replaces_at_the_end_and_cleans_up(tmp_path):
    target = tmp_path / "a.zip"
    safeio.write_bytes_atomic(target, b"old")
    with safeio.atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".zip"
        with zipfile.ZipFile(temporary, "w") as archive:
            archive.writestr("x", "new")
        assert target.read_bytes() == b"old"
    assert zipfile.ZipFile(target).read("x") == b"new"
    with pytest.raises(ZeroDivisionError), safeio.atomic_path(target) as temporary:
        temporary.write_bytes(bytes(1 // 0))
    assert zipfile.ZipFile(target).read("x") == b"new"
    assert [f.name for f in tmp_path.iterdir()] == ["a.zip"]
