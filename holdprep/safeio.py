"""Reading and writing data files: reading never executes anything, writing is atomic.

A pickle is a program: whoever may name any function in it runs code when it is opened. Here a file may name only the few things
below, and each name stands for an inert class of this module, never for the function that it names. They hold the bytes until the
whole file has been read; only then are arrays made of them, with sizes checked.
"""

import io
import math
import os
import pickle
import re
import secrets
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import scipy.sparse
import torch

from holdprep.errors import HoldprepError, UnsafeFile

_PLAIN_DTYPE = re.compile(r"(?:[?bhilqpBHILQPefdgFDG]|[biufcSU]\d+|O\d*)\Z")


class _Frozen(type):
    """Classes a pickle cannot change: its BUILD opcode may set attributes on whatever the pickle can name."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise pickle.UnpicklingError(f"attempt to change {cls.__name__}")


class _Dtype(metaclass=_Frozen):
    """numpy.dtype of plain numbers, text or objects. The true one would let a pickle set flags that make numpy read raw pointers."""

    def __init__(self, spec: str, align: bool = False, copy: bool = False) -> None:
        spec = spec.decode("latin1") if isinstance(spec, bytes) else spec
        if not _PLAIN_DTYPE.match(spec):
            raise pickle.UnpicklingError(f"dtype {spec!r} is not a plain one")
        self.value = np.dtype(spec)

    def __setstate__(self, state: tuple) -> None:
        order, names = state[1], state[3]
        if names is not None:
            raise pickle.UnpicklingError("a structured dtype is not a plain one")
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if order == ">":
            self.value = self.value.newbyteorder(">")


def _decode(raw: bytes | bytearray | str, dtype: np.dtype, shape: tuple, order: str) -> np.ndarray:
    if dtype.hasobject:
        raise pickle.UnpicklingError("an array of objects given as raw bytes")
    buffer = raw.encode("latin1") if isinstance(raw, str) else raw  # Python 2 wrote bytes as text
    if len(buffer) != math.prod(shape) * dtype.itemsize:
        raise pickle.UnpicklingError(f"{len(buffer)} bytes for an array {shape} of {dtype}")
    if not buffer:
        return np.empty(shape, dtype)
    return np.frombuffer(buffer, dtype).reshape(shape, order="F" if order == "F" else "C").copy(order="K")


class _Array(metaclass=_Frozen):
    """numpy.ndarray: its `value`, or the `items` and the `shape` of an array of objects, which are yet to be made plain."""

    value: np.ndarray | None = None
    items: tuple = ()
    shape: tuple = ()

    def __setstate__(self, state: tuple) -> None:
        shape, dtype, fortran, raw = state[-4:]
        if dtype.value.hasobject:
            if len(raw) != math.prod(shape):
                raise pickle.UnpicklingError(f"{len(raw)} objects for an array {shape}")
            self.items, self.shape = tuple(raw), shape
        else:
            self.value = _decode(raw, dtype.value, shape, "F" if fortran else "C")


class _Reconstruct(metaclass=_Frozen):
    """numpy's empty array that a state is put into."""

    def __new__(cls, kind: type, shape: object, typecode: object) -> Any:
        if kind is not _Array:
            raise pickle.UnpicklingError("an array of an unknown class")
        return _Array()


class _FromBuffer(metaclass=_Frozen):
    """numpy's array of a protocol 5 buffer."""

    def __new__(cls, buffer: bytes, dtype: _Dtype, shape: tuple, order: str) -> Any:
        made = _Array()
        made.value = _decode(bytes(buffer), dtype.value, shape, order)
        return made


class _Scalar(metaclass=_Frozen):
    """A numpy number."""

    def __new__(cls, dtype: _Dtype, raw: bytes | str) -> Any:
        return _decode(raw, dtype.value, (), "C")[()]


class _Encode(metaclass=_Frozen):
    """codecs.encode, as protocol 2 spells bytes."""

    def __new__(cls, text: str, codec: str) -> Any:
        if codec != "latin1":
            raise pickle.UnpicklingError(f"codec {codec!r}")
        return text.encode("latin1")


class _Inert(metaclass=_Frozen):
    """An object that takes any construction and state and does nothing with it."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass


class _Chumpy(_Inert):
    """Any chumpy array: `x` is its value, or `a` and `idxs` for a selection of another's entries."""


class _Csc(_Inert):
    kind = scipy.sparse.csc_matrix


class _Csr(_Inert):
    kind = scipy.sparse.csr_matrix


class _Reconstructor(metaclass=_Frozen):
    """copyreg._reconstructor, as protocols 0 and 1 make objects."""

    def __new__(cls, kind: type, base: type, state: object) -> Any:
        if kind is dict and base is dict:
            return dict(state)  # type: ignore[call-overload]
        if not (issubclass(kind, _Inert) and base is object and state is None):
            raise pickle.UnpicklingError("an object of an unknown class")
        return kind()


class _Storage(metaclass=_Frozen):
    """torch.storage._load_from_bytes: the payload is itself a torch file, which torch's own restricted reader opens."""

    def __new__(cls, payload: bytes) -> Any:
        storage = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        if not isinstance(storage, torch.TypedStorage):
            raise pickle.UnpicklingError("a tensor's payload is not a storage")
        return storage


class _Tensor(metaclass=_Frozen):
    """torch._utils._rebuild_tensor(_v2), as a numpy array; torch refuses sizes that leave the storage."""

    def __new__(cls, storage: torch.TypedStorage, offset: int, size: tuple, stride: tuple, *rest: object) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TypedStorage is deprecated")
            flat = torch.empty(0, dtype=storage.dtype).set_(storage)
        tensor = torch.as_strided(flat, size, stride, offset)
        made = _Array()
        made.value = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).clone().numpy()
        return made


class _Parameter(metaclass=_Frozen):
    """torch._utils._rebuild_parameter: the tensor itself."""

    def __new__(cls, data: _Array, *rest: object) -> Any:
        return data


_BUILTINS = {t.__name__: t for t in (set, frozenset, complex, bytes, bytearray, dict, list, tuple, object)}
_ALLOWED: dict[tuple[str, str], type] = {
    **{(module, name): kind for module in ("builtins", "__builtin__") for name, kind in _BUILTINS.items()},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer for core in ("core", "_core")},
    **{(f"scipy.sparse{sub}", "csc_matrix"): _Csc for sub in ("", ".csc", "._csc")},
    **{(f"scipy.sparse{sub}", "csr_matrix"): _Csr for sub in ("", ".csr", "._csr")},
    **{(module, "_reconstructor"): _Reconstructor for module in ("copyreg", "copy_reg")},
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _Encode,
    ("torch.storage", "_load_from_bytes"): _Storage,
    ("torch._utils", "_rebuild_tensor"): _Tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch._utils", "_rebuild_parameter"): _Parameter,
    ("torch", "Size"): tuple,
    ("common.xdict", "xdict"): dict,
}


class _Refused(pickle.UnpicklingError):
    """A pickle named something outside the list; the argument is its full name."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        if module.split(".")[0] == "chumpy":
            return _Chumpy
        if (module, name) not in _ALLOWED:
            raise _Refused(f"{module}.{name}")
        return _ALLOWED[module, name]


def _chumpy_array(state: dict[str, Any], memo: dict[int, Any]) -> np.ndarray:
    if "idxs" in state and "a" in state:  # chumpy.reordering.Select
        chosen = np.asarray(_made_plain(state["a"], memo)).ravel()[np.asarray(_made_plain(state["idxs"], memo))]
        shape = _made_plain(state.get("preferred_shape"), memo)
        return chosen if shape is None else chosen.reshape(shape)
    if "x" not in state:
        raise pickle.UnpicklingError("a chumpy array without a value")
    return np.asarray(_made_plain(state["x"], memo))


def _object_array(found: _Array, memo: dict[int, Any]) -> np.ndarray:
    flat = np.empty(len(found.items), object)
    for i, item in enumerate(found.items):
        flat[i] = _made_plain(item, memo)
    return flat.reshape(found.shape)


def _sparse(found: _Csc | _Csr, memo: dict[int, Any]) -> Any:
    state = {key: _made_plain(value, memo) for key, value in vars(found).items()}
    matrix = found.kind((state["data"], state["indices"], state["indptr"]), shape=state.get("_shape", state.get("shape")))
    matrix.check_format(full_check=True)
    return matrix


def _made_plain(found: Any, memo: dict[int, Any]) -> Any:
    """The file's content with its inert objects replaced by arrays; `memo` keeps what one object became, so that it is made once."""
    if id(found) in memo:
        return memo[id(found)]
    made = found
    if isinstance(found, _Array):
        made = found.value if found.value is not None else _object_array(found, memo)
    elif isinstance(found, _Chumpy):
        made = _chumpy_array(vars(found), memo)
    elif isinstance(found, _Csc | _Csr):
        made = _sparse(found, memo)
    elif isinstance(found, _Dtype):
        made = found.value
    elif isinstance(found, dict):
        made = {_made_plain(k, memo): _made_plain(v, memo) for k, v in found.items()}
    elif isinstance(found, list | tuple | set | frozenset):
        made = type(found)(_made_plain(v, memo) for v in found)
    elif isinstance(type(found), _Frozen) or isinstance(found, type | torch.TypedStorage):
        raise pickle.UnpicklingError("an object that is not data")
    memo[id(found)] = made
    return made


def _unsafe(path: Path, name: str) -> UnsafeFile:
    return UnsafeFile(f"{path} was not opened: it names {name}, which a file of data has no reason to name; get it from someone you trust")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns whatever a reader throws at a bad file into one line with the file's name.

    A malformed pickle can make any operation fail in any way, hence the broad clause; the cause stays attached.
    """
    try:
        yield
    except HoldprepError:
        raise
    except _Refused as error:
        raise _unsafe(path, str(error)) from error
    except (FileNotFoundError, IsADirectoryError) as error:
        raise HoldprepError(f"{path} is not there, or is not a file") from error
    except Exception as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))  # torch's way to say which name it refused
        if named and "weights_only" in str(error).lower():
            raise _unsafe(path, named[1]) from error
        first_line = (str(error).splitlines() or [""])[0]
        raise HoldprepError(f"{path} could not be read ({type(error).__name__}: {first_line[:200]}); make or download it again") from error


def _unpickle(stream: BinaryIO) -> Any:
    return _made_plain(_Unpickler(stream, encoding="latin1").load(), {})


def load_pickle(path: Path | str) -> Any:
    """The content of a pickle of plain data, as Python 2 or 3 wrote it.

    numpy arrays, torch tensors and chumpy arrays come back as numpy arrays, scipy csc/csr matrices as such, HOLD's xdict as dict.

    Raises:
        UnsafeFile: the file names anything else; nothing of it was run.
        HoldprepError: it is not there or malformed.
    """
    path = Path(path)
    with _readable(path), path.open("rb") as stream:
        return _unpickle(stream)


def load_npy(path: Path | str) -> Any:
    """An array, or the dict that `np.save(path, dict)` wrote. Raises what `load_pickle` raises."""
    path = Path(path)
    with _readable(path), path.open("rb") as stream:
        return _read_npy(stream)


def load_npz_array(path: Path | str, name: str) -> Any:
    """One array of what `np.savez` wrote. Raises what `load_pickle` raises."""
    path = Path(path)
    with _readable(path), zipfile.ZipFile(path) as archive:
        return _read_npy(io.BytesIO(archive.read(f"{name}.npy")))


def _read_npy(stream: BinaryIO) -> Any:
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    dtype = read_header(stream)[2]
    if not dtype.hasobject:
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)
    array = _unpickle(stream)
    return array.item() if isinstance(array, np.ndarray) and array.shape == () else array


class _Setting(metaclass=_Frozen):
    """Any object of a training program: made as an empty dict, which takes any state and is thrown away."""

    def __new__(cls, *args: object) -> Any:
        return OrderedDict()


# What Lightning keeps beside the weights: settings, callbacks, optimiser states. By name, or by package with a dot at its end.
_SETTINGS = (
    *("omegaconf.", "yacs.", "pytorch_lightning.", "pathlib.", "typing.Any", "collections.defaultdict"),
    *(f"builtins.{t}" for t in ("dict", "list", "tuple", "int", "float", "str", "bool", "object")),
)


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """A torch checkpoint of tensors and plain values, on the CPU; a training program's settings in it come out as empty dicts.

    Raises what `load_pickle` raises.
    """
    path = Path(path)
    with _readable(path), torch.serialization.safe_globals([(_Setting, name) for name in _settings_in(path)]):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(checkpoint, dict):
        raise HoldprepError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint's dict")
    return checkpoint


def _settings_in(path: Path) -> list[str]:
    """Names of settings' classes that a checkpoint mentions; found without running anything."""
    if not zipfile.is_zipfile(path):  # torch before 1.6, when state dicts came alone
        return []
    return [name for name in torch.serialization.get_unsafe_globals_in_checkpoint(path) if _is_setting(name)]


def _is_setting(name: str) -> bool:
    return any(name.startswith(s) if s.endswith(".") else name == s for s in _SETTINGS)


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path`, same suffix, that takes its place at once when the block ends, and vanishes if it raises."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(6)}{path.suffix}")
    try:
        yield temporary
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes_atomic(path: Path | str, data: bytes) -> None:
    """A file with this content, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


class _PortablePickler(pickle._Pickler):
    """Writes numpy's functions under the names that every numpy knows: numpy 2 calls them `numpy._core`, which numpy 1 lacks.

    The pure-Python pickler, because the C one looks names up itself; arrays are single writes, so it costs nothing.
    """

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = getattr(obj, "__module__", None) or ""
        if not module.startswith("numpy._core"):
            super().save_global(obj, name)  # type: ignore[misc]
            return
        old_name = module.replace("numpy._core", "numpy.core", 1)
        self.write(pickle.GLOBAL + f"{old_name}\n{name or obj.__qualname__}\n".encode("ascii"))  # type: ignore[attr-defined]
        self.memoize(obj)  # type: ignore[attr-defined]


def dump_portable(value: Any) -> bytes:
    """A pickle (protocol 4) of plain data that Python 3.8 with numpy 1.23 opens.

    Tensors become arrays, numpy numbers plain ones, mappings dicts.
    Raises TypeError for anything that is not dict, list, tuple, array, number, text or None.
    """
    stream = io.BytesIO()
    _PortablePickler(stream, protocol=4).dump(_portable(value))
    return stream.getvalue()


def _portable(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise TypeError("an array of objects cannot be written; give a list or a dict")
        return array
    if isinstance(value, Mapping):
        return {_portable(k): _portable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(v) for v in value] if isinstance(value, list) else tuple(_portable(v) for v in value)
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return value
    raise TypeError(f"{type(value).__name__} is not plain data")


def save_npy(path: Path | str, value: Any) -> None:
    """An array (or tensor), or a dict of arrays and plain values as `np.save` writes it; opens under numpy 1.23 and Python 3.8.

    Raises TypeError as `dump_portable` does.
    """
    plain = _portable(value)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        if isinstance(plain, Mapping):
            holder = np.empty((), dtype=object)
            holder[()] = plain
            np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
            _PortablePickler(stream, protocol=4).dump(holder)
        else:
            np.lib.format.write_array(stream, np.asarray(plain), allow_pickle=False)
