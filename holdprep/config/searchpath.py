"""Folders of configuration files: conf/, and those that --config-dir or hydra.searchpath add."""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from urllib.parse import unquote, urlparse

from hydra.core.override_parser.types import Override

KEY = "hydra.searchpath"


def added(overrides: Iterable[Override]) -> list[Path]:
    """The folders of hydra.searchpath among the overrides, if they exist."""
    values = [value for override in overrides if override.key_or_group == KEY for value in _list(override.value())]
    return [folder for value in values if (folder := _folder(str(value))) is not None and folder.is_dir()]


def options(folders: Iterable[Path]) -> dict[str, list[str]]:
    """Groups and their options, from the files of the folders."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for path in folder.glob("*/*.yaml"):
            found.setdefault(path.parent.name, set()).add(path.stem)
    return {group: sorted(names) for group, names in sorted(found.items()) if group != "hydra"}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _folder(text: str) -> Path | None:
    if text.startswith("pkg://"):
        try:
            return Path(str(resources.files(text.removeprefix("pkg://").replace("/", "."))))
        except (ImportError, TypeError, ValueError):
            return None
    return Path(unquote(urlparse(text).path)) if text.startswith("file://") else Path(text)
