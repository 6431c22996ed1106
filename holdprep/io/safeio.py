"""Reading and writing data files: reading never executes anything (see `inert`), writing is atomic."""

import io
import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from holdprep.errors import HoldprepError, UnsafeFile
from holdprep.io.atomic import atomic_path, write_bytes_atomic
from holdprep.io.bounded import require_file
from holdprep.io.unpickling import Frozen, Refused, unpickle

__all__ = [
    "atomic_path",
    "dump_portable",
    "is_zip",
    "load_checkpoint",
    "load_npy",
    "load_npz",
    "load_npz_array",
    "load_pickle",
    "save_npy",
    "write_bytes_atomic",
]


MAX_HEADER_BYTES = 65536
MAX_ARRAY_BYTES = 512 << 20  # of all arrays of an .npz, in which a small file may declare any size


def _unsafe(path: Path, name: str) -> UnsafeFile:
    name = repr(name)[1:-1]
    return UnsafeFile(
        f"{path} was not opened: it names {name[:100]}, which a file of data has no reason to name; get it from someone you trust"
    )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns whatever a reader throws at a bad file into one line with the file's name.

    A malformed pickle can make any operation fail in any way, hence the broad clause; the cause stays attached.
    """
    try:
        if path.exists() and not path.is_dir():
            require_file(path)
        yield
    except HoldprepError:
        raise
    except Refused as error:
        raise _unsafe(path, str(error)) from error
    except (FileNotFoundError, IsADirectoryError) as error:
        raise HoldprepError(f"{path} is not there, or is not a file") from error
    except Exception as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))  # torch's way to say which name it refused
        if named and "weights_only" in str(error).lower():
            raise _unsafe(path, named[1]) from error
        first_line = (str(error).splitlines() or [""])[0]
        raise HoldprepError(f"{path} could not be read ({type(error).__name__}: {first_line[:200]}); make or download it again") from error


def load_pickle(path: Path | str) -> Any:
    """The content of a pickle of plain data, as Python 2 or 3 wrote it.

    numpy arrays, torch tensors and chumpy arrays come back as numpy arrays, scipy's sparse matrices and arrays as csr if they
    are, else as csc, HOLD's xdict as dict.

    Raises:
        UnsafeFile: the file names anything else; nothing of it was run.
        HoldprepError: it is not there or malformed.
    """
    path = Path(path)
    with _readable(path), path.open("rb") as stream:
        return unpickle(stream)


def load_npy(path: Path | str) -> Any:
    """An array, or the dict that `np.save(path, dict)` wrote. Raises what `load_pickle` raises."""
    path = Path(path)
    with _readable(path), path.open("rb") as stream:
        return _read_npy(stream)


def load_npz_array(path: Path | str, name: str) -> Any:
    """One array of what `np.savez` wrote. Raises what `load_pickle` raises."""
    path = Path(path)
    with _readable(path), _archive(path) as archive:
        return _read_member(archive, f"{name}.npy", MAX_ARRAY_BYTES)


def load_npz(path: Path | str) -> dict[str, Any]:
    """All arrays of what `np.savez` wrote, by name. Raises what `load_pickle` raises."""
    path = Path(path)
    with _readable(path), _archive(path) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        size = sum(info.file_size for info in members)
        if size > MAX_ARRAY_BYTES:
            raise HoldprepError(f"{path} declares arrays of {size >> 20} MB, at most {MAX_ARRAY_BYTES >> 20} MB are read: is it damaged?")
        return {info.filename.removesuffix(".npy"): _read_member(archive, info.filename, MAX_ARRAY_BYTES) for info in members}


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive, whose members' stored sizes are not larger than it: they are allocated when a member is read."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.compress_size > size:
                raise ValueError(f"{info.filename[:60]} declares {info.compress_size} bytes, the file has {size}")
        yield archive


def _read_member(archive: zipfile.ZipFile, name: str, most: int) -> Any:
    info = archive.getinfo(name)
    if info.file_size > most:
        raise ValueError(f"{name} declares {info.file_size >> 20} MB, at most {most >> 20} MB are read")
    with archive.open(info) as stream:
        return _read_npy(io.BytesIO(stream.read()))


def _read_npy(stream: BinaryIO) -> Any:
    """An array, or the plain content of an array of objects; the size that its header declares must be the file's."""
    version = np.lib.format.read_magic(stream)
    start = stream.tell()
    length = int.from_bytes(stream.read(2 if version == (1, 0) else 4), "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"its header declares {length} bytes")
    stream.seek(start)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if not dtype.hasobject:
        here = stream.tell()
        left, needed = stream.seek(0, io.SEEK_END) - here, math.prod(shape) * dtype.itemsize
        if needed > left or min(shape, default=0) < 0:
            raise ValueError(f"its header declares {needed} bytes {shape}, {left} follow")
        stream.seek(0)
        found = np.lib.format.read_array(stream, allow_pickle=False)
        if dtype.kind == "U":
            _check_text(found)
        return found
    array = unpickle(stream)
    return array.item() if isinstance(array, np.ndarray) and array.shape == () else array


def _check_text(array: np.ndarray) -> None:
    """Raise ValueError where a character does not exist: numpy makes text of it that fails when it is used."""
    codes = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(-1).view(np.uint32)
    if codes.size and (codes.max() > 0x10FFFF or bool(((codes >= 0xD800) & (codes <= 0xDFFF)).any())):
        raise ValueError("its text holds a character that does not exist")


def is_zip(path: Path) -> bool:
    """Whether a file is a readable zip archive, as .npz and torch's files are."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # its end says that it is on several disks
        return False


class _Setting(metaclass=Frozen):
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
    start = _first_bytes(path)
    if start is not None and not is_zip(path):
        # torch's own messages are long and name its internal classes
        if start[:2] in (b"PK", b""):
            raise HoldprepError(f"{path} could not be read: it is truncated at {path.stat().st_size} bytes; make or download it again")
        if start[:1] != b"\x80":  # with which pickles begin
            raise HoldprepError(f"{path} is no checkpoint, it begins with {start!r}: a web page saved in its place? download it again")
    with _readable(path):
        _check_stored(path)
        with torch.serialization.safe_globals([(_Setting, name) for name in _settings_in(path)]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(checkpoint, dict):
        raise HoldprepError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint's dict")
    return checkpoint


def _first_bytes(path: Path) -> bytes | None:
    """The first bytes of a file; None where it is not there."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        return stream.read(16)


def _check_stored(path: Path) -> None:
    """Raise ValueError where a checkpoint's zip holds compressed records, whose size the file does not bound; torch writes none."""
    if is_zip(path):
        with _archive(path) as archive:
            packed = [info.filename for info in archive.infolist() if info.file_size != info.compress_size]
        if packed:
            raise ValueError(f"its record {packed[0]} is compressed")


def _settings_in(path: Path) -> list[str]:
    """Names of settings' classes that a checkpoint mentions; found without running anything."""
    if not is_zip(path):  # torch before 1.6, when state dicts came alone
        return []
    return [name for name in torch.serialization.get_unsafe_globals_in_checkpoint(path) if _is_setting(name)]


def _is_setting(name: str) -> bool:
    return any(name.startswith(s) if s.endswith(".") else name == s for s in _SETTINGS)


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
