"""Reading files of others without executing anything in them, and writing our own so that they are whole or not there.

A pickle is a program: it may name any function of any module. The unpickler here knows an exact list of names that arrays and
dicts need, refuses every other, and never imports what a file asks for.
"""

import codecs
import collections
import io
import os
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch

from holdprep.errors import HoldprepError, UnsafeFile

PROTOCOL = 4  # the newest that Python 3.8 and numpy 1.23 read alike


class _Chumpy:
    """Stands in for a chumpy array: keeps the pickled state, runs nothing."""

    state: dict[str, Any]

    def __new__(cls, *args: object, **kwargs: object) -> "_Chumpy":
        made = super().__new__(cls)
        made.state = {}
        return made

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state if isinstance(state, dict) else {}

    def array(self) -> np.ndarray:
        """The values: `x` of a plain array, or a selection (`idxs`) of another array `a`."""
        if "a" in self.state and "idxs" in self.state:
            picked = np.asarray(_plain(self.state["a"])).ravel()[np.asarray(_plain(self.state["idxs"]))]
            return picked.reshape(self.state["preferred_shape"]) if "preferred_shape" in self.state else picked
        return np.asarray(_plain(self.state["x"]))


class _Dict(dict):
    """Stands in for a dict subclass of others (HOLD's xdict); attributes in its state are dropped."""

    def __setstate__(self, state: object) -> None:
        pass


def _storage_from_bytes(data: bytes) -> Any:
    """A torch storage inside a plain pickle is a torch file of its own: read with torch's weights-only reader."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _rebuild_tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> np.ndarray:
    return torch._utils._rebuild_tensor(storage, offset, size, stride).numpy()


def _rebuild_parameter(data: np.ndarray, *_: object) -> np.ndarray:
    return data


def _frombuffer(buffer: bytes, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """Protocol 5's rebuild of an array from its bytes."""
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order="F" if order == "F" else "C").copy()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """What protocol 2 wraps bytes in; only the encodings it uses."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in encoding {encoding}")
    return codecs.encode(text, "latin1")


_RECONSTRUCT, _SCALAR = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]
_CSC, _CSR = scipy.sparse.csc_matrix, scipy.sparse.csr_matrix
ALLOWED: dict[tuple[str, str], Any] = {
    **{(f"{m}.multiarray", "_reconstruct"): _RECONSTRUCT for m in ("numpy.core", "numpy._core")},
    **{(f"{m}.multiarray", "scalar"): _SCALAR for m in ("numpy.core", "numpy._core")},
    **{(f"{m}.numeric", "_frombuffer"): _frombuffer for m in ("numpy.core", "numpy._core")},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{(m, "csc_matrix"): _CSC for m in ("scipy.sparse", "scipy.sparse.csc", "scipy.sparse._csc")},
    **{(m, "csr_matrix"): _CSR for m in ("scipy.sparse", "scipy.sparse.csr", "scipy.sparse._csr")},
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _encode,
    ("common.xdict", "xdict"): _Dict,
    **{(m, n): t for m in ("builtins", "__builtin__") for n, t in (("set", set), ("complex", complex), ("bytearray", bytearray), ("dict", dict))},
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): _storage_from_bytes,
    ("torch", "Size"): tuple,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "chumpy":
            return _Chumpy
        if (module, name) == ("copy_reg", "_reconstructor") or (module, name) == ("copyreg", "_reconstructor"):
            return _reconstructor
        if (module, name) in (("builtins", "object"), ("__builtin__", "object")):
            return object
        if (module, name) not in ALLOWED:
            raise UnsafeFile(f"it names {module}.{name}, which no file of arrays needs")
        return ALLOWED[module, name]

    def persistent_load(self, pid: object) -> Any:
        raise UnsafeFile("it refers to objects outside itself")


def _reconstructor(cls: type, base: type, state: object) -> Any:
    """copyreg's protocol-0/1 rebuild, for the two stand-ins alone."""
    if cls not in (_Chumpy, _Dict, _CSC, _CSR):
        raise UnsafeFile(f"it rebuilds an instance of {cls.__name__}")
    return cls(state) if cls is _Dict and isinstance(state, dict) else cls.__new__(cls)


def load_pickle(path: Path) -> Any:
    """A pickle of dicts, lists and arrays (numpy, scipy.sparse, chumpy, torch tensors: all come back as numpy or scipy.sparse).

    Raises UnsafeFile naming the file and what it asked for; HoldprepError where it is missing or damaged.
    """
    with _reading(path) as file:
        return _plain(_Unpickler(file, encoding="latin1").load())


def load_npy(path: Path) -> Any:
    """A .npy file: an array, or the dict (or list) that `np.save` pickled into it. Raises as `load_pickle`."""
    with _reading(path) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = header(file)
        if not dtype.hasobject:
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)
        value = _Unpickler(file, encoding="latin1").load()
        return _plain(value.item() if isinstance(value, np.ndarray) and value.shape == () else value)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A torch file of tensors, numbers and strings. Raises as `load_pickle`."""
    with _reading(path) as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            named = re.search(r"GLOBAL ([\w.]+)", str(error))
            raise UnsafeFile(f"it names {named[1] if named else 'something'}, which no file of tensors needs") from None
    if not isinstance(content, dict):
        raise HoldprepError(f"{path} holds a {type(content).__name__}, not a checkpoint's dict")
    return content


def save_npy(path: Path, value: Any) -> None:
    """An array, or a dict of arrays, strings, numbers, lists and dicts, so that numpy 1.23 on Python 3.8 opens it; atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        np.save(buffer, value, allow_pickle=False)
    else:
        boxed = np.empty((), dtype=object)
        boxed[()] = _plain(value)
        np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(boxed))
        _Pickler(buffer, protocol=PROTOCOL).dump(boxed)
    write_bytes_atomic(path, buffer.getvalue())


class _Pickler(pickle._Pickler):
    """Names numpy's functions by the module where numpy 1 has them too (pickle's Python implementation lets us say so)."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = getattr(obj, "__module__", None) or ""
        if module.startswith("numpy._core"):
            # protocol-0 opcode GLOBAL: module and name as text, read by every protocol
            self.write(pickle.GLOBAL + f"{module.replace('numpy._core', 'numpy.core')}\n{obj.__qualname__}\n".encode("ascii"))
            self.memoize(obj)
        else:
            super().save_global(obj, name)

    dispatch = pickle._Pickler.dispatch.copy()
    dispatch[type(lambda: 0)] = save_global


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """The whole file appears under its name, or the old one stays."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it is synced and renamed over `path` at the end, removed on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """Open for reading; damaged content becomes one line with the file's name."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise HoldprepError(f"{path} cannot be read: {error.strerror}") from None
    with file:
        try:
            yield file
        except UnsafeFile as error:
            raise UnsafeFile(f"{path} was not loaded: {error}") from None
        except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, KeyError, IndexError, RuntimeError) as error:
            raise HoldprepError(f"{path} is damaged or no file of its kind: {' '.join(str(error).split())[:200]}") from None


def _plain(value: Any) -> Any:
    """Stand-ins and tensors as arrays, numpy scalars as Python's, in dicts, lists and tuples."""
    convert: Callable[[Any], Any] = _plain
    if isinstance(value, _Chumpy):
        return value.array()
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {k: convert(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(convert(v) for v in value)
    return value
