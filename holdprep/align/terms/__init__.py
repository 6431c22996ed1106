"""The terms of the alignment's objective: one file a term, which defines one class, found by the file's name.

A term's weight is `weights.<name>`; its file and one line in conf/weights/*.yaml are all that a new term needs.
"""

from functools import cache
from importlib import import_module
from inspect import getmembers, isclass

from holdprep.align import term_files
from holdprep.align.terms.base import HandTerm, SceneTerm, Term

__all__ = ["HandTerm", "SceneTerm", "Term", "every", "names"]


def names() -> list[str]:
    """All terms, by their files."""
    return list(term_files.files())


@cache
def every() -> tuple[type[Term], ...]:
    """The class of every term."""
    return tuple(_class(name) for name in names())


def _class(name: str) -> type[Term]:
    module = import_module(f"{__name__}.{name}")
    (found,) = [c for _, c in getmembers(module, isclass) if issubclass(c, Term) and c.__module__ == module.__name__]
    found.name = name
    return found
