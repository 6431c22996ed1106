"""Paths of a sequence's artefacts, through the folders that make it up."""

import json
import os
from pathlib import Path
from typing import Self

from holdprep.errors import HoldprepError
from holdprep.io.atomic import write_bytes_atomic
from holdprep.io.bounded import read_json
from holdprep.sequence.layout import ABSENT, ARTEFACTS, RECORDS


class SequencePaths:
    """Where artefacts are read and written: what the running stage has staged, then an overlay of a sweep's job, then the sequence folder."""

    def __init__(self, data_root: Path, name: str, overlay: Path | None = None, staging: Path | None = None) -> None:
        self.name = name
        self.data_root = data_root
        self.root = data_root / name
        self.overlay = overlay
        self.staging = staging

    @property
    def home(self) -> Path:
        """The folder that a run changes: the overlay if there is one, else the sequence folder."""
        return self.overlay or self.root

    def staged(self, folder: Path) -> Self:
        """The same sequence, written into `folder` and read from there first."""
        return type(self)(self.data_root, self.name, self.overlay, folder)

    def place(self, folder: Path, artefact: str, *parts: str) -> Path:
        """Where an artefact lies in one of the folders that make up the sequence; the packed build lies beside the sequence folder."""
        if artefact == "zip":
            return (self.data_root if folder == self.root else folder) / f"{self.name}.zip"
        return Path(folder, ARTEFACTS[artefact], *parts)

    def path(self, artefact: str, *parts: str) -> Path:
        """Where an artefact is read from: what the running stage has written, the overlay, then the sequence folder."""
        if self.staging is not None and self.place(self.staging, artefact).exists():
            return self.place(self.staging, artefact, *parts)
        if self.overlay is not None and (self.place(self.overlay, artefact).exists() or artefact in self.absent()):
            return self.place(self.overlay, artefact, *parts)
        return self.place(self.root, artefact, *parts)

    def target(self, artefact: str, *parts: str) -> Path:
        """Where an artefact is written to; its parent folder is made."""
        path = self.place(self.staging or self.home, artefact, *parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def has(self, artefact: str) -> bool:
        """True if the artefact is there (a folder must not be empty)."""
        path = self.path(artefact)
        return path.is_file() or (path.is_dir() and any(path.iterdir()))

    def absent(self) -> frozenset[str]:
        """Artefacts of the sequence folder that this overlay's stages no longer make: they are not read through the overlay."""
        path = self.home / RECORDS / ABSENT
        names = read_json(path) if self.overlay is not None and path.exists() else []
        return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()

    def write_absent(self, artefacts: frozenset[str]) -> None:
        """Say which artefacts of the sequence folder are not read through the overlay."""
        path = self.home / RECORDS / ABSENT
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(path, json.dumps(sorted(artefacts)).encode())

    def work_dir(self, stage: str) -> Path:
        """A stage's scratch folder, kept for inspection."""
        path = self.home / RECORDS / "work" / stage
        path.mkdir(parents=True, exist_ok=True)
        return path


def refuse_links_out(root: Path) -> None:
    """Raise HoldprepError where a link in a sequence folder leads out of it: an unpacked archive could show a stranger's choice of files.

    The folder itself may be a link.
    """
    inside = root.resolve()
    for folder, folders, files in os.walk(inside):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink() and not _leads_inside(path, inside):
                raise HoldprepError(
                    f"{root / path.relative_to(inside)} is a link out of the sequence's folder: copy the file there, or name it on the command "
                    "line (video=, hand.folder=, ...)"
                )


def _leads_inside(link: Path, folder: Path) -> bool:
    try:
        return link.resolve().is_relative_to(folder)
    except (OSError, RuntimeError):  # a loop
        return False
