"""The terms of the alignment's objective: one file per term, which defines one class and gives it its name.

A term's weight is `weights.<name>`; a new term needs its file and one line in conf/weights/*.yaml.
"""

from functools import cache
from importlib import import_module
from inspect import getmembers, isclass

from holdprep.align import term_files
from holdprep.align.terms.base import HandTerm, SceneTerm, Term

__all__ = ["HandTerm", "SceneTerm", "Term", "every", "names"]


def names() -> list[str]:
    """Names of all terms, those of their files."""
    return list(term_files.files())


@cache
def every() -> tuple[type[Term], ...]:
    """The classes of all terms."""
    return tuple(_class(name) for name in names())


def _class(name: str) -> type[Term]:
    module = import_module(f"{__name__}.{name}")
    (cls,) = [c for _, c in getmembers(module, isclass) if issubclass(c, Term) and c.__module__ == module.__name__]
    cls.name = name
    return cls
