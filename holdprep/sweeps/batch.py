"""A batch over sequences alone: those on which the command is done are taken out before Hydra starts; the rest are its jobs."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from holdprep.config import commandline
from holdprep.sweeps import done

_skipped: dict[str, dict[str, Any]] = {}  # rows of the table by sequence that is up to date


def remaining(arguments: Sequence[str], conf_dir: Path) -> list[str] | None:
    """The arguments without the sequences on which this command is done; None where it is done on all of them.

    Other commands, and those with force=true, are returned as they are.
    """
    _skipped.clear()
    batch, given = commandline.batch_over(arguments, conf_dir), commandline.overrides_in(arguments)
    if batch is None or any(o.lower() == "force=true" for o in given):
        return list(arguments)
    names, data_root = batch
    key = done.command_key(given, commandline.searched(arguments, conf_dir))
    rest = []
    for name in names:
        row = done.read(data_root / name, key)
        if row is None:
            rest.append(name)
        else:
            _skipped[name] = row
    if not rest:
        return None
    found = commandline.with_sequences(arguments, rest) if _skipped else list(arguments)
    return found if any(o.startswith("hydra/sweeper=") for o in given) else [*found, "hydra/sweeper=batch"]


def skipped() -> dict[str, dict[str, Any]]:
    """The row of each sequence that `remaining` took out, by name."""
    return dict(_skipped)


def folder_of_done() -> Path:
    """Folder of the table where nothing is left to run."""
    return Path("outputs", "multirun", f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
