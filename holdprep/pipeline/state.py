"""State of a stage's artefacts: fresh, stale, missing, foreign, half-written, or being written by another process (without previews).

Fresh: outputs, inputs, settings and version are as recorded. Stale: inputs, settings or version have changed. Foreign: an output
was not made by holdprep, or was changed. Half-written: the last run was interrupted; its outputs are still those of the previous
run.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from holdprep import __version__
from holdprep.backend import NAMED
from holdprep.config.schema import Config
from holdprep.pipeline import exchange, records
from holdprep.pipeline.stage import Stage
from holdprep.sequence import ARTEFACTS, Sequence

Kind = Literal["fresh", "stale", "missing", "foreign", "half-written", "running"]
_SHOWN = 3  # differences in a line
_EXTERNAL = "external."


@dataclass(frozen=True)
class State:
    """State of a stage with its `reason`.

    `differs` lists the changes since the record, empty if there are none; `loses` are foreign artefacts that a run would replace.
    """

    kind: Kind
    reason: str
    differs: str = ""
    loses: tuple[str, ...] = ()


def state_of(stage: Stage, cfg: Config, seq: Sequence) -> State:
    """The state of a stage's artefacts, for these settings."""
    running = records.is_running(seq, stage.name)
    if running:
        return State("running", "another process is running it")
    if exchange.is_pending(seq, stage.name):
        return State("half-written", "its last run was interrupted while its outputs were exchanged")
    found = _settled(stage, cfg, seq)
    if running is False and found.kind != "foreign":  # foreign outputs are unchanged
        return State("half-written", "its last run was interrupted", found.differs, found.loses)
    return found


def _settled(stage: Stage, cfg: Config, seq: Sequence) -> State:
    """The state of a stage that is not running."""
    record, found = records.read(seq, stage.name), outputs_of(stage, cfg, seq)
    lacking = [a for a in stage.outputs if a not in found]
    if record is None:
        if lacking:
            return State("missing", f"{_name(lacking[0])} does not exist" if found else "it has not run", loses=tuple(found))
        return State("foreign", "its outputs exist and were not made by holdprep")
    known = {*stage.outputs, *stage.optional(cfg)}
    made = {a: h for a, h in record["outputs"].items() if a in known or record["settings"] is not None}  # older records contain previews
    differs = "; ".join(differences(record, now(stage, cfg, seq)))
    changed = tuple(a for a in found if a in made and found[a] != made[a])
    extra = tuple(a for a in found if a not in made)
    if changed and not lacking:
        return State("foreign", f"{_name(changed[0])} was changed by hand or by another program", differs)
    gone = [a for a in (*lacking, *made) if not seq.has(a)]
    if gone:
        return State("missing", f"{_name(gone[0])} does not exist", differs, (*changed, *extra))
    if differs:
        return State("stale", differs, differs, extra)
    if extra:
        return State("foreign", f"{_name(extra[0])} was not made by holdprep")
    return State("fresh", "nothing has changed")


def outputs_of(stage: Stage, cfg: Config, seq: Sequence) -> dict[str, str]:
    """Hashes of existing outputs by artefact; files that are inputs under these settings are not outputs."""
    read = {path.resolve() for path in stage.external(cfg, seq).values() if path is not None}
    names = [a for a in (*stage.outputs, *stage.optional(cfg)) if seq.has(a) and seq.path(a).resolve() not in read]
    return {a: h for a in names if (h := records.fingerprint(seq.path(a))) is not None}


def now(stage: Stage, cfg: Config, seq: Sequence) -> dict[str, Any]:
    """Current hashes of inputs, values of settings, and version, which determine whether a stage is up to date."""
    inputs = {a: records.fingerprint(seq.path(a)) for a in (*stage.needs, *stage.uses)}
    external = {_EXTERNAL + name: records.fingerprint(path) for name, path in stage.external(cfg, seq).items() if path is not None}
    return {"inputs": inputs | external, "settings": json.loads(json.dumps(stage.settings(cfg), default=str)), "version": __version__}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Changes between a record and `now`, as text; at most a few, then their number."""
    if before.get("settings") is None:
        return ["its record is of an older holdprep"]
    found = [*_changed_inputs(before.get("inputs", {}), after["inputs"]), *_changed_values(before.get("settings"), after["settings"], "")]
    if before.get("version") != after["version"]:
        found.append(f"holdprep's version changed ({before.get('version')} -> {after['version']})")
    return found if len(found) <= _SHOWN else [*found[:_SHOWN], f"and {len(found) - _SHOWN} more"]


def _changed_inputs(before: Mapping[str, str | None], after: Mapping[str, str | None]) -> Iterator[str]:
    for name, value in after.items():
        old = before.get(name)
        if old == value or (value is None and name.startswith(_EXTERNAL) and not name.startswith(_EXTERNAL + NAMED)):
            continue  # missing external files are not compared
        what = name.removeprefix(_EXTERNAL).replace("_", " ") if name.startswith(_EXTERNAL) else _name(name)
        yield f"{what} {'is gone' if value is None else 'is new' if old is None else 'has changed'}"


def _changed_values(before: Any, after: Any, key: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        tag = next((t for t in ("name", "method") if t in after), None)
        if tag is not None and before.get(tag) != after[tag]:  # another option has other keys
            yield f"{key} changed ({before.get(tag)} -> {after[tag]})"
            return
        for name in dict.fromkeys((*before, *after)):
            yield from _changed_values(before.get(name), after.get(name), f"{key}.{name}" if key else name)
    elif before != after:
        yield f"{key} changed ({_show(before)} -> {_show(after)})"


def _show(value: Any) -> str:
    return json.dumps(value) if value is None or isinstance(value, dict | list | bool) else str(value)


def _name(artefact: str) -> str:
    return ARTEFACTS[artefact]
