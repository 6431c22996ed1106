"""The plan of a run: what it will do and why, for the runner, `dry=true` and `stage=status`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from holdprep.config.schema import Config
from holdprep.errors import HoldprepError
from holdprep.pipeline import records
from holdprep.pipeline.stage import Stage
from holdprep.pipeline.state import State, state_of
from holdprep.quality.gates import Gate, judge
from holdprep.sequence import ARTEFACTS
from holdprep.sequence import Sequence as Sequence_

Action = Literal["run", "skip", "keep", "refuse"]


@dataclass(frozen=True)
class Step:
    """The action of a run for one stage. `again`: existing outputs are replaced."""

    stage: Stage
    state: State
    action: Action
    reason: str
    again: bool = False


def plan(stages: Iterable[Stage], cfg: Config, seq: Sequence_, named: Iterable[str] = ()) -> list[Step]:
    """One step per stage, in order; stages that depend on a stage that runs will run too. `named` are the keys of this command line."""
    steps: list[Step] = []
    remade: dict[str, str] = {}  # artefact -> stage that will write it
    for stage in stages:
        step = _step(stage, cfg, seq, remade, named)
        steps.append(step)
        if step.action == "run":
            remade |= dict.fromkeys((*stage.outputs, *stage.optional(cfg)), stage.name)
    return steps


def _step(stage: Stage, cfg: Config, seq: Sequence_, remade: dict[str, str], named: Iterable[str]) -> Step:
    if stage.on_request:
        return Step(stage, State("missing", "requested"), "run", "requested")
    state = state_of(stage, cfg, seq)
    again = state.kind != "missing" and not stage.reports
    if state.kind == "running":
        return Step(stage, state, "refuse", state.reason)
    if stage.reports and state.kind != "fresh":  # a report may always be replaced
        return Step(stage, state, "run", state.reason)
    if cfg.force:
        return Step(stage, state, "run", f"force=true ({state.reason})", again)
    if state.kind == "foreign":
        return _step_of_foreign(stage, state, named)
    if state.kind != "fresh" and state.loses:
        lost = f"{ARTEFACTS[state.loses[0]]}, which holdprep did not make"
        instead = f", {stage.importer} reads it" if stage.importer else ""
        return Step(stage, state, "refuse", f"{state.reason}: a run would replace {lost}: force=true does{instead}")
    if state.kind != "fresh":
        return Step(stage, state, "run", state.reason, again)
    after = next((remade[a] for a in (*stage.needs, *stage.uses) if a in remade), None)
    if after is not None:
        return Step(stage, state, "run", f"follows {after}", again)
    if stage.reports and remade:
        return Step(stage, state, "run", "other stages run")
    return Step(stage, state, "skip", state.reason)


def _step_of_foreign(stage: Stage, state: State, named: Iterable[str]) -> Step:
    asked = sorted(key for key in named if state.differs and _belongs(key, stage.remembers))
    if asked:
        return Step(stage, state, "refuse", f"{state.reason}, and {', '.join(asked)} would replace it: force=true does")
    return Step(stage, state, "keep", state.reason + (f"; not used: {state.differs}" if state.differs else ""))


def _belongs(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def refuse(steps: Iterable[Step], seq: Sequence_) -> None:
    """Raise HoldprepError, before anything runs, where a user's files would be lost or another process is running."""
    for step in steps:
        if step.action == "refuse":
            raise HoldprepError(f"{step.stage.name}: {step.reason} (sequence {seq.name})")


def announce(steps: Sequence[Step]) -> str | None:
    """One line on the stages that run again, and why; None where nothing is replaced."""
    again = [step for step in steps if step.again and step.action == "run"]
    if not again:
        return None
    causes = [step for step in again if not step.reason.startswith("follows ")]
    following = [step.stage.name for step in again if step not in causes]
    reasons = "; ".join(f"{step.stage.name} ({step.reason})" for step in causes)
    return f"runs again: {reasons}" + (f"; then {', '.join(following)}" if following else "")


def verdict(stage: Stage, cfg: Config, seq: Sequence_, state: State) -> str:
    """pass, warn, fail, or `failed` with the last error message; empty if unknown."""
    failure = records.read(seq, stage.name, "failed.json")
    if failure is not None:
        return f"failed: {failure['error']}"
    record = records.read(seq, stage.name, "measured.json" if state.kind == "foreign" else "json")
    if record is None or state.kind == "missing":
        return ""
    gates = judge(stage.name, record["metrics"], cfg.gates)
    worst = [g for s in ("fail", "warn") for g in gates if g.status == s][:1]
    return f"{worst[0].status}: {_short(worst[0])}" if worst else "pass"


def _short(gate: Gate) -> str:
    return f"{gate.metric} {gate.number}"
