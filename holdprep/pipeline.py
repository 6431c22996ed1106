"""The stage graph: what each stage needs and makes, what is up to date, and the record of every run.

A stage is skipped when its inputs, its part of the configuration and the version are those of its record and its outputs are as
it left them. Outputs that holdprep did not write (HOLD's own scripts, a hand-made file) are kept until `force=true`.
"""

import fcntl
import hashlib
import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from holdprep import __version__, safeio
from holdprep.config import Config
from holdprep.errors import HoldprepError, MissingArtefact
from holdprep.quality.gates import Gate, judge
from holdprep.runlog import RunLog
from holdprep.sequence import Sequence

log = logging.getLogger("holdprep")

Metrics = dict[str, float | int | str | bool]
RECORDED_PACKAGES = ("torch", "numpy", "scipy", "pycolmap", "opencv-contrib-python-headless", "smplx", "transformers")


@dataclass(frozen=True)
class Context:
    """What a stage is given."""

    cfg: Config
    seq: Sequence
    runlog: RunLog
    run_dir: Path
    stage: str

    def note(self, text: str) -> None:
        """One line to screen and log, under the stage's name."""
        log.info("%-12s %s", self.stage, text)

    def warn(self, text: str) -> None:
        """One line that the user should read."""
        log.warning("%-12s %s", self.stage, text)

    def log_losses(self, step: int, losses: Mapping[str, float]) -> None:
        """One iteration's loss terms to the run's logger."""
        self.runlog.losses(self.stage, step, losses)


@dataclass
class Result:
    """What a stage reports: numbers for gates and loggers, one value a frame for the report's curves, lines for the reader."""

    metrics: Metrics = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Stage:
    """A node of the graph. `needs` must be there, `uses` are read if they are; `config` names the nodes that change its result.

    `files` names inputs outside the sequence folder (a video, a tracker's folder, MANO's files). `prepare` is what the user does before
    it is known whether the stage must run (clicks, where they are asked for). `makes` are the outputs whose
    presence means that the stage has run; `may_make` are kept track of where they exist.
    """

    name: str
    run: Callable[[Context], Result]
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    may_make: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    files: Callable[[Config, Sequence], dict[str, Path | None]] = lambda cfg, seq: {}
    prepare: Callable[[Context], None] | None = None
    inspect: Callable[[Context], None] | None = None
    always: bool = False


@dataclass
class Outcome:
    """How a stage ended: `status` is done, skipped, kept (made by others) or failed."""

    status: str
    seconds: float
    metrics: Metrics
    gates: list[Gate]
    error: str | None = None


def run(stages: list[Stage], graph: list[Stage], cfg: Config, seq: Sequence, runlog: RunLog, run_dir: Path) -> dict[str, Outcome]:
    """Run `stages` (a part of `graph`, in order); raises the first failure after recording it in metrics.json.

    What follows a failure does not run, except stages that always do: a report of what went wrong is worth most.
    """
    outcomes: dict[str, Outcome] = {}
    failure: Exception | None = None
    for stage in stages:
        if failure is not None and not stage.always:
            continue
        context = Context(cfg, seq, runlog, run_dir, stage.name)
        started = time.monotonic()
        try:
            outcomes[stage.name] = _run_one(stage, graph, context)
            if stage.inspect is not None:
                stage.inspect(context)
            runlog.summary(stage.name, outcomes[stage.name].metrics)
            _enforce(stage.name, outcomes[stage.name], cfg)
        except Exception as error:
            line = str(error) if isinstance(error, HoldprepError) else f"{type(error).__name__}: {error}"
            known = outcomes.get(stage.name, Outcome("failed", 0.0, {}, []))
            outcomes[stage.name] = replace(known, status="failed", seconds=time.monotonic() - started, error=line)
            failure = failure or error
        finally:
            _write_metrics(run_dir, seq, outcomes)
    if failure is not None:
        raise failure
    return outcomes


def state(stage: Stage, cfg: Config, seq: Sequence) -> tuple[str, str]:
    """Whether a stage must run, and why: ('run' | 'fresh' | 'kept', reason)."""
    record = seq.read_record(stage.name, own=True)
    missing = [a for a in stage.makes if not seq.made(a)]
    if stage.always:
        return "run", "always"
    if seq.running_marker(stage.name).exists():
        return "run", "it was interrupted"
    if missing:
        return "run", f"{missing[0]} is not there" if record else "it has not run"
    if record is None:
        return "kept", "its outputs are there and were not made by holdprep"
    changed = [a for a, h in record.get("outputs", {}).items() if fingerprint(seq.path(a)) != h]
    if changed:
        return "kept", f"{changed[0]} was changed by hand or by another program since"
    now = {"inputs": _inputs(stage, cfg, seq), "config": _config(stage, cfg), "version": __version__}
    for part, value in now.items():
        before = record.get(part)
        if part == "inputs" and isinstance(before, dict):
            before = {k: v for k, v in before.items() if k in value}  # a source that is gone is nothing to compare with
        if before != value:
            return "run", f"changed: {_first_difference(before, value, part)}"
    return "fresh", "nothing has changed"


@lru_cache(maxsize=100_000)
def _hash_file(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def fingerprint(path: Path | None) -> str | None:
    """Hash of a file's content, or of a folder's names and contents; None where there is nothing."""
    if path is None or not path.exists():
        return None
    if path.is_file():
        stat = path.stat()
        return _hash_file(path, stat.st_size, stat.st_mtime_ns)
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    lines = [f"{p.relative_to(path)} {fingerprint(p)}" for p in files]
    return hashlib.blake2b("\n".join(lines).encode()).hexdigest()[:32] if lines else None


def _run_one(stage: Stage, graph: list[Stage], context: Context) -> Outcome:
    cfg, seq = context.cfg, context.seq
    if stage.prepare is not None:
        stage.prepare(context)
    todo, reason = state(stage, cfg, seq)
    record = seq.read_record(stage.name, own=True) or {}
    if todo != "run" and not cfg.force:
        log.info("%-12s skipped: %s (force=true runs it)", stage.name, reason)
        metrics = record.get("metrics", {}) if todo == "fresh" else {}
        return Outcome("skipped" if todo == "fresh" else "kept", record.get("seconds", 0.0), metrics, judge(stage.name, metrics, cfg.gates))
    _check_needs(stage, graph, seq)
    with _locked(stage.name, seq):
        inputs = _inputs(stage, cfg, seq)
        started = time.monotonic()
        result = stage.run(context)
        seconds = time.monotonic() - started
        metrics = {k: _plain(v) for k, v in result.metrics.items()}
        seq.write_record(stage.name, _record(stage, context, inputs, metrics, result, seconds))
    for line in result.notes:
        context.note(line)
    log.info("%-12s done in %.1f s", stage.name, seconds)
    return Outcome("done", seconds, metrics, judge(stage.name, metrics, cfg.gates))


def _enforce(name: str, outcome: Outcome, cfg: Config) -> None:
    for gate in outcome.gates:
        if gate.status == "warn":
            log.warning("%-12s %s", name, gate.line())
    failed = [g for g in outcome.gates if g.status == "fail"]
    for gate in failed:
        log.error("%-12s %s", name, gate.line())
    if failed and cfg.on_fail == "stop":
        tried = f" (tried: {outcome.metrics['tried']})" if "tried" in outcome.metrics else ""
        raise HoldprepError(f"{name}: {failed[0].line()}{tried} (on_fail=warn goes on all the same)")


def _check_needs(stage: Stage, graph: list[Stage], seq: Sequence) -> None:
    maker = {artefact: s.name for s in graph for artefact in s.makes}
    for artefact in stage.needs:
        if not seq.has(artefact):
            earlier = maker.get(artefact, "create").replace("align.", "align mode=")
            raise MissingArtefact(
                f"stage {stage.name} needs {seq.path(artefact)}, which is not there: run stage={earlier} seq={seq.name} first"
            )


@contextmanager
def _locked(stage: str, seq: Sequence) -> Iterator[None]:
    """Keep a second process off this stage, and mark it as running so that a killed run is seen the next time."""
    marker = seq.running_marker(stage)
    with marker.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise HoldprepError(f"another process is running stage {stage} on {seq.name} ({marker}): wait for it") from None
        try:
            yield
        finally:  # a failure leaves nothing half done, only a kill does
            marker.unlink()


def _inputs(stage: Stage, cfg: Config, seq: Sequence) -> dict[str, str | None]:
    found = {a: fingerprint(seq.path(a)) for a in (*stage.needs, *stage.uses)}
    return found | {name: fingerprint(path) for name, path in stage.files(cfg, seq).items() if path is not None}


def _config(stage: Stage, cfg: Config) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(cfg.model_dump_json())
    return {key: tree[key] for key in stage.config}


def _record(
    stage: Stage, context: Context, inputs: dict[str, str | None], metrics: Metrics, result: Result, seconds: float
) -> dict[str, Any]:
    outputs = {a: fingerprint(context.seq.path(a)) for a in (*stage.makes, *stage.may_make) if context.seq.has(a)}
    return {
        "stage": stage.name,
        "version": __version__,
        "inputs": inputs,
        "config": _config(stage, context.cfg),
        "outputs": outputs,
        "metrics": metrics,
        "curves": {k: [_plain(x) for x in v] for k, v in result.curves.items()},
        "notes": result.notes,
        "seconds": round(seconds, 3),
        "finished": datetime.now().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {p: _version(p) for p in RECORDED_PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _plain(value: Any) -> Any:
    """A JSON value: numpy scalars to Python's, NaN and infinity to None."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _first_difference(before: Any, now: Any, name: str) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in now:
            if before.get(key) != now[key]:
                return _first_difference(before.get(key), now[key], f"{name}.{key}")
        return name
    return f"{name} ({before} -> {now})" if not name.startswith("inputs") else name


def outcomes_so_far(run_dir: Path) -> dict[str, dict[str, Any]]:
    """The stages that this run has come to, as its metrics.json has them: status, seconds, metrics, gates, error."""
    path = run_dir / "metrics.json"
    return json.loads(path.read_text())["stages"] if path.is_file() else {}


def _write_metrics(run_dir: Path, seq: Sequence, outcomes: dict[str, Outcome]) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    tree = {name: {**asdict(o), "seconds": round(o.seconds, 3)} for name, o in outcomes.items()}
    content = {"seq": seq.name, "pid": os.getpid(), "stages": tree, "seconds": round(sum(o.seconds for o in outcomes.values()), 3)}
    safeio.write_bytes_atomic(run_dir / "metrics.json", json.dumps(content, indent=1, default=str).encode())
