"""What a run was made with, and `+reproduce=<run folder>`, which repeats it and says whether code or inputs differ."""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from holdprep import __version__
from holdprep.config import memory, validation
from holdprep.errors import ConfigError, HoldprepError
from holdprep.io.atomic import write_bytes_atomic
from holdprep.io.bounded import read_json, read_yaml
from holdprep.pipeline.records import fingerprint

KEY, FILE, RESOLVED = "reproduce", "provenance.json", "resolved.yaml"
PACKAGES = ("torch", "numpy", "scipy", "pycolmap", "opencv-contrib-python-headless", "pytorch-lightning")
_APART = ("logger", "force", "overlay", "dry")  # do not change results, or are set by `expanded`


def write(run_dir: Path, inputs: Mapping[str, Path]) -> None:
    """Record code, packages and hashes of the inputs of a run, before it changes any of them."""
    found = {name: {"path": str(path.absolute()), "hash": fingerprint(path)} for name, path in inputs.items()}
    write_bytes_atomic(run_dir / FILE, json.dumps({**_made_with(), "inputs": found}, indent=1).encode())


def _made_with() -> dict[str, Any]:
    packages = {name: _version(name) for name in PACKAGES}
    return {"version": __version__, "code": _code(), "python": platform.python_version(), "packages": packages}


@cache
def _code() -> str:
    """A hash of this package's source files."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def expanded(arguments: Sequence[str], conf_dir: Path) -> tuple[list[str], list[str]]:
    """The arguments with `+reproduce=<folder>` replaced by the run's own configuration, and lines on what differs since.

    The repeated run writes beside the sequence and runs every stage (overlay=true, force=true); arguments after it have priority.
    Raises ConfigError where the folder holds no run.
    """
    own = [a for a in arguments if a.lstrip("+").partition("=")[0] == KEY]
    if not own:
        return list(arguments), []
    folder = Path(own[0].partition("=")[2]).expanduser()
    try:
        resolved, made = read_yaml(folder / RESOLVED), read_json(folder / FILE)
        choices = yaml.safe_load((folder / ".hydra" / "hydra.yaml").read_text())["hydra"]["runtime"]["choices"]
        lines = [*_differences(made), *_changed_inputs(made["inputs"])]
    except (HoldprepError, OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(f"{KEY}={folder}: no folder of a run that can be repeated ({' '.join(str(error).split())})") from None
    options = [f"{group}={option}" for group, option in choices.items() if group in validation.groups(conf_dir) and option]
    leaves = memory.as_overrides(resolved, [g for g in _APART], conf_dir)
    rest = [a for a in arguments if a not in own]
    given = {a.partition("=")[0] for a in rest}
    found = [o for o in [*options, *leaves, "overlay=true", "force=true", "logger=none"] if o.partition("=")[0] not in given]
    return [*dict.fromkeys(found), *rest], lines or ["code, packages and inputs are those of the run"]


def _differences(made: Mapping[str, Any]) -> Iterable[str]:
    now = _made_with()
    if made["code"] != now["code"]:
        yield f"the code differs from that of the run (version {made['version']}, now {now['version']})"
    if made["python"] != now["python"]:
        yield f"Python {now['python']}, the run had {made['python']}"
    for name, version in made["packages"].items():
        if now["packages"].get(name) != version:
            yield f"{name} {now['packages'].get(name)}, the run had {version}"


def _changed_inputs(inputs: Mapping[str, Mapping[str, str]]) -> Iterable[str]:
    for name, one in inputs.items():
        path = Path(one["path"])
        found = fingerprint(path)
        if found != one["hash"]:
            yield f"input {name} {'is gone' if found is None else 'differs'}: {path}"
