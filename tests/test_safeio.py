"""Files of others are read without running anything; ours open under numpy 1.23."""

import collections
import io
import os
import pickle
import pickletools
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

from holdprep import safeio
from holdprep.errors import HoldprepError, UnsafeFile


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


class Evaluating:
    def __reduce__(self):
        return eval, ("1 + 1",)


def write_pickled_npy(path: Path, value: object) -> None:
    np.save(path, np.array(value, dtype=object), allow_pickle=True)


def test_malicious_pickle_npy_and_checkpoint_are_refused_and_do_not_run(tmp_path: Path):
    target = tmp_path / "owned"
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"x": Malicious(target)}))
    write_pickled_npy(tmp_path / "a.npy", {"x": Malicious(target)})
    torch.save({"x": Malicious(target)}, tmp_path / "a.ckpt")
    for load, name in ((safeio.load_pickle, "a.pkl"), (safeio.load_npy, "a.npy"), (safeio.load_checkpoint, "a.ckpt")):
        with pytest.raises(UnsafeFile, match=name) as error:
            load(tmp_path / name)
        assert "mkdir" in str(error.value)
        assert "\n" not in str(error.value)
    assert not target.exists()


def test_builtins_are_not_allowed_as_a_module(tmp_path: Path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Evaluating()))
    with pytest.raises(UnsafeFile, match=r"builtins\.eval"):
        safeio.load_pickle(tmp_path / "a.pkl")


def test_malicious_storage_inside_a_tensor_is_refused(tmp_path: Path):
    target = tmp_path / "owned"
    inner = io.BytesIO()
    torch.save(Malicious(target), inner, _use_new_zipfile_serialization=False)

    class Storage:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (inner.getvalue(),)

    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Storage()))
    with pytest.raises(HoldprepError, match=r"a\.pkl"):
        safeio.load_pickle(tmp_path / "a.pkl")
    assert not target.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_what_arrays_need_is_read(tmp_path: Path, protocol: int):
    value = {
        "array": np.arange(6.0).reshape(2, 3),
        "text": "x",
        "scalar": np.float64(2.5),
        "sparse": scipy.sparse.csc_matrix(np.eye(3)),
        "list": [np.int32(3), (1, 2)],
        "ordered": collections.OrderedDict(a=np.ones(2)),
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, protocol=protocol))
    loaded = safeio.load_pickle(tmp_path / "a.pkl")
    np.testing.assert_array_equal(loaded["array"], value["array"])
    np.testing.assert_array_equal(loaded["sparse"].toarray(), np.eye(3))
    assert loaded["scalar"] == 2.5
    assert loaded["list"] == [3, (1, 2)]


def test_torch_tensors_in_a_pickled_npy_become_arrays(tmp_path: Path):
    write_pickled_npy(tmp_path / "v3d.npy", {"v3d.right": torch.arange(12.0).reshape(3, 4).T, "im_paths": ["a/0.jpg"]})
    loaded = safeio.load_npy(tmp_path / "v3d.npy")
    np.testing.assert_array_equal(loaded["v3d.right"], np.arange(12.0).reshape(3, 4).T)
    assert loaded["im_paths"] == ["a/0.jpg"]


def fake_module(name: str, cls: type) -> types.ModuleType:
    module = types.ModuleType(name)
    cls.__module__ = name
    setattr(module, cls.__name__, cls)
    return module


def test_chumpy_and_xdict_are_read_without_their_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Ch:
        pass

    class Select:
        pass

    class xdict(dict):
        pass

    with monkeypatch.context() as patch:
        for name, cls in (("chumpy.ch", Ch), ("chumpy.reordering", Select), ("common.xdict", xdict)):
            for parent in (name.split(".")[0], name):
                patch.setitem(sys.modules, parent, fake_module(name, cls))
            cls.__qualname__ = cls.__name__
        array, select = Ch(), Select()
        array.__dict__.update(x=np.arange(6.0))
        select.__dict__.update(a=array, idxs=np.array([4, 2, 0, 1]), preferred_shape=(2, 2))
        for protocol in (0, 2, 4):
            (tmp_path / f"{protocol}.pkl").write_bytes(pickle.dumps(xdict(a=array, s=select), protocol=protocol))
    for protocol in (0, 2, 4):
        loaded = safeio.load_pickle(tmp_path / f"{protocol}.pkl")
        assert type(loaded) is dict
        np.testing.assert_array_equal(loaded["a"], np.arange(6.0))
        np.testing.assert_array_equal(loaded["s"], [[4, 2], [0, 1]])


def test_saved_dicts_open_where_numpy_is_old(tmp_path: Path):
    value = {"a": np.ones((2, 3), np.float32), "t": torch.ones(2), "f": np.float64(1.5), "n": {"strings": np.array(["x", "yy"])}, "s": "name"}
    safeio.save_npy(tmp_path / "d.npy", value)
    data = (tmp_path / "d.npy").read_bytes()
    opcodes = list(pickletools.genops(data[data.index(b"\n") + 1 :]))
    text = " ".join(str(argument) for _, argument, _ in opcodes)
    assert "numpy.core.multiarray" in text
    assert "_core" not in text
    assert "torch" not in text
    assert max(op.proto for op, _, _ in opcodes) <= 4
    loaded = np.load(tmp_path / "d.npy", allow_pickle=True).item()
    assert loaded["a"].dtype == np.float32
    assert type(loaded["f"]) is float
    np.testing.assert_array_equal(safeio.load_npy(tmp_path / "d.npy")["n"]["strings"], ["x", "yy"])


def test_plain_arrays_round_trip(tmp_path: Path):
    safeio.save_npy(tmp_path / "a.npy", np.asfortranarray(np.arange(12).reshape(3, 4)))
    np.testing.assert_array_equal(safeio.load_npy(tmp_path / "a.npy"), np.arange(12).reshape(3, 4))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "x.bin"
    safeio.write_bytes_atomic(path, b"old")
    with pytest.raises(RuntimeError), safeio.atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


def test_damaged_and_missing_files_are_named(tmp_path: Path):
    (tmp_path / "a.npy").write_bytes(b"not an array")
    for name in ("a.npy", "none.npy"):
        with pytest.raises(HoldprepError, match=name):
            safeio.load_npy(tmp_path / name)
