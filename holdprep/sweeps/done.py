"""What a command has done: a mark in the sequence, by which the same command on an unchanged sequence is known to have nothing to do.

The mark holds the command, the version, and sizes and times of the sequence's files and of the files outside of it that its stages read. To
compare it takes a call of the system for each file, and no configuration: ten thousand sequences are looked at in seconds.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from holdprep import __version__
from holdprep.errors import HoldprepError
from holdprep.io.atomic import write_bytes_atomic
from holdprep.io.bounded import read_json
from holdprep.pipeline.records import DONE, HASHES
from holdprep.quality.gates import worst_of
from holdprep.sequence.layout import RECORDS

MARK = RECORDS / DONE
_APART = {DONE, HASHES, "staging", "work"}  # of the records: change without the sequence
_NO_EFFECT = ("seq", "data_root", "overlay", "force", "dry", "logger")


def command_key(overrides: Iterable[str], folders: Iterable[Path]) -> str:
    """A hash of what determines a command's results on a sequence: its overrides, the version, the options in `folders`, and $MANO_DIR.

    Overrides of the sequence's name, and those that do not change results, do not count.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    given = sorted(
        f"{o.get_key_element()}={o.get_value_element_as_str()}"
        for o in parsed
        if not o.key_or_group.startswith("hydra") and o.key_or_group.partition(".")[0] not in _NO_EFFECT
    )
    text = json.dumps([__version__, given, os.environ.get("MANO_DIR"), *(_options(folder) for folder in folders)])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@cache
def _options(folder: Path) -> list[str]:
    """Content of the options in a folder; those of Hydra itself change no result."""
    return [path.read_text() for path in sorted(folder.glob("*/*.yaml")) if path.parent.name != "hydra"]


def signature(root: Path) -> str:
    """A hash of names, sizes and times of all files of the sequence in `root`, except its scratch."""
    found: list[str] = []
    apart = {str(root / RECORDS / name) for name in _APART}
    folders = [str(root)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.path in apart:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                    continue
                stat = entry.stat()
                found.append(f"{entry.path[len(str(root)) :]} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}")
    return hashlib.blake2b("\n".join(sorted(found)).encode(), digest_size=16).hexdigest()


def write(root: Path, key: str, outside: Iterable[Path], stages: Mapping[str, Any]) -> None:
    """Mark the command of `key` as done on the sequence in `root`; `stages` are those of its metrics.json."""
    mark = {"command": key, "files": signature(root), "outside": {str(p): _stat(p) for p in outside}, "row": row_of(stages)}
    (root / RECORDS).mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(root / MARK, json.dumps(mark, default=str).encode())


def read(root: Path, key: str) -> dict[str, Any] | None:
    """The row of the command of `key` where it is done on the sequence in `root` and nothing has changed since; else None."""
    try:
        mark = read_json(root / MARK)
        same = mark["command"] == key and all(_stat(Path(p)) == s for p, s in mark["outside"].items())
        row = mark["row"] if same and mark["files"] == signature(root) else None
        return None if row is None else {sys.intern(key): value for key, value in row.items()}
    except (HoldprepError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return None  # no mark, or a damaged one: the command runs and looks


def row_of(stages: Mapping[str, Any]) -> dict[str, Any]:
    """Verdict and metrics (`<stage>/<metric>`) of the stages of a metrics.json, for the table of a batch."""
    row: dict[str, Any] = {}
    for name, stage in stages.items():
        row[f"{name}/verdict"] = "fail" if stage["error"] else worst_of(g["status"] for g in stage["gates"])
        row |= {f"{name}/{k}": v for k, v in stage["metrics"].items()}
    return row


def _stat(path: Path) -> Sequence[int] | None:
    """Size and time of a file, or of a folder's files together; None where it does not exist."""
    try:
        if path.is_dir():
            stats = [file.stat() for file in path.rglob("*") if file.is_file()]
            return [len(stats), sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)]
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]
