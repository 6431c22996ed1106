"""The verdict on a sequence: trainable or not, the one thing to do, and every problem once, with the frames that it is about."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from holdprep.quality.bounds import Value, missed
from holdprep.quality.gates import Gate, Status, overall
from holdprep.quality.metrics import area_jumps

STANDIN = "the stand-in hand was used, because no MANO files were given"
STANDIN_ADVICE = "get the files from mano.is.tue.mpg.de, set hand_model.path or $MANO_DIR, and run again from stage=register"
HAND_MODEL = ("hand_model", "trainable")  # metrics of the hand model
# end of a metric: end of the curve that shows its frames, and the value there
FRAMES: dict[str, tuple[str, str]] = {
    "valid_pct": ("is_valid", "zero"),
    "detected_pct": ("detected", "zero"),
    "registered_pct": ("registered", "zero"),
    "interpolated_frames": ("registered", "zero"),
    "held_frames": ("registered", "zero"),
    "held_pct": ("registered", "zero"),
    "carried_frames": ("registered", "zero"),
    "frames_with_mask_pct": ("area_px", "zero"),
    "area_jumps": ("area_px", "jump"),
    "reclick_frames": ("reclick", "positive"),
    "contradicted_frames": ("contradicted", "positive"),
    "much_changed_frames": ("much_changed", "positive"),
    "beyond_limits_pct": ("limit_excess_deg", "positive"),
}
GAPS = {"hand_pose": "detected", "register": "is_valid", "object_pose": "registered"}


@dataclass(frozen=True)
class StageReport:
    """One stage of the pipeline: its time in seconds, whether it was skipped as up to date, its metrics and gates.

    `error` is the message of its failure, if any.
    """

    name: str
    seconds: float
    skipped: bool
    metrics: Mapping[str, Value] = field(default_factory=dict)
    gates: list[Gate] = field(default_factory=list)
    error: str | None = None

    @property
    def status(self) -> Status:
        """The worst of its gates; fail after an error."""
        return "fail" if self.error else overall(self.gates)

    @property
    def other_metrics(self) -> dict[str, Value]:
        """The metrics without a gate."""
        judged = {gate.metric for gate in self.gates}
        return {name: value for name, value in self.metrics.items() if name not in judged}


@dataclass(frozen=True)
class Problem:
    """What is wrong, and what to do: `lines` are the stages' measurements of it, `frames` those that it is about, if it is about some."""

    status: Status
    advice: str
    lines: list[str]
    frames: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Verdict:
    """`is_trainable` says whether HOLD should be trained on the sequence; `headline` in words, `todo` is the one thing to do."""

    is_trainable: bool
    headline: str
    todo: str

    @property
    def sentence(self) -> str:
        """Both in one line."""
        return f"{self.headline}: {self.todo}" if self.todo else f"{self.headline}."


def verdict(stages: Sequence[StageReport], found: Sequence[Problem]) -> Verdict:
    """The verdict from the stages and their problems, the worst first."""
    broken = next((stage for stage in stages if stage.error), None)
    failed = [problem for problem in found if problem.status == "fail"]
    if broken is not None:
        return Verdict(False, f"Not trainable: {broken.name} failed", str(broken.error))
    if failed:
        return Verdict(False, f"Not trainable: {failed[0].lines[0]}", failed[0].advice)
    if any(problem.advice == STANDIN_ADVICE for problem in found):
        return Verdict(False, f"Not trainable: {STANDIN}", STANDIN_ADVICE)
    if not any(stage.name == "build" for stage in stages):
        return Verdict(False, "Not trainable yet: nothing has been built", "run stage=all")
    if found:
        count = f"{len(found)} warning{'s' if len(found) > 1 else ''}"
        return Verdict(True, f"Trainable, with {count}", f"first, {found[0].lines[0]}: {found[0].advice}")
    return Verdict(True, "Trainable", "")


def problems(stages: Iterable[StageReport], curves: Mapping[str, np.ndarray]) -> list[Problem]:
    """The missed gates, failures first. Gates with the same advice, in several stages or modes, are one problem.

    `curves` (T,) by `<stage>/<curve>` say in which frames, with the modes of alignment as `align/ho`.
    """
    by_advice: dict[str, list[Gate]] = {}
    for gate in (gate for stage in stages for gate in stage.gates if gate.status != "pass"):
        ending = gate.metric.rpartition(".")[2]
        of_model = ending in HAND_MODEL and gate.value in ("standin", False)
        by_advice.setdefault(STANDIN_ADVICE if of_model else gate.advice, []).append(gate)
    found = [_problem(advice, gates, curves) for advice, gates in by_advice.items()]
    return sorted(found, key=lambda problem: problem.status)  # "fail" sorts before "warn"


def _problem(advice: str, gates: list[Gate], curves: Mapping[str, np.ndarray]) -> Problem:
    worst = overall(gates)
    if advice == STANDIN_ADVICE:
        return Problem(worst, advice, [STANDIN])
    metrics: dict[str, Gate] = {}
    for gate in gates:  # of the modes of alignment the last of the worst is listed
        known = metrics.get(gate.metric)
        if known is None or gate.status <= known.status:  # "fail" sorts before "warn"
            metrics[gate.metric] = gate
    lines = [
        f"{gate.stage}: {gate.metric} is {gate.number}, should be {gate.threshold}"
        for gate in sorted(metrics.values(), key=lambda gate: gate.status)
    ]
    frames = sorted({t for gate in gates for t in frames_of(gate, curves)})
    return Problem(worst, advice, lines, frames)


def frames_of(gate: Gate, curves: Mapping[str, np.ndarray]) -> list[int]:
    """The frames in which a gate's metric is bad; empty where it has no curve."""
    stage, (prefix, _, ending) = gate.stage.replace(".", "/"), gate.metric.rpartition(".")
    own = curves.get(f"{stage}/{gate.metric}")
    if own is not None:
        bound = gate.fail_at if gate.warn_at is None else gate.warn_at
        return [t for t, value in enumerate(own) if np.isfinite(value) and missed(float(value), gate.direction, bound)]
    curve, kind = FRAMES.get(ending, (GAPS.get(gate.stage, ""), "zero") if ending == "longest_gap" else ("", ""))
    values = curves.get(f"{stage}/{prefix}.{curve}" if prefix else f"{stage}/{curve}")
    if not curve or values is None:
        return []
    bad = {"zero": values == 0, "positive": values > 0, "jump": area_jumps(np.nan_to_num(values))}[kind]
    return np.flatnonzero(bad).tolist()


def ranges(frames: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each run of consecutive frames."""
    found: list[tuple[int, int]] = []
    for t in frames:
        if found and t == found[-1][1] + 1:
            found[-1] = (found[-1][0], t)
        else:
            found.append((t, t))
    return found
