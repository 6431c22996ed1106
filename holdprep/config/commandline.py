"""Preprocessing of the command line before Hydra: sequences, queries, plain batches."""

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from holdprep.errors import ConfigError

MULTIRUN = ("-m", "--multirun")
ALL = "all"
MARKS = ("images", "video.mp4", "processed", "holdprep.yaml")  # any of these marks a folder of data_root as a sequence


def overrides_in(arguments: Iterable[str]) -> list[str]:
    """The overrides among the arguments, without those that delete a key."""
    return [a for a in arguments if not a.startswith("-") and "=" in a]


def resolved(arguments: Sequence[str], conf_dir: Path) -> list[str]:
    """The arguments with `seq=all` and `seq=glob(...)` replaced by names in data_root; a batch over `seq` only writes into the sequences.

    Raises ConfigError where no sequence matches, or where several do without -m or a query.
    """
    found = list(arguments)
    parsed = _parsed(found)
    seq = parsed.get("seq")
    if seq is not None:
        names = _named(seq, Path(_value(parsed, "data_root", conf_dir)))
        if names is not None:
            found[found.index(str(seq.input_line))] = f"seq={','.join(names)}"
            seq = _parsed(found)["seq"]
            if len(names) > 1 and not any(flag in found for flag in MULTIRUN) and not is_query(found):
                raise ConfigError(f"seq={parsed['seq'].value()} names {len(names)} sequences: add -m to run them one after another")
    if any(flag in found for flag in MULTIRUN) and "overlay" not in parsed and _is_plain(found):
        found.append("overlay=false")
    return found


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


def _parsed(arguments: Sequence[str]) -> dict[str, Override]:
    try:
        return {o.key_or_group: o for o in OverridesParser.create().parse_overrides(overrides_in(arguments))}
    except HydraException as error:
        raise ConfigError(f"cannot read the command line: {' '.join(str(error).split())}") from None


def _value(parsed: dict[str, Override], key: str, conf_dir: Path) -> Any:
    return parsed[key].value() if key in parsed else OmegaConf.select(OmegaConf.load(conf_dir / "config.yaml"), key)


def _named(seq: Override, data_root: Path) -> list[str] | None:
    """The sequences that match `all` or a glob; None where names are given."""
    value = seq.value()
    if value != ALL and not isinstance(value, Glob):
        return None
    there = sorted(p.name for p in data_root.iterdir() if any((p / m).exists() for m in MARKS)) if data_root.is_dir() else []
    names = value.filter(there) if isinstance(value, Glob) else there
    if not names:
        raise ConfigError(f"{seq.input_line}: no such sequence in {data_root}, which has {', '.join(there) or 'none'}")
    return names


def _is_plain(arguments: Sequence[str]) -> bool:
    """Whether the jobs of a batch differ only in the sequence, each with another one."""
    parsed = _parsed(arguments)
    swept = [key for key, o in parsed.items() if o.is_sweep_override()]
    if any(key == "sweep" or key.startswith("hydra/sweeper") or key.startswith("hydra.sweeper.params") for key in parsed):
        return False
    names = list(parsed["seq"].sweep_string_iterator()) if swept == ["seq"] else []
    return swept in ([], ["seq"]) and len(names) == len(set(names))
