"""The errors a user is meant to read: one line each, never a traceback."""


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
