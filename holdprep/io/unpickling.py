"""What a pickle may name, and what it gets instead.

A pickle is a program: whoever may name any function in it runs code when it is opened. Here a file may name only the few things
below, and each name stands for an inert class of this module, never for the function that it names. They hold the bytes until the
whole file has been read; only then are arrays made of them, with sizes checked.
"""

import io
import math
import pickle
import pickletools
import re
import warnings
from collections import OrderedDict
from typing import Any, BinaryIO

import numpy as np
import scipy.sparse
import torch

MAX_OPERATIONS = 2_000_000  # of a pickle; an array is one, whatever its size
FRAME_HEADER = 9  # bytes of a frame's operation and length
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
    count = math.prod(shape)
    if len(buffer) != count * dtype.itemsize or (not dtype.itemsize and count) or min(shape, default=0) < 0:
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


class _Sparse(_Inert):
    """A matrix or array of scipy.sparse in the format `kind`; `entries` are those of a dok, which is a dict of them."""

    kind = ""

    def __setitem__(self, key: object, value: object) -> None:
        vars(self).setdefault("entries", {})[key] = value


_SPARSE = {kind: Frozen(f"_{kind}", (_Sparse,), {"kind": kind}) for kind in ("csc", "csr", "bsr", "coo", "dia", "dok", "lil")}
MAX_SPARSE = 1_000_000  # rows, and columns: the file may state a size that its entries do not need


class _Reconstructor(metaclass=Frozen):
    """copyreg._reconstructor, as protocols 0 and 1 make objects."""

    def __new__(cls, kind: type, base: type, state: object) -> Any:
        if kind is dict and base is dict:
            return dict(state)  # type: ignore[call-overload]
        if kind is _SPARSE["dok"] and base is dict:
            return kind()  # its entries are in its state, too
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
        if math.prod(size) > flat.numel():  # strides of 0 would make it larger than the file
            raise pickle.UnpicklingError(f"a tensor {tuple(size)} of {flat.numel()} numbers")
        tensor = torch.as_strided(flat, size, stride, offset)
        made = _Array()
        made.value = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).clone().numpy()
        return made


class _Parameter(metaclass=Frozen):
    """torch._utils._rebuild_parameter: the tensor itself."""

    def __new__(cls, data: _Array, *rest: object) -> Any:
        return data


class _Bytes(metaclass=Frozen):
    """bytes and bytearray of what the file holds; of a number they would have that many zeros."""

    def __new__(cls, content: bytes | bytearray | str | list[int] = b"", codec: str = "latin1") -> Any:
        if isinstance(content, str) and codec in ("latin1", "latin-1"):
            return content.encode("latin1")
        if not isinstance(content, bytes | bytearray | list):
            raise pickle.UnpicklingError("bytes of a number")
        return bytes(content)


_BUILTINS = {t.__name__: t for t in (set, frozenset, complex, dict, list, tuple, object)} | {"bytes": _Bytes, "bytearray": _Bytes}
_ALLOWED: dict[tuple[str, str], type] = {
    **{(module, name): kind for module in ("builtins", "__builtin__") for name, kind in _BUILTINS.items()},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer for core in ("core", "_core")},
    **{
        (f"scipy.sparse{sub}", f"{kind}_{form}"): made
        for kind, made in _SPARSE.items()
        for sub in ("", f".{kind}", f"._{kind}")
        for form in ("matrix", "array")
    },
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


def _sparse(found: _Sparse, memo: dict[int, Any]) -> Any:
    """The matrix, as csr or csc as in the file, other formats as csc. Raises ValueError where its indices do not fit its shape."""
    state = {key: _made_plain(value, memo) for key, value in vars(found).items()}
    rows, columns = (int(n) for n in state["_shape" if "_shape" in state else "shape"])
    if not (0 < rows <= MAX_SPARSE and 0 < columns <= MAX_SPARSE):
        raise pickle.UnpicklingError(f"a sparse matrix of {rows} x {columns}")
    shape, kind = (rows, columns), found.kind
    if kind in ("csc", "csr", "bsr"):
        matrix = getattr(scipy.sparse, f"{kind}_matrix")((state["data"], state["indices"], state["indptr"]), shape=shape)
        matrix.check_format(full_check=True)
    elif kind == "dia":
        matrix = scipy.sparse.dia_matrix((state["data"], state["offsets"]), shape=shape)
    else:
        matrix = scipy.sparse.coo_matrix(_entries(kind, state), shape=shape)
    return matrix if kind in ("csc", "csr") else matrix.tocsc()


def _entries(kind: str, state: dict[str, Any]) -> tuple[Any, tuple[Any, Any]]:
    """Values, rows and columns of a coo, dok or lil."""
    if kind == "coo":
        row, column = state["coords"] if "coords" in state else (state["row"], state["col"])
        return state["data"], (row, column)
    if kind == "dok":
        cells = {**state.get("_dict", {}), **state.get("entries", {})}
        at = np.array(list(cells), dtype=np.int64).reshape(-1, 2)
        return np.array(list(cells.values()), dtype=np.float64), (at[:, 0], at[:, 1])
    rows, values = list(state["rows"]), list(state["data"])
    row = np.repeat(np.arange(len(rows)), [len(columns) for columns in rows])
    column, data = (np.array([x for line in lines for x in line], dtype=t) for lines, t in ((rows, np.int64), (values, np.float64)))
    return data, (row, column)


def _made_plain(found: Any, memo: dict[int, Any]) -> Any:
    """The file's content with its inert objects replaced by arrays; `memo` keeps what one object became, so that it is made once."""
    if id(found) in memo:
        return memo[id(found)]
    made = found
    if isinstance(found, _Array):
        made = found.value if found.value is not None else _object_array(found, memo)
    elif isinstance(found, _Chumpy):
        made = _chumpy_array(vars(found), memo)
    elif isinstance(found, _Sparse):
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


def _check_operations(content: bytes) -> None:
    """Raise UnpicklingError where the pickle's sizes do not fit the file: Python's reader allocates them before it reads."""
    end_of_frame = 0
    for count, (operation, argument, position) in enumerate(pickletools.genops(content)):
        if count > MAX_OPERATIONS:
            raise pickle.UnpicklingError(f"more than {MAX_OPERATIONS} operations")
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument) <= MAX_OPERATIONS:  # type: ignore[arg-type]
            raise pickle.UnpicklingError(f"place {argument} in the memo")
        if operation.name == "FRAME":
            length, start = int(argument), int(position or 0)  # type: ignore[arg-type]
            if not 0 <= length <= len(content) or start < end_of_frame:
                raise pickle.UnpicklingError(f"a frame of {length} bytes at {start}, after one that ends at {end_of_frame}")
            end_of_frame = start + FRAME_HEADER + length


def unpickle(stream: BinaryIO) -> Any:
    """The content of a pickle: plain values and arrays. Raises Refused, or whatever a malformed pickle makes fail."""
    content = stream.read()
    _check_operations(content)
    return _made_plain(_Unpickler(io.BytesIO(content), encoding="latin1").load(), {})
