"""Settings that are read as overrides: a sequence's own holdprep.yaml, overrides of earlier runs, and files of weights.

In order of priority: the command line, overrides of earlier runs, holdprep.yaml, the defaults.
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

FIXED = ("seq", "data_root")  # determine the path of the file itself


@dataclass(frozen=True)
class Settings:
    """The overrides of a run by key: `own` of holdprep.yaml, `remembered` of earlier runs, `named` on the command line.

    The first two are without those that are replaced by others. `file` are all of holdprep.yaml.
    """

    file: Mapping[str, str]
    own: Mapping[str, str]
    remembered: Mapping[str, str]
    named: Mapping[str, str]

    @property
    def given(self) -> dict[str, str]:
        """The user's overrides on the command line, now or in earlier runs."""
        return {**self.remembered, **self.named}


def settings(path: Path, records: Iterable[Mapping[str, Any]], arguments: Sequence[str], conf_dir: Path) -> Settings:
    """The settings of a sequence with holdprep.yaml at `path` (if it exists), `records` in order of time, and `arguments`.

    Earlier overrides are dropped where holdprep.yaml has changed since, or where the key or value is no longer allowed.
    Raises ConfigError in one line.
    """
    groups = validation.groups(conf_dir)
    file = dict(_flat(_read(path), groups)) if path.is_file() else {}
    named = _keyed(arguments)
    remembered: dict[str, str] = {}
    for record in records:
        given, before = record.get("given", {}), record.get("own", {})
        edited = [key for key, text in file.items() if before.get(key) != text]
        remembered = _without(remembered, given) | _without(given, edited)
    # a named video replaces a rendered scene
    hiding = [*named, *_preset(arguments, conf_dir), *(["source"] if "video" in named else [])]
    remembered = {k: text for k, text in _without(remembered, hiding).items() if _is_allowed(text, conf_dir)}
    found = overrides(path, [*remembered.values(), *arguments], conf_dir) if path.is_file() else []
    return Settings(file, _keyed(found), remembered, named)


def transient() -> set[str]:
    """Keys that do not change results and are not remembered: opening of a page, display, numbers of threads."""
    return {key for key, field in validation.fields() if field.exclude}


def absolute(given: Mapping[str, str]) -> dict[str, str]:
    """Overrides with absolute paths, for use from other folders."""
    paths = {key for key, field in validation.fields() if "Path" in str(field.annotation)}
    found = dict(given)
    for key in paths & given.keys():
        (parsed,) = OverridesParser.create().parse_overrides([given[key]])
        value = parsed.value()
        if value is not None:
            found[key] = f"{key}={_text(str(Path(str(value)).absolute()))}"
    return found


def _keyed(arguments: Iterable[str]) -> dict[str, str]:
    """Overrides by key or group, without those of Hydra itself and those that delete."""
    parsed = OverridesParser.create().parse_overrides(list(arguments))
    return {
        o.key_or_group: str(o.input_line) for o in parsed if not o.is_delete() and o.key_or_group.split(".")[0].split("/")[0] != "hydra"
    }


def _without(given: Mapping[str, str], hiding: Iterable[str]) -> dict[str, str]:
    """The overrides in `given` that are not replaced: a key replaces itself, a group's option all keys of the group."""
    hidden = set(hiding)
    return {k: text for k, text in given.items() if k not in hidden and not any(k.startswith(f"{h}.") for h in hidden)}


def _preset(arguments: Sequence[str], conf_dir: Path) -> list[str]:
    """The groups that `+experiment=...` sets."""
    named = _keyed(arguments).get("experiment", "")
    path = conf_dir / "experiment" / f"{named.partition('=')[2]}.yaml"
    defaults = yaml.safe_load(path.read_text())["defaults"] if path.is_file() else []
    return [str(key).removeprefix("override /") for entry in defaults if isinstance(entry, dict) for key in entry]


def _is_allowed(override: str, conf_dir: Path) -> bool:
    try:
        validation.check_overrides([override], conf_dir)
    except ConfigError as error:
        return "unknown key" in str(error) and validation.is_key(override.split("=")[0].lstrip("+"))
    return True


def overrides(path: Path, arguments: Sequence[str], conf_dir: Path) -> list[str]:
    """The file's keys as Hydra overrides, without those that `arguments` replace: a key the same key, a group option its group.

    A group is a mapping of keys, an option's name, or both (`segmenter: {name: import, right: masks}`). Raises ConfigError in one line.
    """
    groups = validation.groups(conf_dir)
    keys = {o.split("=")[0].lstrip("+~") for o in arguments}
    hidden = tuple(f"{key}." for key in keys)
    found = [o for key, o in _flat(_read(path), groups) if key not in keys and not key.startswith(hidden)]
    try:
        validation.check_overrides([*found, *(o for o in arguments if o.split("=")[0] in groups)], conf_dir)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return found


def expanded(argument: str) -> list[str]:
    """`weights=<file>.yaml` as one override per key; other arguments unchanged.

    Raises ConfigError where the file is missing or not a mapping.
    """
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
            raise ConfigError(f"{path}: {key} determines the path of this file and cannot be set in it")
    return tree


def _flat(tree: Mapping[str, Any], groups: Mapping[str, list[str]], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(key, override) of every leaf and every selected option."""
    leaves = dict(validation.fields())  # the value of a leaf may be a mapping
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
    """The key that distinguishes the options of a group."""
    field = Config.model_fields.get(group)
    return str(field.discriminator) if field is not None and field.discriminator else None


def _text(value: Any) -> str:
    """A value in Hydra's override grammar, which reads JSON's numbers, lists, quoted strings and null, and mappings."""
    if isinstance(value, str) and value.replace("_", "").isalnum():
        return value
    if isinstance(value, dict):  # Hydra requires keys without quotes
        return f"{{{','.join(f'{key}:{_text(each)}' for key, each in value.items())}}}"
    return json.dumps(value, ensure_ascii=False)
