import os
import pickle
import shutil
import sys
import types
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from omegaconf import OmegaConf

from holdprep.errors import HoldprepError, UnsafeFile
from holdprep.io import safeio


class Evil:
    """Makes a folder when unpickled by a reader that believes it."""

    def __init__(self, folder, function=os.mkdir):
        self.call = (function, (str(folder),))

    def __reduce__(self):
        return self.call


def numpy_file_of(value, path):
    np.save(path, np.array(value, dtype=object), allow_pickle=True)
    return path


def stand_in_module(monkeypatch, name, **classes):
    """A module that exists while a test writes a pickle that names it."""
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
    for key, value in classes.items():
        value.__module__, value.__qualname__ = name, key
        setattr(sys.modules[name], key, value)


# refusing


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickle_that_calls_a_function_is_refused_by_name(tmp_path, protocol):
    file, folder = tmp_path / "m.pkl", tmp_path / "made"
    file.write_bytes(pickle.dumps({"a": Evil(folder)}, protocol))
    with pytest.raises(UnsafeFile, match=r"m\.pkl.*(posix|nt)\.mkdir"):
        safeio.load_pickle(file)
    assert not folder.exists()


def test_npy_that_calls_a_function_is_refused_by_name(tmp_path):
    file = numpy_file_of({"a": Evil(tmp_path / "made")}, tmp_path / "m.npy")
    with pytest.raises(UnsafeFile, match=r"m\.npy.*mkdir"):
        safeio.load_npy(file)
    assert not (tmp_path / "made").exists()


def test_checkpoint_that_calls_a_function_is_refused_by_name(tmp_path):
    file = tmp_path / "m.ckpt"
    torch.save({"a": torch.ones(2), "b": Evil(tmp_path / "made")}, file)
    with pytest.raises(UnsafeFile, match=r"m\.ckpt.*mkdir"):
        safeio.load_checkpoint(file)
    assert not (tmp_path / "made").exists()


def test_a_call_hidden_in_a_tensor_payload_is_refused(tmp_path):
    inner = tmp_path / "inner.pt"
    torch.save(Evil(tmp_path / "made"), inner, _use_new_zipfile_serialization=False)
    payload = inner.read_bytes()

    class Tensor:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (payload,)

    file = tmp_path / "m.pkl"
    file.write_bytes(pickle.dumps({"v3d": Tensor()}, 2))
    with pytest.raises(UnsafeFile, match="mkdir"):
        safeio.load_pickle(file)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins eval",
        "builtins getattr",
        "__builtin__ __import__",
        "numpy load",
        "numpy.f2py.capi_maps os",
        "collections namedtuple",
        "scipy.sparse load_npz",
        "torch load",
        "torch._utils _import_dotted_name",
        "copyreg add_extension",
        "common.xdict os.system",
    ],
)
def test_modules_of_allowed_names_are_not_allowed_as_a_whole(tmp_path, name):
    file = tmp_path / "m.pkl"
    file.write_bytes(b"c" + name.replace(" ", "\n").encode() + b"\n(S'x'\ntR.")
    with pytest.raises(UnsafeFile, match=name.replace(" ", ".")):
        safeio.load_pickle(file)


def test_dtype_flags_cannot_make_objects_of_raw_bytes(tmp_path):
    # dtype('O') told to have no flags made numpy take eight bytes for a pointer
    file = tmp_path / "m.pkl"
    file.write_bytes(
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\ntcnumpy\ndtype\n(S'O8'\nI0\nI1\ntR"
        b"(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'AAAAAAAA'\ntb."
    )
    with pytest.raises(HoldprepError, match=r"m\.pkl"):
        safeio.load_pickle(file)


def test_a_tensor_cannot_read_outside_its_storage(tmp_path):
    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (torch.arange(4.0)._typed_storage(), 0, (1000,), (1,), False, {})

    file = tmp_path / "m.pkl"
    file.write_bytes(pickle.dumps(Tensor(), 2))
    with pytest.raises(HoldprepError, match=r"m\.pkl"):
        safeio.load_pickle(file)


def test_a_pickle_cannot_change_the_reader(tmp_path):
    file = tmp_path / "m.pkl"
    file.write_bytes(b"cscipy.sparse\ncsc_matrix\n(N(S'kind'\nNdtb.")  # BUILD with attributes for the class itself
    with pytest.raises(HoldprepError):
        safeio.load_pickle(file)
    file.write_bytes(pickle.dumps(scipy.sparse.csc_matrix(np.eye(2))))
    assert isinstance(safeio.load_pickle(file), scipy.sparse.csc_matrix)


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"not a pickle", b"\x80\x02K\x01"])
def test_broken_files_are_one_line_with_the_name(tmp_path, content):
    for name, read in (("b.pkl", safeio.load_pickle), ("b.npy", safeio.load_npy), ("b.ckpt", safeio.load_checkpoint)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(HoldprepError, match=name) as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_missing_file_says_so(tmp_path):
    with pytest.raises(HoldprepError, match=r"none\.npy is not there"):
        safeio.load_npy(tmp_path / "none.npy")


def test_truncated_array_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(100.0))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-8])
    with pytest.raises(HoldprepError, match=r"a\.npy"):
        safeio.load_npy(tmp_path / "a.npy")


# reading


CONTENT = {
    "f32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">f8"),
    "empty": np.zeros((0, 3)),
    "zero_d": np.array(2.5),
    "text": np.array(["a", "bc"]),
    "flags": np.array([True, False]),
    "complex": np.array([1j]),
    "number": np.float32(1.5),
    "objects": np.array([[1, 2], "x", None, {"k": np.ones(2)}], dtype=object),
    "rest": [1, 2.0, "x", None, True, b"ab", (1, 2), {3}, 2j],
}


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_reads_what_numpy_pickles(tmp_path, protocol):
    file = tmp_path / "a.pkl"
    file.write_bytes(pickle.dumps(CONTENT, protocol))
    for read in (safeio.load_pickle(file), safeio.load_npy(numpy_file_of(CONTENT, tmp_path / "a.npy"))):
        assert read.keys() == CONTENT.keys()
        for key in CONTENT.keys() - {"objects", "rest"}:
            np.testing.assert_array_equal(read[key], CONTENT[key])
            assert read[key].dtype == CONTENT[key].dtype
            assert type(read[key]) is type(CONTENT[key])
        assert list(read["objects"][:3]) == [[1, 2], "x", None]
        np.testing.assert_array_equal(read["objects"][3]["k"], np.ones(2))
        assert read["rest"] == CONTENT["rest"]


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3), np.array(["a"]), np.zeros((0, 4), np.int16), np.array(3)])
def test_reads_plain_arrays(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    read = safeio.load_npy(tmp_path / "a.npy")
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype


def test_reads_pickled_tensors_as_arrays(tmp_path):
    storage = torch.arange(24.0)
    tensors = {
        "view": storage.reshape(4, 6)[1:3, ::2],
        "transposed": storage.reshape(4, 6).T,
        "double": torch.arange(3, dtype=torch.float64),
        "int": torch.arange(3),
        "bool": torch.tensor([True, False]),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "scalar": torch.tensor(4.0),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "shape": torch.Size([1, 2]),
    }
    read = safeio.load_npy(numpy_file_of(tensors, tmp_path / "a.npy"))
    assert read.pop("shape") == (1, 2)
    for key, array in read.items():
        assert type(array) is np.ndarray
        np.testing.assert_array_equal(array, tensors[key].detach().float().numpy())
    assert read["double"].dtype == np.float64
    assert read["half"].dtype == np.float32


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_reads_sparse_matrices(tmp_path, protocol):
    dense = np.array([[0, 1.5, 0], [2, 0, 0]])
    file = tmp_path / "a.pkl"
    file.write_bytes(pickle.dumps({"csc": scipy.sparse.csc_matrix(dense), "csr": scipy.sparse.csr_matrix(dense)}, protocol))
    read = safeio.load_pickle(file)
    assert isinstance(read["csc"], scipy.sparse.csc_matrix)
    for matrix in read.values():
        np.testing.assert_array_equal(matrix.toarray(), dense)


def test_sparse_matrix_with_indices_outside_is_refused(tmp_path):
    matrix = scipy.sparse.csc_matrix(np.eye(3))
    matrix.indices[0] = 10**6
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(matrix))
    with pytest.raises(HoldprepError, match=r"a\.pkl"):
        safeio.load_pickle(tmp_path / "a.pkl")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_reads_hold_own_dict_class(tmp_path, monkeypatch, protocol):
    class xdict(dict):
        pass

    with monkeypatch.context() as patch:
        stand_in_module(patch, "common.xdict", xdict=xdict)
        content = pickle.dumps({"right": xdict(j3d=np.ones(3))}, protocol)
    (tmp_path / "a.pkl").write_bytes(content)
    read = safeio.load_pickle(tmp_path / "a.pkl")
    assert type(read["right"]) is dict
    np.testing.assert_array_equal(read["right"]["j3d"], np.ones(3))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_reads_chumpy_arrays_without_chumpy(tmp_path, monkeypatch, protocol):
    class Ch:
        pass

    class Select:
        pass

    with monkeypatch.context() as patch:
        stand_in_module(patch, "chumpy.ch", Ch=Ch)
        stand_in_module(patch, "chumpy.reordering", Select=Select)
        whole, chosen = Ch(), Select()
        whole.x, whole._dirty_vars = np.arange(12.0).reshape(3, 4), set()
        chosen.a, chosen.idxs, chosen.preferred_shape = whole, np.array([11, 0, 5, 6]), (2, 2)
        content = pickle.dumps({"whole": whole, "chosen": chosen}, protocol)
    (tmp_path / "a.pkl").write_bytes(content)
    read = safeio.load_pickle(tmp_path / "a.pkl")
    np.testing.assert_array_equal(read["whole"], np.arange(12.0).reshape(3, 4))
    np.testing.assert_array_equal(read["chosen"], [[11, 0], [5, 6]])


def test_reads_checkpoints(tmp_path):
    torch.save({"state_dict": {"x": torch.arange(3.0)}, "epoch": 4}, tmp_path / "a.ckpt")
    read = safeio.load_checkpoint(tmp_path / "a.ckpt")
    assert read["epoch"] == 4
    assert torch.equal(read["state_dict"]["x"], torch.arange(3.0))


def test_checkpoint_that_is_no_dict_is_refused(tmp_path):
    torch.save(torch.ones(2), tmp_path / "a.ckpt")
    with pytest.raises(HoldprepError, match="not a checkpoint"):
        safeio.load_checkpoint(tmp_path / "a.ckpt")


class CfgNode(dict):
    """A stand-in for yacs' class: a dict with attributes."""


CfgNode.__module__ = "yacs.config"


def test_training_settings_in_a_checkpoint_are_passed_over(tmp_path, monkeypatch):
    module = types.ModuleType("yacs.config")
    module.CfgNode = CfgNode  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    node = CfgNode(lr=0.1)
    node.__dict__["__frozen__"] = True
    settings = {
        "cfg": OmegaConf.create({"MODEL": {"TYPE": "vit", "LIST": [1, 2.5, "x"], "NONE": None}}),
        "node": node,
        "dir": Path("/tmp"),
        "state": defaultdict(dict, {0: {"step": 1}}),
    }
    torch.save({"state_dict": {"x": torch.arange(3.0)}, "hyper_parameters": settings, "epoch": 4}, tmp_path / "a.ckpt")
    monkeypatch.delitem(sys.modules, "yacs.config")
    read = safeio.load_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(read["state_dict"]["x"], torch.arange(3.0))
    assert read["epoch"] == 4
    assert type(read["hyper_parameters"]["cfg"]) is OrderedDict


def test_settings_do_not_let_other_names_in(tmp_path):
    torch.save({"cfg": OmegaConf.create({"a": 1}), "bad": shutil.rmtree}, tmp_path / "a.ckpt")
    with pytest.raises(UnsafeFile, match=r"names shutil\.rmtree"):
        safeio.load_checkpoint(tmp_path / "a.ckpt")
