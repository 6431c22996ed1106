"""Records of stages in processed/.holdprep/: the last run, the measurement of foreign artefacts, the last failure.

A record holds the hashes of inputs and outputs, the values of the settings, the user's overrides, versions, time and metrics. A sweep's job
writes into its overlay, and reads the sequence's records where the overlay has none.
"""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from holdprep.errors import HoldprepError
from holdprep.io.atomic import write_bytes_atomic
from holdprep.io.bounded import read_json
from holdprep.sequence import ARTEFACTS, RECORDS, Sequence
from holdprep.sequence.layout import ABSENT

log = logging.getLogger("holdprep")
HASHES, DONE = "hashes.json", "done.json"  # beside the records
_PARTS: dict[str, Any] = {
    **dict.fromkeys(("outputs", "inputs", "given", "own", "metrics", "curves", "packages"), dict),
    "settings": dict | None,
    "notes": list,
    "seconds": int | float,
    "error": str,
    **dict.fromkeys(("stage", "finished", "version", "python"), str),
}
Kind = Literal["json", "measured.json", "failed.json", "exchange.json"]
FORMAT = 2


def path(seq: Sequence, stage: str, kind: Kind | Literal["running"] = "json", root: Path | None = None) -> Path:
    """Path of a stage's record of this kind, in the folder that the run changes or in `root`."""
    return (root or seq.home) / RECORDS / f"{stage}.{kind}"


def read(seq: Sequence, stage: str, kind: Kind = "json") -> dict[str, Any] | None:
    """The overlay's record, else the sequence's; None without a readable one.

    A record in the format of an older holdprep has no settings to compare.
    """
    for root in dict.fromkeys((seq.home, seq.root)):
        file = path(seq, stage, kind, root)
        if not file.exists():
            continue
        try:
            record = _sound(file, read_json(file), kind)
        except HoldprepError as error:
            log.warning("%-12s %s: the record is not used", stage, error)
            continue
        if record.get("format") == FORMAT:
            return record
        if {"outputs", "inputs", "metrics"} <= record.keys():
            return record | {"settings": None}
    return None


def _sound(file: Path, record: Any, kind: Kind) -> dict[str, Any]:
    """The record, whose parts are of the kinds that stages write. Raises HoldprepError for others: records travel with a sequence."""
    if not isinstance(record, dict):
        raise HoldprepError(f"{file} holds a {type(record).__name__}, not a record")
    parts = {**_PARTS, **({"install": list, "remove": list, "absent": list, "record": dict} if kind == "exchange.json" else {})}
    needed = {"json": ("outputs", "inputs", "metrics"), "measured.json": ("outputs", "inputs", "metrics"), "failed.json": ("error",)}
    own = needed.get(kind, ("install", "remove", "absent", "record"))
    wrong = next((key for key, part in parts.items() if key in record and not isinstance(record[key], part)), None)
    wrong = wrong or next((key for key in own if key not in record), None)
    if wrong:
        raise HoldprepError(f"{file}: {wrong} is missing or of another kind than stages write")
    texts = [v for key in ("outputs", "given", "own") for v in record.get(key, {}).values()]
    texts += [v for key in ("install", "remove", "absent", "notes") for v in record.get(key, [])]
    if not all(isinstance(text, str) or text is None for text in texts):
        raise HoldprepError(f"{file}: a value that is no text is where stages write one")
    if not all(_is_value(value) for value in (record.get("seconds"), *record.get("metrics", {}).values())):
        raise HoldprepError(f"{file}: a metric is no number and no text")
    if not all(isinstance(c, list) and all(_is_value(v) and not isinstance(v, str) for v in c) for c in record.get("curves", {}).values()):
        raise HoldprepError(f"{file}: a curve is no list of numbers")
    if any(a not in ARTEFACTS for key in ("outputs", "install", "remove", "absent") for a in record.get(key, ())):
        raise HoldprepError(f"{file} names an artefact that no stage makes")
    return {"seconds": 0.0} | record


def _is_value(value: Any) -> bool:
    return value is None or isinstance(value, bool | str) or (isinstance(value, int | float) and abs(value) < 1e300)


def write(seq: Sequence, stage: str, record: Mapping[str, Any], kind: Kind = "json") -> None:
    """Write a record atomically."""
    target = path(seq, stage, kind)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(target, json.dumps({"format": FORMAT} | dict(record), indent=1, default=str).encode())


def discard(seq: Sequence, stage: str, kind: Kind) -> None:
    """Remove a record in the folder that the run changes."""
    path(seq, stage, kind).unlink(missing_ok=True)


def of_sequence(seq: Sequence) -> list[dict[str, Any]]:
    """The records of the sequence's own runs (not of jobs), in order of time."""
    others = (HASHES, DONE, ABSENT)
    names = [file.name.removesuffix(".json") for file in (seq.root / RECORDS).glob("*.json") if file.name not in others]
    names = [name for name in names if not name.endswith((".measured", ".failed", ".exchange"))]
    bare = Sequence(seq.data_root, seq.name)
    found = [record for name in sorted(names) if "finished" in (record := read(bare, name) or {}) and "given" in record]
    return sorted(found, key=lambda record: str(record["finished"]))


def is_running(seq: Sequence, stage: str) -> bool | None:
    """True while a process runs the stage, False if a killed one left its marker, else None."""
    try:
        with path(seq, stage, "running").open("r+") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return True
    return False


@contextmanager
def lock(seq: Sequence, stage: str) -> Iterator[Path]:
    """Lock this stage against other processes; yields the marker file of a running stage, which the caller removes on success."""
    marker = path(seq, stage, "running")
    marker.parent.mkdir(parents=True, exist_ok=True)
    with marker.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_same = marker.exists() and os.path.samestat(os.fstat(handle.fileno()), marker.stat())
        except BlockingIOError:
            is_same = False
        if not is_same:  # also if the other process has ended in the meantime: its outputs must be checked first
            raise HoldprepError(f"another process is running stage {stage} on {seq.name} ({marker}): wait for it")
        yield marker


_hashes: dict[tuple[int, ...], str] = {}  # of files, by inode, size and time of change
_MAX_HASHES = 100_000


def fingerprint(path: Path | None) -> str | None:
    """Hash of a file's content, or of a folder's names and contents; None if it does not exist or is empty."""
    if path is None or not path.exists():
        return None
    if path.is_file():
        return _hash_file(path)
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    lines = [f"{p.relative_to(path)} {_hash_file(p)}" for p in files]
    return hashlib.blake2b("\n".join(lines).encode()).hexdigest()[:32] if lines else None


def _hash_file(file: Path) -> str:
    stat = file.stat()
    key = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if key not in _hashes:
        with file.open("rb") as stream:
            _hashes[key] = hashlib.file_digest(stream, "blake2b").hexdigest()[:32]
    return _hashes[key]


def load_hashes(seq: Sequence) -> None:
    """Load the hashes of an earlier run, so that unchanged files are not read again."""
    try:
        _hashes.update({(ino, size, time): value for ino, size, time, value in read_json(_hash_store(seq))})
    except (HoldprepError, ValueError, TypeError):
        return  # missing or damaged: all files are read


def keep_hashes(seq: Sequence) -> None:
    """Store the hashes with the sequence, except in a sweep's job, which does not write to it."""
    store = _hash_store(seq)
    if seq.overlay is None and store.parent.is_dir():
        write_bytes_atomic(store, json.dumps([[*key, value] for key, value in list(_hashes.items())[-_MAX_HASHES:]]).encode())


def _hash_store(seq: Sequence) -> Path:
    return seq.root / RECORDS / HASHES
