"""Atomic replacement of a stage's outputs, also if the process is interrupted.

The stage writes into a staging folder. When it is complete, a journal of all moves is written; from then on the exchange is completed by
this process or the next run. Before, nothing has changed.
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
    """The folder into which a stage writes its outputs."""
    return seq.home / RECORDS / "staging" / stage


def begin(seq: Sequence, stage: str) -> Sequence:
    """The sequence for the running stage, which writes into an empty staging folder."""
    folder = staging(seq, stage)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return seq.staged(folder)


def abandon(seq: Sequence, stage: str) -> None:
    """Delete the staging folder; the outputs are unchanged."""
    shutil.rmtree(staging(seq, stage), ignore_errors=True)


def staged_artefacts(seq: Sequence, stage: str) -> list[str]:
    """The artefacts in the staging folder."""
    return [a for a in ARTEFACTS if _exists(seq.place(staging(seq, stage), a))]


def commit(seq: Sequence, stage: str, remove: Iterable[str], absent: Iterable[str], record: Mapping[str, Any]) -> None:
    """Exchange: install staged artefacts, remove `remove`, hide `absent` of the overlaid sequence, write `record`."""
    journal = {"install": staged_artefacts(seq, stage), "remove": list(remove), "absent": list(absent), "record": dict(record)}
    records.write(seq, stage, journal, "exchange.json")
    finish(seq, stage)


def is_pending(seq: Sequence, stage: str, root: Path | None = None) -> bool:
    """Whether an exchange has started and is not complete."""
    return records.path(seq, stage, "exchange.json", root).is_file()


def finish(seq: Sequence, stage: str) -> bool:
    """Complete the exchange of the journal; False if there is none. May be repeated after any interruption."""
    if not is_pending(seq, stage):
        return False
    journal = records.read(seq, stage, "exchange.json")
    if journal is not None:
        folder = staging(seq, stage)
        for artefact in journal["install"]:
            if _exists(seq.place(folder, artefact)):
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


def _exists(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


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
    """Rename; on another disk, copy to the target's folder and rename."""
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
