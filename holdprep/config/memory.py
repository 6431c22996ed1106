"""Settings that are read as overrides: a sequence's own holdprep.yaml, what earlier runs of it were given, and files of weights.

The command line goes before what earlier runs were given, that before holdprep.yaml, and that before the defaults.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from holdprep.config import validation
from holdprep.config.schema import Config
from holdprep.errors import ConfigError

FIXED = ("seq", "data_root")  # say where the file itself is


@dataclass(frozen=True)
class Settings:
    """The overrides that a sequence is run with: `own` of holdprep.yaml and `remembered` of earlier runs, both without what is hidden, and
    `named` on the command line; each by key. `file` is all that holdprep.yaml holds."""

    file: Mapping[str, str]
    own: Mapping[str, str]
    remembered: Mapping[str, str]
    named: Mapping[str, str]

    @property
    def given(self) -> dict[str, str]:
        """What a person gave on a command line, now or earlier."""
        return {**self.remembered, **self.named}


def settings(path: Path, records: Iterable[Mapping[str, Any]], told: Sequence[str], conf_dir: Path) -> Settings:
    """Of a sequence whose holdprep.yaml is at `path` (there or not), whose `records` are in order of time, for the command line `told`.

    What was given earlier is dropped where holdprep.yaml has been changed since, or where the key or value is no longer allowed.
    Raises ConfigError in one line.
    """
    groups = validation.groups(conf_dir)
    file = dict(_flat(_read(path), groups)) if path.is_file() else {}
    named = _keyed(told)
    remembered: dict[str, str] = {}
    for record in records:
        given, before = record.get("given", {}), record.get("own", {})
        edited = [key for key, text in file.items() if before.get(key) != text]
        remembered = _without(remembered, given) | _without(given, edited)
    # a video that is named is to be read, also where a scene was rendered before
    hiding = [*named, *_preset(told, conf_dir), *(["source"] if "video" in named else [])]
    remembered = {k: text for k, text in _without(remembered, hiding).items() if _is_allowed(text, conf_dir)}
    found = overrides(path, [*remembered.values(), *told], conf_dir) if path.is_file() else []
    return Settings(file, _keyed(found), remembered, named)


def transient() -> set[str]:
    """Keys that change no result, and so are not remembered: what only opens a page, shows something or sets a number of threads."""
    return {key for key, field in validation.fields() if field.exclude}


def absolute(given: Mapping[str, str]) -> dict[str, str]:
    """Overrides with their files' paths from the root: they are used from other folders."""
    paths = {key for key, field in validation.fields() if "Path" in str(field.annotation)}
    found = dict(given)
    for key in paths & given.keys():
        (parsed,) = OverridesParser.create().parse_overrides([given[key]])
        value = parsed.value()
        if value is not None:
            found[key] = f"{key}={_text(str(Path(str(value)).absolute()))}"
    return found


def _keyed(told: Iterable[str]) -> dict[str, str]:
    """Overrides by key or group, less those of Hydra itself and those that delete."""
    parsed = OverridesParser.create().parse_overrides(list(told))
    return {
        o.key_or_group: str(o.input_line) for o in parsed if not o.is_delete() and o.key_or_group.split(".")[0].split("/")[0] != "hydra"
    }


def _without(given: Mapping[str, str], hiding: Iterable[str]) -> dict[str, str]:
    """What is not hidden: a key hides itself, a group's option all keys of the group."""
    hidden = set(hiding)
    return {k: text for k, text in given.items() if k not in hidden and not any(k.startswith(f"{h}.") for h in hidden)}


def _preset(told: Sequence[str], conf_dir: Path) -> list[str]:
    """The groups that `+experiment=...` chooses."""
    named = _keyed(told).get("experiment", "")
    path = conf_dir / "experiment" / f"{named.partition('=')[2]}.yaml"
    defaults = yaml.safe_load(path.read_text())["defaults"] if path.is_file() else []
    return [str(key).removeprefix("override /") for entry in defaults if isinstance(entry, dict) for key in entry]


def _is_allowed(override: str, conf_dir: Path) -> bool:
    try:
        validation.check_overrides([override], conf_dir)
    except ConfigError as error:
        return "unknown key" in str(error) and validation.is_key(override.split("=")[0].lstrip("+"))
    return True


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
        raise ConfigError(f"weights={path} does not exist: give a file of weights, or one of conf/weights/")
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
    leaves = dict(validation.fields())  # a mapping may be one's value
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
