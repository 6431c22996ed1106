"""Validation of configurations and command lines against the schema.

Unknown keys, wrong types and values out of range are refused in one line with the key's full name, before anything runs.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from holdprep.config import searchpath
from holdprep.config.schema import Config
from holdprep.errors import ConfigError, short
from holdprep.node import Node
from holdprep.quality.gates import check_thresholds

SHOWN = 120  # characters of a value in a message
PATTERNS = {r"^\w[\w.-]*$": "of letters, digits, _ . -"}  # in words


def validate(cfg: DictConfig) -> Config:
    """The composed configuration as typed values; raises ConfigError in one line with every wrong key."""
    try:
        tree = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        cause = " ".join(str(error).split()).removesuffix(" object_type=dict")
        raise ConfigError(f"cannot resolve the configuration: {cause}; where a name holds ${{, write \\${{") from None
    assert isinstance(tree, dict)
    values: dict[str, Any] = {str(key): value for key, value in tree.items() if key != "hydra"}
    if launch_dir() != Path.cwd():  # hydra.job.chdir=true: paths are those of the folder where the command was given
        _anchor(values, launch_dir())
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(e) for e in error.errors())) from None
    check_thresholds(config.gates or {})
    return config


def launch_dir() -> Path:
    """The folder in which the command was given."""
    return Path(HydraConfig.get().runtime.cwd) if HydraConfig.initialized() else Path.cwd()


def _anchor(tree: dict[str, Any], folder: Path) -> None:
    """Make the relative paths of a configuration absolute."""
    for key in [key for key, field in fields() if "Path" in str(field.annotation)]:
        *groups, name = key.split(".")
        node: Any = tree
        for group in groups:
            node = node.get(group) if isinstance(node, dict) else None
        if isinstance(node, dict) and isinstance(node.get(name), str):
            node[name] = str(folder / node[name])


def check_overrides(overrides: list[str], conf_dir: Path) -> None:
    """Raise ConfigError in one line for command-line overrides with an unknown key or option, or a value that is not allowed.

    Every value of a sweep (`weights.contact=10,100`) is checked, so that a batch fails before its first job.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except (HydraException, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read the command line: {short(error, SHOWN)}") from None
    known = searchpath.options([conf_dir, *searchpath.added(parsed)])
    chosen = _chosen(parsed, conf_dir)
    known_fields = dict(fields(chosen))
    for override in parsed:
        key = override.key_or_group
        if key.split(".")[0] == "hydra" or key.startswith("hydra/") or override.is_delete():
            continue
        values = list(_values(override))
        if key in known:
            _check_options(key, values, known[key])
        elif key in known_fields:
            _check_values(key, values, known_fields[key])
        elif override.is_add() and is_key(key):  # +key=value: Hydra adds it, and `validate` judges the whole
            continue
        else:
            elsewhere = _elsewhere(key, chosen, known)
            near = elsewhere or f"{_nearest(key, [*known_fields, *known])}; `python launch.py --help` lists all keys"
            raise ConfigError(f"unknown key '{short(key, SHOWN)}'{near}")


def fields(chosen: Mapping[str, set[str]] | None = None) -> Iterator[tuple[str, FieldInfo]]:
    """Full name and field of the keys of all options; with `chosen`, options by group, of these."""
    return _fields(Config, chosen)


def is_key(name: str) -> bool:
    """Whether any option has this key."""
    return name in _all_keys()


@cache
def _all_keys() -> frozenset[str]:
    return frozenset(name for name, _ in fields())


def chosen_options(overrides: Sequence[str], conf_dir: Path) -> dict[str, set[str]]:
    """Options of each group under these overrides: the defaults, or those that they set."""
    return _chosen(OverridesParser.create().parse_overrides(list(overrides)), conf_dir)


def groups(conf_dir: Path) -> dict[str, list[str]]:
    """Config groups and their options, from the files of conf/."""
    return searchpath.options([conf_dir])


def _chosen(overrides: list[Override], conf_dir: Path) -> dict[str, set[str]]:
    """Options of each group that this command line can select: the defaults, or those it sets."""
    defaults = {group: {option} for group, option in _defaults(conf_dir).items()}
    for override in overrides:
        if override.key_or_group in defaults:
            values = [v for value in _values(override) for v in (value if isinstance(value, list) else [value])]
            defaults[override.key_or_group] = {str(v) for v in values}
    return defaults


@cache
def _defaults(conf_dir: Path) -> dict[str, str]:
    """The default option of each group."""
    entries = [entry for entry in OmegaConf.load(conf_dir / "config.yaml").defaults if isinstance(entry, DictConfig)]
    return {str(k).removeprefix("override "): str(v) for entry in entries for k, v in entry.items()}


def _elsewhere(key: str, chosen: Mapping[str, set[str]], groups: Mapping[str, list[str]]) -> str:
    """Which options of its group have a key that the chosen ones lack; empty where none has."""
    group = key.split(".")[0]
    having = [option for option in groups.get(group, []) if key in dict(fields({group: {option}}))]
    if not having or group not in chosen:
        return ""
    return f" with {group}={','.join(sorted(chosen[group]))}; it belongs to {' or '.join(f'{group}={option}' for option in having)}"


def _values(override: Override) -> Iterator[Any]:
    """The values of an override: one, or all of a sweep (ranges and globs are left to Hydra)."""
    if override.value_type in (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP):
        yield from override.sweep_iterator()
    elif override.value_type == ValueType.ELEMENT:
        yield override.value()


def _models(field: FieldInfo) -> list[type[Node]]:
    candidates = (field.annotation, *get_args(field.annotation))
    return [c for c in candidates if isinstance(c, type) and issubclass(c, Node)]


def _fields(model: type[Node], chosen: Mapping[str, set[str]] | None, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        variants = _models(field)
        is_option = bool(variants) and type(None) in get_args(field.annotation)  # logger.wandb is there with logger=wandb
        if is_option and chosen is not None and name not in chosen.get(prefix.removesuffix("."), {name}):
            continue
        if not variants:
            yield prefix + name, field
        for variant in variants:
            tag = str(field.discriminator or "name")
            option = get_args(variant.model_fields[tag].annotation) if tag in variant.model_fields else ()
            if len(variants) == 1 or chosen is None or set(option) & chosen.get(name, set(option)):
                yield from _fields(variant, chosen, f"{prefix}{name}.")


def _check_options(group: str, values: Iterable[Any], options: list[str]) -> None:
    for value in values:
        names = value if isinstance(value, list) else [value]
        for name in names:
            if str(name) not in options:
                raise ConfigError(
                    f"{group}={short(name, SHOWN)}: no such option{_nearest(str(name), options)}; allowed: {', '.join(options)}"
                )


def _check_values(key: str, values: Iterable[Any], field: FieldInfo) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, *field.metadata, Field()], config=ConfigDict(allow_inf_nan=False))  # type: ignore[arg-type]
    for value in values:
        if isinstance(value, str) and "${" in value:
            continue
        plain = value.text if hasattr(value, "text") else value
        try:
            adapter.validate_python(plain)
        except ValidationError:
            raise ConfigError(
                f"{key}={short(plain, SHOWN)}: not allowed{_nearest(str(plain), _literals(field))}; allowed: {allowed(field)}"
            ) from None


def _explain(error: Any) -> str:
    loc = [str(part) for part in error["loc"]]
    field, names = _locate(loc)
    key = ".".join(p for i, p in enumerate(loc) if i == 0 or not _is_tag(loc, i))
    if error["type"] == "extra_forbidden":
        return f"unknown key '{short(key, SHOWN)}'{_nearest(key, [n for n, _ in _fields(Config, None)])}"
    if error["type"] == "missing":
        return f"key '{key}' is missing"
    allowing = allowed(field) if field else ", ".join(names)
    return f"{key}={short(error.get('input'), SHOWN)}: not allowed; allowed: {allowing}"


def _is_tag(loc: list[str], index: int) -> bool:
    """Whether a part of an error's path is the variant of a union, which pydantic adds: segmenter.classical.work_side."""
    field = Config.model_fields.get(loc[0])
    return index == 1 and field is not None and len(_models(field)) > 1


def _locate(loc: list[str]) -> tuple[FieldInfo | None, list[str]]:
    key = ".".join(p for i, p in enumerate(loc) if i == 0 or not _is_tag(loc, i))
    found = dict(_fields(Config, None))
    return found.get(key), list(found)


def _literals(field: FieldInfo) -> list[str]:
    found: list[str] = []
    for part in (field.annotation, *get_args(field.annotation)):
        found += [str(a) for a in get_args(part) if isinstance(a, str)]
    return found


def allowed(field: FieldInfo) -> str:
    """Type and range of a key's values, for reading: `float >= 0 or null`."""
    literals = list(dict.fromkeys(_literals(field)))
    nullable = type(None) in get_args(field.annotation)
    if literals:
        return " | ".join(literals + ["null"] * nullable)
    parts = [str(getattr(field.annotation, "__name__", field.annotation)).replace("pathlib.", "").replace(" | None", "")]
    for item in field.metadata:
        parts += [f"{sign} {getattr(item, a)}" for a, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")) if hasattr(item, a)]
        pattern = getattr(item, "pattern", None)
        parts += [PATTERNS.get(pattern, f"matching {pattern}")] if pattern else []
    return " ".join(parts) + (" or null" if nullable else "")


def _nearest(word: str, known: Iterable[str]) -> str:
    if len(word) > SHOWN:
        return ""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    if not close:
        close = difflib.get_close_matches(word.split(".")[-1], [k for k in known if "." not in k], n=1, cutoff=0.7)
    return f" (did you mean '{close[0]}'?)" if close else ""
