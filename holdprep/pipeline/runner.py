"""The run: execution of the selected stages in order, with records, gates, and recovery after interruptions."""

import json
import logging
import math
import os
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from holdprep.config.schema import Config
from holdprep.errors import HoldprepError, MissingArtefact
from holdprep.io.atomic import write_bytes_atomic
from holdprep.logs.content import StageOutcome
from holdprep.pipeline import exchange, records
from holdprep.pipeline.plan import announce, plan, refuse
from holdprep.pipeline.stage import Context, Metrics, Result, Stage, Standing
from holdprep.pipeline.state import now, outputs_of, state_of
from holdprep.quality.advice import for_imported
from holdprep.quality.gates import Gate, judge
from holdprep.sequence import Sequence

log = logging.getLogger("holdprep")

RECORDED_PACKAGES = ("torch", "numpy", "scipy", "pycolmap", "opencv-contrib-python-headless", "transformers")


@dataclass
class Outcome:
    """Result of a stage: `status` is done, skipped, kept (foreign outputs) or failed; `seconds` of this run."""

    status: str
    seconds: float
    metrics: Metrics
    gates: list[Gate]
    error: str | None = None


def run(stages: list[Stage], graph: list[Stage], context: Context) -> dict[str, Outcome]:
    """Run `stages` (a part of `graph`, in order); raises the first failure after recording it in metrics.json.

    After a failure only stages that report are run. Raises HoldprepError before anything runs where a user's files would be lost.
    """
    cfg, seq = context.cfg, context.seq
    records.load_hashes(seq)
    recover(graph, seq)
    outcomes: dict[str, Outcome] = {}
    failure: BaseException | None = None
    try:
        for stage in stages:
            if stage.prepare is not None:
                stage.prepare(replace(context, stage=stage.name))
        steps = plan(stages, cfg, seq, context.named)
        refuse(steps, seq)
        line = announce(steps)
        if line is not None:
            log.info("%-12s %s", "plan", line)
        for stage in stages:
            if failure is None or stage.reports:
                failure = _attempt(stage, graph, replace(context, stage=stage.name), outcomes, failure) or failure
    finally:
        records.keep_hashes(seq)
    if failure is not None:
        raise failure
    return outcomes


def recover(graph: list[Stage], seq: Sequence) -> None:
    """Complete all exchanges of a killed run. Raises HoldprepError for an exchange of the sequence if this run is a job."""
    for stage in graph:
        if seq.overlay is not None and exchange.is_pending(seq, stage.name, seq.root):
            raise HoldprepError(f"a run of stage {stage.name} on {seq.name} was interrupted: run stage=all seq={seq.name} first")
        if exchange.is_pending(seq, stage.name):
            with records.lock(seq, stage.name) as marker:
                exchange.finish(seq, stage.name)
                marker.unlink()
            log.info("%-12s the outputs of a killed run were complete and are now installed", stage.name)


def _attempt(
    stage: Stage, graph: list[Stage], context: Context, outcomes: dict[str, Outcome], before: BaseException | None
) -> BaseException | None:
    """Run one stage and write metrics.json; returns its exception, if any. Exceptions that end the process are not caught."""
    started = time.monotonic()
    try:
        outcomes[stage.name] = _run_one(stage, graph, context, has_failed=before is not None)
        if stage.inspect is not None:
            stage.inspect(context)
        context.runlog.stage(_logged(stage, context, outcomes[stage.name]))
        _enforce(stage.name, outcomes[stage.name], context.cfg)
    except Exception as error:
        line = str(error) if isinstance(error, HoldprepError) else f"{type(error).__name__}: {error}"
        known = outcomes.get(stage.name, Outcome("failed", 0.0, {}, []))
        outcomes[stage.name] = replace(known, status="failed", seconds=time.monotonic() - started, error=line)
        if not known.gates:  # else it is logged already, with the gate that has failed
            context.runlog.stage(StageOutcome(stage.name, {}, has_run=False, error=line))
        return error
    finally:
        write_metrics(context.run_dir, context.seq.name, outcomes)
    return None


def _logged(stage: Stage, context: Context, outcome: Outcome) -> StageOutcome:
    """The outcome for loggers, with the curves of the stage's record."""
    has_run = outcome.status == "done"
    curves = (records.read(context.seq, stage.name) or {}).get("curves", {}) if has_run else {}
    return StageOutcome(stage.name, outcome.metrics, curves, outcome.gates, has_run)


def _run_one(stage: Stage, graph: list[Stage], context: Context, has_failed: bool) -> Outcome:
    cfg, seq = context.cfg, context.seq
    if stage.reports or stage.on_request:
        context = replace(context, standing=standing(graph, context))
    (step,) = plan([stage], cfg, seq, context.named)
    if stage.reports and step.action == "skip" and has_failed:
        step = replace(step, action="run", reason="a stage failed")
    if step.action == "refuse":
        refuse([step], seq)
    if step.action == "keep":
        record = _measured(stage, context)
        (context.warn if step.state.differs else context.note)(f"kept: {step.reason} (force=true replaces it)")
        return Outcome("kept", 0.0, record["metrics"], _gates(stage, cfg, record["metrics"], is_foreign=True))
    if step.action == "skip":
        metrics = (records.read(seq, stage.name) or {}).get("metrics", {})
        log.info("%-12s skipped: %s (force=true runs it)", stage.name, step.reason)
        return Outcome("skipped", 0.0, metrics, _gates(stage, cfg, metrics))
    _check_needs(stage, graph, seq)
    if not stage.reports and not stage.on_request:
        context.note(f"runs: {step.reason}")
    try:
        result, metrics, seconds = _work(stage, context)
    except Exception as error:
        _keep_failure(stage, context, error)
        raise
    for line in result.notes:
        context.note(line)
    log.info("%-12s done in %.1f s", stage.name, seconds)
    return Outcome("done", seconds, metrics, _gates(stage, cfg, metrics))


def _gates(stage: Stage, cfg: Config, metrics: Metrics, is_foreign: bool = False) -> list[Gate]:
    """The stage's gates, with advice for another tool's masks and object poses where these are not made here."""
    masks = cfg.segmenter.clicked() is None or (is_foreign and stage.name == "segment")
    poses = cfg.object_pose.is_imported or (is_foreign and stage.name == "object_pose")
    return for_imported(judge(stage.name, metrics, cfg.gates), masks, poses)


def _work(stage: Stage, context: Context) -> tuple[Result, Metrics, float]:
    """Run the stage with a staging folder, and exchange the outputs. The marker remains only if the process is interrupted."""
    cfg, seq = context.cfg, context.seq
    with records.lock(seq, stage.name) as marker:
        exchange.finish(seq, stage.name)
        before = now(stage, cfg, seq)
        started = time.monotonic()
        try:
            result = stage.run(replace(context, seq=exchange.begin(seq, stage.name)))
            seconds = time.monotonic() - started
            metrics = {k: _plain(v) for k, v in result.metrics.items()}
            _exchange(stage, context, before, result, metrics, seconds)
        except HoldprepError:
            exchange.abandon(seq, stage.name)
            marker.unlink()
            raise
        except BaseException:
            if not exchange.is_pending(seq, stage.name):
                exchange.abandon(seq, stage.name)
            raise
        marker.unlink()
    return result, metrics, seconds


def _exchange(stage: Stage, context: Context, before: Mapping[str, Any], result: Result, metrics: Metrics, seconds: float) -> None:
    cfg, seq = context.cfg, context.seq
    made = exchange.staged_artefacts(seq, stage.name)
    kinds = {*stage.outputs, *stage.optional(cfg)}
    folder = exchange.staging(seq, stage.name)
    outputs = {a: records.fingerprint(seq.place(folder, a)) for a in made if a in kinds}
    old = (*(records.read(seq, stage.name) or {"outputs": {}})["outputs"], *outputs_of(stage, cfg, seq), *stage.previews)
    read = {path.resolve() for path in stage.external(cfg, seq).values() if path is not None}
    gone = [a for a in dict.fromkeys(old) if a not in made and seq.path(a).resolve() not in read]
    record = {
        "stage": stage.name,
        **before,
        "outputs": outputs,
        "given": {key: text for key, text in context.given.items() if _is_remembered(key, stage)},
        "own": {key: text for key, text in context.own.items() if _is_remembered(key, stage)},
        "metrics": metrics,
        "curves": {k: [_plain(x) for x in v] for k, v in result.curves.items()},
        "notes": result.notes,
        "seconds": round(seconds, 3),
        "finished": datetime.now().isoformat(timespec="microseconds"),
        "python": platform.python_version(),
        "packages": {p: _installed(p) for p in RECORDED_PACKAGES},
    }
    exchange.commit(seq, stage.name, gone, gone, record)


def _is_remembered(key: str, stage: Stage) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in stage.remembers)


def _keep_failure(stage: Stage, context: Context, error: Exception) -> None:
    """Record the failure of a stage for `stage=status`, until it succeeds."""
    line = str(error) if isinstance(error, HoldprepError) else f"{type(error).__name__}: {error}"
    try:
        records.write(context.seq, stage.name, {"error": line, "finished": datetime.now().isoformat(timespec="seconds")}, "failed.json")
    except OSError as full:
        log.warning("%-12s the failure could not be recorded: %s", stage.name, full)


def _measured(stage: Stage, context: Context) -> dict[str, Any]:
    """Metrics of foreign outputs, computed again when they or their inputs change."""
    cfg, seq = context.cfg, context.seq
    basis = {"outputs": outputs_of(stage, cfg, seq), "inputs": now(stage, cfg, seq)["inputs"]}
    record = records.read(seq, stage.name, "measured.json")
    if record is not None and all(record[key] == value for key, value in basis.items()):
        return record
    result = stage.measure(context) if stage.measure is not None else Result()
    metrics = {k: _plain(v) for k, v in result.metrics.items()}
    curves = {k: [_plain(x) for x in v] for k, v in result.curves.items()}
    notes = [*result.notes, "not made by holdprep; measured unchanged"]
    record = {"stage": stage.name, **basis, "metrics": metrics, "curves": curves, "notes": notes, "seconds": 0.0}
    records.write(seq, stage.name, record, "measured.json")
    return record


def standing(graph: Iterable[Stage], context: Context) -> dict[str, Standing]:
    """The current record of every stage; foreign artefacts are measured, or omitted with a warning."""
    found: dict[str, Standing] = {}
    for stage in graph:
        if stage.reports or stage.on_request:
            continue
        within = replace(context, stage=stage.name)
        state = state_of(stage, context.cfg, context.seq)
        record = records.read(context.seq, stage.name)
        if state.kind == "foreign":
            try:
                found[stage.name] = Standing(_measured(stage, within), True)
            except HoldprepError as error:
                within.warn(f"cannot be measured: {error}")
        elif record is not None and state.kind != "missing":
            found[stage.name] = Standing(record, False)
    return found


def _enforce(name: str, outcome: Outcome, cfg: Config) -> None:
    for gate in outcome.gates:
        if gate.status == "warn":
            log.warning("%-12s %s", name, gate.line())
    failed = [g for g in outcome.gates if g.status == "fail"]
    for gate in failed:
        log.error("%-12s %s", name, gate.line())
    if failed and cfg.on_fail == "stop":
        tried = f" (tried: {outcome.metrics['tried']})" if "tried" in outcome.metrics else ""
        raise HoldprepError(f"{name}: {failed[0].line()}{tried} (on_fail=warn continues)")


def _check_needs(stage: Stage, graph: list[Stage], seq: Sequence) -> None:
    maker = {artefact: s.name for s in graph for artefact in s.outputs}
    for artefact in stage.needs:
        if not seq.has(artefact):
            earlier = maker.get(artefact, "create").replace("align.", "align mode=")
            raise MissingArtefact(
                f"stage {stage.name} needs {seq.path(artefact)}, which does not exist: run stage={earlier} seq={seq.name} first"
            )


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _plain(value: Any) -> Any:
    """The value for JSON: numpy scalars as Python's, NaN and infinity as None."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def outcomes_so_far(run_dir: Path) -> dict[str, dict[str, Any]]:
    """The stages in the run's metrics.json so far: status, seconds, metrics, gates, error."""
    path = run_dir / "metrics.json"
    return json.loads(path.read_text())["stages"] if path.is_file() else {}


def write_metrics(run_dir: Path, name: str, outcomes: Mapping[str, Outcome]) -> None:
    """Write metrics.json of a run on the sequence (or of the command) `name`: result and time of every stage."""
    run_dir.mkdir(parents=True, exist_ok=True)
    tree = {stage: {**asdict(o), "seconds": round(o.seconds, 3)} for stage, o in outcomes.items()}
    content = {"seq": name, "pid": os.getpid(), "stages": tree, "seconds": round(sum(o.seconds for o in outcomes.values()), 3)}
    write_bytes_atomic(run_dir / "metrics.json", json.dumps(content, indent=1, default=str).encode())
