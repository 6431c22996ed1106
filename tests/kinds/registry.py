"""The list of kinds."""

from collections.abc import Callable
from pathlib import Path

Check = Callable[[Path], None]
KINDS: dict[str, Check] = {}


def kind(name: str) -> Callable[[Check], Check]:
    """Lists a function under a name; it is given an empty folder, and raises where the kind is not read as it should be."""

    def listed(check: Check) -> Check:
        assert name not in KINDS
        KINDS[name] = check
        return check

    return listed
