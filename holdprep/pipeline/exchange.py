"""A stage's outputs replaced all or nothing: new ones are laid beside the old and take their places together, whatever ends the process.

The stage writes into a staging folder. When it is complete, a journal says what moves where; from then on the exchange is finished by
whoever comes next, before then nothing has changed.
"""

import errno
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from holdprep.pipeline import records
from holdprep.sequence import ARTEFACTS, RECORDS, Sequence


def staging(seq: Sequence, stage: str) -> Path:
    """The folder in which a stage lays its outputs."""
    return seq.home / RECORDS / "staging" / stage


def begin(seq: Sequence, stage: str) -> Sequence:
    """The sequence as the running stage sees it: written into an empty staging folder."""
    folder = staging(seq, stage)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return seq.staged(folder)


def abandon(seq: Sequence, stage: str) -> None:
    """Throw the staging folder away: nothing has changed."""
    shutil.rmtree(staging(seq, stage), ignore_errors=True)


def staged_artefacts(seq: Sequence, stage: str) -> list[str]:
    """What lies in the staging folder, by artefact."""
    return [a for a in ARTEFACTS if _is_there(seq.place(staging(seq, stage), a))]


def commit(seq: Sequence, stage: str, remove: Iterable[str], absent: Iterable[str], record: Mapping[str, Any]) -> None:
    """Exchange: what is staged takes its places, `remove` goes, `absent` is no longer read through the overlay, `record` is written."""
    journal = {"install": staged_artefacts(seq, stage), "remove": list(remove), "absent": list(absent), "record": dict(record)}
    records.write(seq, stage, journal, "exchange.json")
    finish(seq, stage)


def is_pending(seq: Sequence, stage: str, root: Path | None = None) -> bool:
    """True where an exchange was begun and not finished."""
    return records.path(seq, stage, "exchange.json", root).is_file()


def finish(seq: Sequence, stage: str) -> bool:
    """Carry out what the journal says, as far as it has not been; False where there is none. May be repeated after any interruption."""
    if not is_pending(seq, stage):
        return False
    journal = records.read(seq, stage, "exchange.json")
    if journal is not None:
        folder = staging(seq, stage)
        for artefact in journal["install"]:
            if _is_there(seq.place(folder, artefact)):
                _put(seq.place(folder, artefact), seq.place(seq.home, artefact), folder / ".replaced" / artefact)
        for artefact in journal["remove"]:
            _take(seq.place(seq.home, artefact), folder / ".replaced" / artefact)
        if seq.overlay is not None:
            seq.write_absent((seq.absent() - set(journal["install"])) | set(journal["absent"]))
        records.write(seq, stage, journal["record"])
        records.discard(seq, stage, "failed.json")
        records.discard(seq, stage, "measured.json")
    records.discard(seq, stage, "exchange.json")
    abandon(seq, stage)
    return True


def _is_there(place: Path) -> bool:
    return place.is_file() or (place.is_dir() and any(place.iterdir()))


def _put(new: Path, final: Path, aside: Path) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    if not final.is_file() or final.is_symlink() or new.is_dir():
        _take(final, aside)
    _move(new, final)


def _take(old: Path, aside: Path) -> None:
    if not old.is_symlink() and not old.exists():
        return
    aside.parent.mkdir(parents=True, exist_ok=True)
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    _move(old, aside)


def _move(source: Path, target: Path) -> None:
    """Rename, or copy to beside the target and rename where that is on another disk."""
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        shutil.rmtree(beside, ignore_errors=True)
        if source.is_dir() and not source.is_symlink():
            shutil.copytree(source, beside)
            os.replace(beside, target)
            shutil.rmtree(source)
        else:
            shutil.copy2(source, beside, follow_symlinks=False)
            os.replace(beside, target)
            source.unlink()
