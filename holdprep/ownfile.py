"""Settings in files, read as overrides: a sequence's own holdprep.yaml, which comes before the command line's, and files of weights."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from holdprep import validation
from holdprep.config import Config
from holdprep.errors import ConfigError

FIXED = ("seq", "data_root")  # say where the file itself is


def overrides(path: Path, told: Sequence[str], conf_dir: Path) -> list[str]:
    """The file's keys as Hydra overrides, less what the command line `told`: a key there hides the file's, a group option its whole group.

    A group is a mapping of keys, an option's name, or both (`segmenter: {name: import, right: masks}`). Raises ConfigError in one line.
    """
    groups = validation.groups(conf_dir)
    keys = {o.split("=")[0].lstrip("+~") for o in told}
    hidden = tuple(f"{key}." for key in keys)
    found = [o for key, o in _flat(_read(path), groups) if key not in keys and not key.startswith(hidden)]
    try:
        validation.check_overrides([*found, *(o for o in told if o.split("=")[0] in groups)], conf_dir)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return found


def expanded(argument: str) -> list[str]:
    """`weights=<file>.yaml` as one override a key; any other argument as it is. Raises ConfigError where the file is not there or no mapping."""
    group, _, value = argument.partition("=")
    if group != "weights" or not value.endswith((".yaml", ".yml")):
        return [argument]
    path = Path(value)
    if not path.is_file():
        raise ConfigError(f"weights={path} is not there: give a file of weights, or one of conf/weights/")
    return [override for _, override in _flat({group: _read(path)}, {})]


def _read(path: Path) -> Mapping[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text: save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds a {type(tree).__name__}: keys with values are needed, such as `create: {{stride: 3}}`")
    for key in FIXED:
        if key in tree:
            raise ConfigError(f"{path}: {key} says where this file is and cannot stand in it")
    return tree


def _flat(tree: Mapping[str, Any], groups: Mapping[str, list[str]], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(key, override) of every leaf and every chosen option."""
    leaves = dict(validation.keys())  # a mapping may be one's value
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if not isinstance(value, dict) or key in leaves:
            yield key, f"{key}={_text(value)}"
            continue
        rest = dict(value)
        tag = _tag(key)
        if key in groups and tag in rest:
            option = rest.pop(tag)
            yield key, f"{key}={option}"
        yield from _flat(rest, groups, f"{key}.")


def _tag(group: str) -> str | None:
    """The key by which a group's options are told apart."""
    field = Config.model_fields.get(group)
    return str(field.discriminator) if field is not None and field.discriminator else None


def _text(value: Any) -> str:
    """A value in Hydra's override grammar, which reads JSON's numbers, lists, quoted strings and null, and mappings."""
    if isinstance(value, str) and value.replace("_", "").isalnum():
        return value
    if isinstance(value, dict):  # whose keys Hydra wants bare
        return f"{{{','.join(f'{key}:{_text(each)}' for key, each in value.items())}}}"
    return json.dumps(value, ensure_ascii=False)
