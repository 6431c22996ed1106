"""Preprocessing of the command line before Hydra: names as typed, folders of options, sequences, queries, plain batches."""

import argparse
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf

from holdprep.config import searchpath
from holdprep.config.literal import as_typed, literal, quoted
from holdprep.errors import ConfigError

HYDRAS_OWN = ("-sc", "--shell-completion", "--hydra-help", "--version", "--info", "-i", "--experimental-rerun")
CONFIG_DIR = ("--config-dir", "-cd")
MULTIRUN = ("-m", "--multirun")
ALL, LIST = "all", ".txt"
SHOWN = 20  # names in a message
MARKS = ("images", "video.mp4", "processed", "holdprep.yaml")  # any of these marks a folder of data_root as a sequence


def overrides_in(arguments: Iterable[str]) -> list[str]:
    """The overrides among the arguments, without those that delete a key."""
    return [a for a in split(arguments)[1] if not a.startswith("~") and "=" in a]


def split(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags, each with its value, and the overrides among the arguments."""
    with_value = {name for action in get_args_parser()._actions if _takes_value(action) for name in action.option_strings}
    flags, overrides, rest = list[str](), list[str](), list(arguments)
    while rest:
        first = rest.pop(0)
        if not first.startswith("-"):
            overrides.append(first)
            continue
        flags.append(first)
        if first in with_value and rest:
            flags.append(rest.pop(0))
    return flags, overrides


def _takes_value(action: argparse.Action) -> bool:
    return action.nargs is None and bool(action.option_strings)


def is_hydras(arguments: Sequence[str]) -> bool:
    """Whether Hydra itself answers: shell completion, its own help, its version."""
    return any(flag in HYDRAS_OWN or flag.startswith("--experimental-rerun=") for flag in split(arguments)[0])


def resolved(arguments: Sequence[str], conf_dir: Path) -> list[str]:
    """The arguments as Hydra reads them: flags first, names as typed (`literal`), --config-dir as hydra.searchpath.

    `seq=all`, `seq=glob(...)` and `seq=<file>.txt` are replaced by names; a batch over `seq` only writes into the sequences.
    Raises ConfigError where no sequence matches, or where several do without -m or a query.
    """
    flags, given = split(arguments)
    odd = next((a for a in given if "=" not in a and not a.startswith("~")), None)
    if odd is not None:
        raise ConfigError(
            f"{odd} is no key=value: a name with blanks needs the shell's quotes, such as video='my {odd}'; --help lists all keys"
        )
    is_batch = any(flag in flags for flag in MULTIRUN)
    query = is_query(given)
    found = _with_config_dir(flags, [as_typed(a, is_batch or query) for a in given])
    parsed = _parsed(found)
    seq = parsed.get("seq")
    if seq is not None:
        names = _named(seq, Path(_value(parsed, "data_root", conf_dir)))
        if names is not None:
            found[found.index(str(seq.input_line))] = f"seq={','.join(literal(name) for name in names)}"
            seq = _parsed(found)["seq"]
        several = list(seq.sweep_string_iterator()) if seq.is_sweep_override() else []
        if len(several) > 1 and parsed.keys() >= {"stage"} and str(parsed["stage"].value()) == "view" and not is_batch:
            found[found.index(str(seq.input_line))] = f"seq={several[0]}"
            return [*flags, *found, f"view.also=[{','.join(several[1:])}]"]
        if len(several) > 1 and not is_batch and not query:
            raise ConfigError(f"{parsed['seq'].input_line} names {len(several)} sequences: add -m to run them one after another")
    if is_batch and "overlay" not in parsed and _is_plain(found):
        found.append("overlay=false")
    return [*flags, *found]


def _with_config_dir(flags: list[str], overrides: list[str]) -> list[str]:
    """The overrides with the folder of --config-dir, which is taken from `flags`, in front of those of hydra.searchpath.

    As an override it also reaches what is composed later: a sequence's own settings, jobs of a sweep.
    """
    folders = []
    for name in CONFIG_DIR:
        for flag in [f for f in flags if f == name or f.startswith(f"{name}=")]:
            at = flags.index(flag)
            name_of = flag.partition("=")[2] if "=" in flag else (flags.pop(at + 1) if at + 1 < len(flags) else "")
            flags.pop(at)
            folders.append(Path(name_of).expanduser())
    if not folders:
        return overrides
    missing = next((folder for folder in folders if not folder.is_dir()), None)
    if missing is not None:
        raise ConfigError(f"--config-dir={missing} is not a folder: give a folder of groups, such as <folder>/experiment/mine.yaml")
    before = _parsed([o for o in overrides if o.startswith(f"{searchpath.KEY}=")]).get(searchpath.KEY)
    value = None if before is None else before.value()
    values = [str(v) for v in value] if isinstance(value, list) else []
    entries = ",".join(quoted(v) for v in [*(f"file://{folder.absolute()}" for folder in folders), *values])
    return [*(o for o in overrides if not o.startswith(f"{searchpath.KEY}=")), f"{searchpath.KEY}=[{entries}]"]


def is_query(arguments: Sequence[str]) -> bool:
    """Whether the command only shows the state or the plan, and runs nothing."""
    values = {a.partition("=")[0].lstrip("+"): a.partition("=")[2].lower() for a in overrides_in(arguments)}
    return values.get("stage") == "status" or values.get("dry") in ("true", "yes", "on", "1")


def jobs(arguments: Sequence[str]) -> list[list[str]]:
    """The overrides of each job of the arguments: one per combination of swept values."""
    choices: list[list[str]] = []
    for argument in overrides_in(arguments):
        (override,) = OverridesParser.create().parse_overrides([argument])
        key = override.get_key_element()
        choices.append([f"{key}={v}" for v in override.sweep_string_iterator()] if override.is_sweep_override() else [argument])
    return [list(job) for job in product(*choices)]


def searched(arguments: Sequence[str], conf_dir: Path) -> list[Path]:
    """The folders of options for these arguments."""
    return [conf_dir, *searchpath.added(_parsed(arguments).values())]


def _parsed(arguments: Sequence[str]) -> dict[str, Override]:
    try:
        return {o.key_or_group: o for o in OverridesParser.create().parse_overrides(overrides_in(arguments))}
    except HydraException as error:
        raise ConfigError(f"cannot read the command line: {' '.join(str(error).split())}") from None


def _value(parsed: dict[str, Override], key: str, conf_dir: Path) -> Any:
    return parsed[key].value() if key in parsed else OmegaConf.select(OmegaConf.load(conf_dir / "config.yaml"), key)


def _named(seq: Override, data_root: Path) -> list[str] | None:
    """The sequences that match `all` or a glob, or are listed in a text file; None where names are given."""
    value = seq.value()
    if isinstance(value, str) and value.endswith(LIST) and not (data_root / value).is_dir():
        return _listed(Path(value).expanduser())
    if value != ALL and not isinstance(value, Glob):
        return None
    there = sorted(p.name for p in data_root.iterdir() if any((p / m).exists() for m in MARKS)) if data_root.is_dir() else []
    names = value.filter(there) if isinstance(value, Glob) else there
    if not names:
        shown = ", ".join(there[:SHOWN]) + (f" and {len(there) - SHOWN} more" if len(there) > SHOWN else "")
        raise ConfigError(f"{seq.input_line}: no such sequence in {data_root}, which has {shown or 'none'}")
    return names


def _listed(path: Path) -> list[str]:
    """The names in a text file, one a line, each once; what follows a # is a remark."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"seq={path}: cannot be read as a text file of sequences, one name a line ({type(error).__name__})") from None
    names = list(dict.fromkeys(name for line in lines if (name := line.partition("#")[0].strip())))
    if not names:
        raise ConfigError(f"seq={path}: names no sequence: one name a line is needed")
    return names


def batch_over(arguments: Sequence[str], conf_dir: Path) -> tuple[list[str], Path] | None:
    """Names of the sequences of a batch that prepares them, and data_root; None for other commands."""
    parsed = _parsed(arguments)
    seq, overlay = parsed.get("seq"), parsed.get("overlay")
    if seq is None or overlay is None or overlay.value() is not False or not _is_plain(arguments):
        return None
    if not any(flag in MULTIRUN for flag in split(arguments)[0]):
        return None
    values = list(seq.sweep_iterator()) if seq.is_sweep_override() else [seq.value()]
    names = [str(v.text if isinstance(v, QuotedString) else v) for v in values]
    return names, Path(_value(parsed, "data_root", conf_dir))


def with_sequences(arguments: Sequence[str], names: Iterable[str]) -> list[str]:
    """The arguments with other names of sequences."""
    given = f"seq={','.join(literal(name) for name in names)}"
    return [given if a.partition("=")[0] == "seq" else a for a in arguments]


def _is_plain(arguments: Sequence[str]) -> bool:
    """Whether the jobs of a batch differ only in the sequence, each with another one."""
    parsed = _parsed(arguments)
    swept = [key for key, o in parsed.items() if o.is_sweep_override()]
    if any(key == "sweep" or key.startswith("hydra/sweeper") or key.startswith("hydra.sweeper.params") for key in parsed):
        return False
    names = list(parsed["seq"].sweep_string_iterator()) if swept == ["seq"] else []
    return swept in ([], ["seq"]) and len(names) == len(set(names))
