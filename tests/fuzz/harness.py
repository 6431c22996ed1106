"""Reads damaged files and judges what the reader says: a result, or one line of the project's own with the file's name."""

import random
from pathlib import Path

import av

from holdprep.errors import HoldprepError
from tests.fuzz.mutations import changed, edits
from tests.fuzz.valid import Reader

LONGEST = 1000  # characters of a message


class Finding(AssertionError):
    """A reader that did not refuse a file in one line with its name."""


def write_valid(reader: Reader, folder: Path) -> None:
    """The reader's valid files in `folder`."""
    for name, data in reader.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def try_one(reader: Reader, folder: Path, seed: int) -> bool:
    """Change one of the valid files in `folder` at random, read, and put the valid file back; returns what `check` returns.

    After a finding the changed file remains.
    """
    chance = random.Random(seed)
    target = chance.choice(reader.changed)
    content = reader.files[target]
    for edit in edits(chance):
        content = changed(content, edit)
    (folder / target).write_bytes(content)
    is_accepted = check(reader, folder, target)
    (folder / target).write_bytes(reader.files[target])
    return is_accepted


def check(reader: Reader, folder: Path, target: str) -> bool:
    """Read; returns whether the file was accepted. Raises Finding for anything but a result or a line with the file's name."""
    try:
        reader.read(folder)
    except HoldprepError as error:
        line = str(error)
        if "\n" in line or len(line) > LONGEST:
            raise Finding(f"{reader.name}: a message of {len(line)} characters: {line[:200]!r}") from error
        if Path(target).name not in line and str(folder) not in line:
            raise Finding(f"{reader.name}: the message does not name {target}: {line[:200]!r}") from error
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError) and not isinstance(cause, av.FFmpegError):  # FFmpeg reserves what it never touches
                raise Finding(f"{reader.name}: memory is taken before sizes are checked: {line[:200]!r}") from error
            cause = cause.__cause__ or cause.__context__
        return False
    except Exception as error:
        raise Finding(f"{reader.name}: {type(error).__name__}: {str(error)[:300]}") from error
    return True
