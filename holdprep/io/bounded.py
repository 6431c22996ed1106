"""Bounds on what reading a file may cost, checked before it is read: kind of file, bytes, values, size of a picture.

A sequence may be a stranger's. JSON and YAML are read as plain values; a picture's size is read from its header.
"""

import io
import json
import re
import stat
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from holdprep.errors import HoldprepError

if TYPE_CHECKING:
    from PIL import Image

MAX_JSON_BYTES, MAX_JSON_VALUES = 64 << 20, 8_000_000
MAX_YAML_BYTES, MAX_YAML_VALUES, MAX_DEPTH = 8 << 20, 600_000, 64
MAX_PICTURE_BYTES, MAX_PIXELS, MAX_MASK_PIXELS = 512 << 20, 120_000_000, 40_000_000
HEIC = (".heic", ".heif", ".hif")
_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STRING, _BOOLS = "tag:yaml.org,2002:str", {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_INTEGER = re.compile(r"[-+]?(0|[1-9]\d{0,17})\Z", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d{1,4})?\Z|[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z", re.ASCII)
_LEADING_ZERO = re.compile(r"[-+]?0\d")


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises HoldprepError for a missing file, a folder, a named pipe or a device, and for a larger file.
    """
    require_file(path, most)
    try:
        return path.read_bytes()
    except OSError as error:
        raise HoldprepError(f"{path} cannot be read: {error.strerror}") from None


def require_file(path: Path, most: int | None = None) -> None:
    """Raise HoldprepError unless `path` is a regular file of at most `most` bytes. Reading a named pipe would wait for ever."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise HoldprepError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a named pipe, a socket or a device"
        raise HoldprepError(f"{path} is {kind}, a file is needed: remove it")
    if most is not None and found.st_size > most:
        raise HoldprepError(f"{path} has {found.st_size} bytes, at most {most} are read: is it another kind of file?")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises HoldprepError in one line where it is missing, damaged or too large."""
    content = read_bytes(path, MAX_JSON_BYTES)
    values = sum(content.count(mark) for mark in (b",", b"[", b"{"))
    if values > MAX_JSON_VALUES:
        raise HoldprepError(f"{path} holds some {values} values, at most {MAX_JSON_VALUES} are read: is it another kind of file?")
    try:
        return json.loads(content)
    except RecursionError:
        raise HoldprepError(f"{path} is nested too deeply for JSON of data: make or download it again") from None
    except ValueError as error:  # also numbers of thousands of digits, and bytes that are no text
        raise HoldprepError(f"{path} is no JSON ({_line(error)}): is it truncated?") from None


def read_yaml(path: Path, most: int = MAX_YAML_BYTES) -> Any:
    """The content of a YAML file as dicts with keys of text, lists, text, numbers, booleans and None.

    Dates and numbers with a leading zero or underscores remain text. Anchors, tags, sets, a key that is given twice and nesting beyond
    `MAX_DEPTH` are refused. Raises HoldprepError in one line with the file and the line.
    """
    content = read_bytes(path, most)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise HoldprepError(f"{path} is not UTF-8 text: save it as UTF-8") from None
    try:
        return _plain(path, yaml.parse(text, _PARSER))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a character that does not exist
        raise HoldprepError(f"{path} is not YAML: {_line(error)}") from None


def _plain(path: Path, events: Iterator[Any]) -> Any:
    """The value of a stream of events with one document; built without recursion."""
    root: list[Any] = []
    stack: list[tuple[Any, str | None]] = [(root, None)]  # a container, and the key whose value is next
    for count, event in enumerate(events):
        if count > MAX_YAML_VALUES:
            raise _refused(path, event, f"more than {MAX_YAML_VALUES} values")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _refused(path, event, "an anchor or alias (& or *)")
        if isinstance(event, yaml.DocumentStartEvent) and root:
            raise _refused(path, event, "a second document")
        if isinstance(event, yaml.CollectionEndEvent):
            stack.pop()
        elif isinstance(event, yaml.NodeEvent):
            value = _value(path, event)
            _add(path, event, stack, value)
            if isinstance(value, dict | list):
                stack.append((value, None))
            if len(stack) > MAX_DEPTH:
                raise _refused(path, event, f"more than {MAX_DEPTH} levels")
    return root[0] if root else None


def _add(path: Path, event: Any, stack: list[tuple[Any, str | None]], value: Any) -> None:
    """Put a value into the innermost container; in a mapping it is a key, or the value of the last key."""
    container, key = stack[-1]
    if isinstance(container, list):
        container.append(value)
    elif key is not None:
        container[key] = value
        stack[-1] = (container, None)
    elif not isinstance(event, yaml.ScalarEvent):
        raise _refused(path, event, "a key that is no text")
    elif event.value in container:
        raise _refused(path, event, f"the key {event.value[:40]!r} twice")
    else:
        stack[-1] = (container, event.value)


def _value(path: Path, event: Any) -> Any:
    if event.tag not in (None, "!", _STRING):
        raise _refused(path, event, f"the tag {event.tag[:60]!r}")
    if isinstance(event, yaml.MappingStartEvent):
        return {}
    if isinstance(event, yaml.SequenceStartEvent):
        return []
    text: str = event.value
    if not event.implicit[0] or event.tag is not None:  # quoted, or said to be text
        return text
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text.lower() in _BOOLS and text in (text.lower(), text.upper(), text.capitalize()):
        return _BOOLS[text.lower()]
    if _INTEGER.match(text):
        return int(text)
    if _FLOAT.match(text) and not _LEADING_ZERO.match(text) and (len(text) < 19 or not text.lstrip("+-").isdigit()):
        return float(text.replace(".inf", "inf").replace(".Inf", "inf").replace(".INF", "inf").replace(".nan", "nan").replace(".N", "n"))
    return text


def _refused(path: Path, event: Any, what: str) -> HoldprepError:
    return HoldprepError(f"{path}, line {event.start_mark.line + 1}: {what}; plain keys, values and lists are needed")


def interpolated(tree: Any) -> tuple[str, str] | None:
    """Key and text of the first value, or key, with an interpolation (`${...}`) in plain values; None without."""
    stack: list[tuple[str, Any]] = [("", tree)]
    while stack:
        key, value = stack.pop()
        if isinstance(value, str) and "${" in value:
            return key, value
        if isinstance(value, dict):
            if any("${" in str(name) for name in value):
                return key, next(str(name) for name in value if "${" in str(name))
            stack += [(f"{key}.{name}" if key else str(name), each) for name, each in value.items()]
        elif isinstance(value, list):
            stack += [(key, each) for each in value]
    return None


def refuse_interpolations(path: Path, tree: Any) -> None:
    """Raise HoldprepError where a value of a file that travels with data has an interpolation, which could copy secrets into results."""
    found = interpolated(tree)
    if found is not None:
        key, text = found
        raise HoldprepError(f"{path}: {key or 'a key'} holds the interpolation {text[:60]!r}: write the value itself")


def inside(folder: Path, name: str, what: str) -> Path:
    """The path `name`, relative to `folder`, if it stays inside of it, also through links.

    Raises HoldprepError, beginning with `what`, where it leads out.
    """
    path = folder / name
    try:
        is_inside = path.resolve().is_relative_to(folder.resolve())
        path.exists()
    except (OSError, ValueError, RuntimeError):  # a loop of links, a null character, a name that is too long
        is_inside = False
    if not is_inside:
        shown = " ".join(name.split())[:200]
        raise HoldprepError(f"{what}: {shown} leads out of {folder}: a file that travels with data names only files beside it")
    return path


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height that a picture's header declares.

    Raises HoldprepError unless it is a regular file, a picture, and small enough to decode (`MAX_PIXELS`).
    """
    size = check_picture(path)
    if size is None:
        raise HoldprepError(f"{path} is not a readable picture ({path.stat().st_size} bytes): replace or remove it")
    return size


def check_picture(path: Path, most: int = MAX_PIXELS) -> tuple[int, int] | None:
    """As `picture_size`, with at most `most` pixels; None where the header cannot be read, whose picture cannot be decoded either."""
    from PIL import Image  # here, not above: the configuration reads YAML and must not wait for it

    require_file(path, MAX_PICTURE_BYTES)
    if path.suffix.lower() in HEIC:
        reads_heic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                size = picture.size
    except Image.DecompressionBombError:
        raise HoldprepError(f"{path} declares more than {most // 10**6} million pixels: reduce or remove it") from None
    except Exception:  # the readers of damaged headers raise anything
        found = _tiff_size(path)
        if found is None:
            return None
        size = found
    if size[0] * size[1] > most:
        raise HoldprepError(f"{path} declares {size[0]} x {size[1]} pixels, at most {most // 10**6} million are read: reduce or remove it")
    return size


@cache
def reads_heic() -> bool:
    """Whether Pillow reads HEIC: where the package pillow-heif is installed, with which it is then made known."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def open_picture(path: Path) -> "Image.Image":
    """A picture for Pillow, from memory: of a file, Pillow allocates what a damaged chunk declares. Raises what Pillow raises."""
    from PIL import Image

    if path.suffix.lower() in HEIC:
        reads_heic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(read_bytes(path, MAX_PICTURE_BYTES)))


def _tiff_size(path: Path) -> tuple[int, int] | None:
    """Width and height by a TIFF's tags, of kinds that Pillow does not decode but OpenCV does, such as three channels of floats."""
    from PIL import TiffImagePlugin

    try:
        with path.open("rb") as stream:
            tags = TiffImagePlugin.ImageFileDirectory_v2(stream.read(8))
            stream.seek(tags.next)
            tags.load(stream)
            return int(tags[TiffImagePlugin.IMAGEWIDTH]), int(tags[TiffImagePlugin.IMAGELENGTH])
    except Exception:  # no TIFF, or a damaged one
        return None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
