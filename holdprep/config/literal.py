"""Text in Hydra's override grammar: names of files and sequences are taken as they are typed."""

import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.errors import HydraException

from holdprep.config import validation

SEQUENCES = ("seq", "seqs")  # whose names have no commas
_PLAIN = re.compile(r"[A-Za-z_][\w-]*\Z", re.ASCII)  # read as text, except:
_VALUES = ("null", "none", "true", "false", "yes", "no", "on", "off", "nan", "inf")
_SWEEPS = re.compile(r"(glob|choice|range|interval|sort|shuffle|tag|extend_list|str)\(.*\)\Z", re.DOTALL)


def quoted(text: str) -> str:
    """The text as a quoted string of the grammar: backslashes before a quote, and at the end, are doubled."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), text) + "'"


def literal(text: str) -> str:
    """The text as the grammar reads it as this text: as it is if possible, else quoted."""
    if _PLAIN.match(text) and text.lower() not in _VALUES:
        return text
    return text if _reads_as(text) == text else quoted(text)


def as_typed(argument: str, is_sweep: bool) -> str:
    """An override `key=value` of a key that holds text or a path, with its value quoted where Hydra would read it otherwise.

    Of a path, a leading ~ is the home folder. `null`, quoted values, functions such as glob() and interpolations keep their meaning.
    Commas separate values if `is_sweep`, unless a file of the whole name exists; in a sequence's name they always do.
    """
    name, sign, value = argument.partition("=")
    key = name.lstrip("+")
    if not sign or name.startswith("~") or key not in (*_paths(), *_texts(), *_lists()):
        return argument
    one = _path if key in _paths() else literal
    if value in ("", "null") or _SWEEPS.match(value) or (value[0] in "'\"" and isinstance(_reads_as(value), str)):
        return argument
    if key in _lists():
        inner = value[1:-1] if value.startswith("[") and value.endswith("]") else None
        return argument if inner is None or re.search(r"[\[\]'\"{}()]", inner) else f"{name}=[{_separate(inner, literal)}]"
    if "," in value and (key in SEQUENCES or (is_sweep and not _exists(value))):
        return f"{name}={_separate(value, one)}"
    return f"{name}={one(value)}"


def _separate(values: str, one: Callable[[str], str]) -> str:
    return ",".join(part if part.strip() == "null" else one(part.strip()) for part in values.split(","))


def _path(text: str) -> str:
    return literal(str(Path(text).expanduser()) if text.startswith("~") else text)


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, RuntimeError):  # a name that is too long, a home that is unknown
        return False


def _reads_as(text: str) -> object:
    """The value that Hydra reads; None where it reads a sweep, nothing or no value at all."""
    try:
        (override,) = OverridesParser.create().parse_overrides([f"key={text}"])
    except (HydraException, ValueError, RecursionError):  # ValueError: a number of thousands of digits
        return None
    return override.value() if override.value_type == ValueType.ELEMENT else None


@cache
def _paths() -> frozenset[str]:
    return _keys(lambda annotation: "Path" in annotation)


@cache
def _texts() -> frozenset[str]:
    return _keys(lambda annotation: annotation in ("<class 'str'>", "str | None"))


@cache
def _lists() -> frozenset[str]:
    return _keys(lambda annotation: annotation.startswith("list[str]"))


def _keys(is_such: Callable[[str], bool]) -> frozenset[str]:
    return frozenset(key for key, field in validation.fields() if is_such(str(field.annotation)))


def path_keys() -> Iterable[str]:
    """The keys that hold a path."""
    return _paths()
