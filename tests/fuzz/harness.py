"""Reads damaged files and judges what the reader says: a result, or one line of the project's own with the file's name."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from holdprep.errors import HoldprepError
from tests.fuzz.mutations import changed
from tests.fuzz.readers import Reader

LONGEST = 1000  # characters of a message


class Finding(AssertionError):
    """A reader that did not refuse a file in one line with its name."""


def write(reader: Reader, folder: Path, target: str, edits: Sequence[tuple[str, float, int]]) -> bytes:
    """The reader's valid files in `folder`, of which `target` is changed; returns the changed content."""
    shutil.rmtree(folder, ignore_errors=True)
    content = b""
    for name, data in reader.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == target:
            for edit in edits:
                data = changed(data, edit)
            content = data
        path.write_bytes(data)
    return content


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
            if isinstance(cause, MemoryError):
                raise Finding(f"{reader.name}: memory is taken before sizes are checked: {line[:200]!r}") from error
            cause = cause.__cause__ or cause.__context__
        return False
    except Exception as error:
        raise Finding(f"{reader.name}: {type(error).__name__}: {str(error)[:300]}") from error
    return True
