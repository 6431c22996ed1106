"""Settings that are read as overrides: a sequence's own holdprep.yaml, overrides of earlier runs, and files of weights.

In order of priority: the command line, overrides of earlier runs, holdprep.yaml, the defaults.
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from holdprep.config import searchpath, validation
from holdprep.config.literal import literal, path_keys
from holdprep.config.schema import Config
from holdprep.errors import ConfigError, HoldprepError
from holdprep.io.bounded import inside, read_yaml, refuse_interpolations

log = logging.getLogger("holdprep")
MAX_BYTES, MAX_KEYS = 65536, 500  # of a file of settings: Hydra's grammar takes a millisecond for a key
_NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*\Z")
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


def settings(path: Path | None, records: Iterable[Mapping[str, Any]], arguments: Sequence[str], conf_dir: Path) -> Settings:
    """The settings of a sequence with holdprep.yaml at `path` (if it exists; None: of no sequence), `records` in order of time, and `arguments`.

    Earlier overrides are dropped where holdprep.yaml has changed since, or where the key or value is no longer allowed.
    Raises ConfigError in one line.
    """
    groups = validation.groups(conf_dir)
    own = path if path is not None and path.exists() else None
    file = {} if own is None else {key: f"{key}={_text(value)}" for key, value in _flat(_read(own), groups)}
    named = _keyed(arguments)
    remembered: dict[str, str] = {}
    for record in records:
        given, before = _trusted(record.get("given")), record.get("own")
        edited = [key for key, text in file.items() if not isinstance(before, dict) or before.get(key) != text]
        remembered = _without(remembered, given) | _without(given, edited)
    # a named video replaces a rendered scene
    hiding = [*named, *_preset(arguments, conf_dir), *(["source"] if "video" in named else [])]
    remembered = {k: text for k, text in _without(remembered, hiding).items() if _is_allowed(text, conf_dir)}
    found = [] if own is None else overrides(own, [*remembered.values(), *arguments], conf_dir)
    return Settings(file, _keyed(found), remembered, named)


def _trusted(given: Any) -> dict[str, str]:
    """The overrides of a record that are values of keys; records travel with a sequence, so that interpolations and keys of Hydra are not."""
    found = {}
    for key, text in given.items() if isinstance(given, dict) else ():
        try:
            (override,) = OverridesParser.create().parse_overrides([str(text)])
        except (HydraException, ValueError, RecursionError):
            continue
        plain = override.key_or_group == key and not override.is_delete() and not override.is_sweep_override()
        if "${" in text:
            log.warning("%-12s %s of an earlier run is not used: it holds an interpolation, set it again", "settings", key)
        elif plain and _NAME.match(key) and key.split(".")[0] != "hydra":
            found[key] = text
    return found


def transient() -> set[str]:
    """Keys that do not change results and are not remembered: opening of a page, display, numbers of threads."""
    return {key for key, field in validation.fields() if field.exclude}


def absolute(given: Mapping[str, str]) -> dict[str, str]:
    """Overrides with absolute paths, for use from other folders."""
    found = dict(given)
    for key in set(path_keys()) & given.keys():
        (parsed,) = OverridesParser.create().parse_overrides([given[key]])
        value = parsed.value()
        if value is not None:
            found[key] = f"{key}={_text(str(validation.launch_dir() / str(value)))}"
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
    """The groups and keys that `+experiment=...` sets."""
    parsed = OverridesParser.create().parse_overrides(list(arguments))
    named = next((str(o.value()) for o in parsed if o.key_or_group == "experiment"), "")
    files = [folder / "experiment" / f"{named}.yaml" for folder in (conf_dir, *searchpath.added(parsed))]
    path = next((file for file in files if file.is_file()), None)
    if not named or path is None:
        return []
    tree = dict(_mapping(path))
    defaults = tree.pop("defaults", None)
    entries = defaults if isinstance(defaults, list) else []
    groups = [str(key).removeprefix("override ").removeprefix("/") for entry in entries if isinstance(entry, dict) for key in entry]
    return [*groups, *(key for key, _ in _flat(tree, validation.groups(conf_dir)))]


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
    leaves = [(key, value) for key, value in _flat(_read(path), groups) if key not in keys and not key.startswith(hidden)]
    found = [f"{key}={_text(_placed(path, key, value))}" for key, value in leaves]
    try:
        validation.check_overrides([*found, *(o for o in arguments if o.split("=")[0] in groups or o.startswith(searchpath.KEY))], conf_dir)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return found


def _placed(path: Path, key: str, value: Any) -> Any:
    """A value of the file at `path`; paths are relative to its folder and stay inside of it. Raises ConfigError where one leads out."""
    if key not in path_keys() or not isinstance(value, str):
        return value
    try:
        return str(inside(path.parent, value, f"{path}: {key}"))
    except HoldprepError as error:
        raise ConfigError(f"{error}; set {key} on the command line, where it is kept for the sequence") from None


def expanded(argument: str) -> list[str]:
    """`weights=<file>.yaml` as one override per key; other arguments unchanged.

    Raises ConfigError where the file is missing or not a mapping.
    """
    group, _, value = argument.partition("=")
    if group != "weights" or not value.endswith((".yaml", ".yml")):
        return [argument]
    path = Path(value).expanduser()
    if not path.exists():
        raise ConfigError(f"weights={path} does not exist: give a file of weights, or one of conf/weights/")
    return [f"{key}={_text(each)}" for key, each in _flat({group: _read(path)}, {})]


def as_overrides(tree: Mapping[str, Any], apart: Iterable[str], conf_dir: Path) -> list[str]:
    """A whole configuration as overrides, one per key that an option of the chosen groups has; without the groups and keys `apart`."""
    hidden = tuple(apart)
    known = {key for key, _ in validation.fields()}
    leaves = [(key, value) for key, value in _flat(tree, validation.groups(conf_dir)) if key.partition(".")[0] not in hidden]
    return [f"{key}={_text(value)}" for key, value in leaves if key in known and not key.endswith((".name", ".method"))]


def _read(path: Path) -> Mapping[str, Any]:
    """Keys and values of a file that travels with data."""
    tree = _mapping(path)
    try:
        refuse_interpolations(path, tree)
    except HoldprepError as error:
        raise ConfigError(str(error)) from None
    for key in FIXED:
        if key in tree:
            raise ConfigError(f"{path}: {key} determines the path of this file and cannot be set in it")
    if sum(1 for _ in _flat(tree, {})) > MAX_KEYS:
        raise ConfigError(f"{path} holds more than {MAX_KEYS} keys: is it a file of settings?")
    odd = next((key for key in tree if not _NAME.match(key) or key.split(".")[0] == "hydra"), None)
    if odd is not None:
        raise ConfigError(f"{path}: unknown key '{odd[:60]}'; `python launch.py --help` lists all keys")
    return tree


def _mapping(path: Path) -> Mapping[str, Any]:
    try:
        tree = read_yaml(path, MAX_BYTES)
    except HoldprepError as error:
        raise ConfigError(str(error)) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds a {type(tree).__name__}: keys with values are needed, such as `create: {{stride: 3}}`")
    return tree


def _flat(tree: Mapping[str, Any], groups: Mapping[str, list[str]], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of every leaf and every selected option."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if not isinstance(value, dict) or validation.is_key(key):  # the value of a leaf may be a mapping
            yield key, value
            continue
        rest = dict(value)
        tag = _tag(key)
        if key in groups and tag in rest:
            yield key, rest.pop(tag)
        yield from _flat(rest, groups, f"{key}.")


def _tag(group: str) -> str | None:
    """The key that distinguishes the options of a group."""
    field = Config.model_fields.get(group)
    return str(field.discriminator) if field is not None and field.discriminator else None


def _text(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if isinstance(value, str):
        return literal(value)
    if isinstance(value, dict):
        return f"{{{','.join(f'{literal(str(key))}:{_text(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(_text(each) for each in value)}]"
    return json.dumps(value)
