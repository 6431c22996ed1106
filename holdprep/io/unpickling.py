"""What a pickle may name, and what it gets instead.

A pickle is a program: whoever may name any function in it runs code when it is opened. Here a file may name only the few things
below, and each name stands for an inert class of this module, never for the function that it names. They hold the bytes until the
whole file has been read; only then are arrays made of them, with sizes checked.
"""

import io
import math
import pickle
import re
import warnings
from collections import OrderedDict
from typing import Any, BinaryIO

import numpy as np
import scipy.sparse
import torch

_PLAIN_DTYPE = re.compile(r"(?:[?bhilqpBHILQPefdgFDG]|[biufcSU]\d+|O\d*)\Z")


class Frozen(type):
    """Classes a pickle cannot change: its BUILD opcode may set attributes on whatever the pickle can name."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise pickle.UnpicklingError(f"attempt to change {cls.__name__}")


class _Dtype(metaclass=Frozen):
    """numpy.dtype of plain numbers, text or objects. The true one would let a pickle set flags that make numpy read raw pointers."""

    def __init__(self, spec: str, align: bool = False, copy: bool = False) -> None:
        spec = spec.decode("latin1") if isinstance(spec, bytes) else spec
        if not _PLAIN_DTYPE.match(spec):
            raise pickle.UnpicklingError(f"dtype {spec!r} is not a plain one")
        self.value = np.dtype(spec)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order, names = state[1], state[3]
        if names is not None:
            raise pickle.UnpicklingError("a structured dtype is not a plain one")
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if order == ">":
            self.value = self.value.newbyteorder(">")


def _decode(raw: bytes | bytearray | str, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    if dtype.hasobject:
        raise pickle.UnpicklingError("an array of objects given as raw bytes")
    buffer = raw.encode("latin1") if isinstance(raw, str) else raw  # Python 2 wrote bytes as text
    if len(buffer) != math.prod(shape) * dtype.itemsize:
        raise pickle.UnpicklingError(f"{len(buffer)} bytes for an array {shape} of {dtype}")
    if not buffer:
        return np.empty(shape, dtype)
    return np.frombuffer(buffer, dtype).reshape(shape, order="F" if order == "F" else "C").copy(order="K")


class _Array(metaclass=Frozen):
    """numpy.ndarray: its `value`, or the `items` and the `shape` of an array of objects, which are yet to be made plain."""

    value: np.ndarray | None = None
    items: tuple[Any, ...] = ()
    shape: tuple[int, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, fortran, raw = state[-4:]
        if dtype.value.hasobject:
            if len(raw) != math.prod(shape):
                raise pickle.UnpicklingError(f"{len(raw)} objects for an array {shape}")
            self.items, self.shape = tuple(raw), shape
        else:
            self.value = _decode(raw, dtype.value, shape, "F" if fortran else "C")


class _Reconstruct(metaclass=Frozen):
    """numpy's empty array that a state is put into."""

    def __new__(cls, kind: type, shape: object, typecode: object) -> Any:
        if kind is not _Array:
            raise pickle.UnpicklingError("an array of an unknown class")
        return _Array()


class _FromBuffer(metaclass=Frozen):
    """numpy's array of a protocol 5 buffer."""

    def __new__(cls, buffer: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> Any:
        made = _Array()
        made.value = _decode(bytes(buffer), dtype.value, shape, order)
        return made


class _Scalar(metaclass=Frozen):
    """A numpy number."""

    def __new__(cls, dtype: _Dtype, raw: bytes | str) -> Any:
        return _decode(raw, dtype.value, (), "C")[()]


class _Encode(metaclass=Frozen):
    """codecs.encode, as protocol 2 spells bytes."""

    def __new__(cls, text: str, codec: str) -> Any:
        if codec != "latin1":
            raise pickle.UnpicklingError(f"codec {codec!r}")
        return text.encode("latin1")


class _Inert(metaclass=Frozen):
    """An object that takes any construction and state and does nothing with it."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass


class _Chumpy(_Inert):
    """Any chumpy array: `x` is its value, or `a` and `idxs` for a selection of another's entries."""


class _Csc(_Inert):
    kind = scipy.sparse.csc_matrix


class _Csr(_Inert):
    kind = scipy.sparse.csr_matrix


class _Reconstructor(metaclass=Frozen):
    """copyreg._reconstructor, as protocols 0 and 1 make objects."""

    def __new__(cls, kind: type, base: type, state: object) -> Any:
        if kind is dict and base is dict:
            return dict(state)  # type: ignore[call-overload]
        if not (issubclass(kind, _Inert) and base is object and state is None):
            raise pickle.UnpicklingError("an object of an unknown class")
        return kind()


class _Storage(metaclass=Frozen):
    """torch.storage._load_from_bytes: the payload is itself a torch file, which torch's own restricted reader opens."""

    def __new__(cls, payload: bytes) -> Any:
        storage = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        if not isinstance(storage, torch.TypedStorage):
            raise pickle.UnpicklingError("a tensor's payload is not a storage")
        return storage


class _Tensor(metaclass=Frozen):
    """torch._utils._rebuild_tensor(_v2), as a numpy array; torch refuses sizes that leave the storage."""

    def __new__(cls, storage: torch.TypedStorage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: object) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TypedStorage is deprecated")
            flat = torch.empty(0, dtype=storage.dtype).set_(storage)
        tensor = torch.as_strided(flat, size, stride, offset)
        made = _Array()
        made.value = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).clone().numpy()
        return made


class _Parameter(metaclass=Frozen):
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


class Refused(pickle.UnpicklingError):
    """A pickle named something outside the list; the argument is its full name."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        if module.split(".")[0] == "chumpy":
            return _Chumpy
        if (module, name) not in _ALLOWED:
            raise Refused(f"{module}.{name}")
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
    elif isinstance(type(found), Frozen) or isinstance(found, type | torch.TypedStorage):
        raise pickle.UnpicklingError("an object that is not data")
    memo[id(found)] = made
    return made


def unpickle(stream: BinaryIO) -> Any:
    """The content of a pickle: plain values and arrays. Raises Refused, or whatever a malformed pickle makes fail."""
    return _made_plain(_Unpickler(stream, encoding="latin1").load(), {})
