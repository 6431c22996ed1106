"""The errors a user is meant to read: one line each, never a traceback; and names of files' content in them."""

from collections.abc import Iterable

LISTED, WIDEST = 5, 40  # names of a message, and characters of each


class HoldprepError(Exception):
    """Something the user can act on.

    The message is one line: what went wrong, in which file or frame, the count and its threshold, and what to try.
    The command prints it and exits with status 1; anything else that escapes is a defect and keeps its traceback.
    """


class ConfigError(HoldprepError):
    """A configuration key is unknown, of the wrong type or out of its range."""


class MissingArtefact(HoldprepError):
    """A stage was requested before the stage that makes its input."""


class UnsafeFile(HoldprepError):
    """A data file names code that a plain array file has no reason to name; it was not loaded."""


def short(given: object, longest: int = WIDEST) -> str:
    """What a file or a command line holds, as a message shows it: on one line, cut after `longest` characters."""
    text = " ".join(str(given).split())
    return text if len(text) <= longest else f"{text[:longest]} ..."


def listed(names: Iterable[object]) -> str:
    """The first names that a file holds, in order."""
    found = sorted(map(str, names))
    return ", ".join(map(short, found[:LISTED])) + (" ..." if len(found) > LISTED else "")
