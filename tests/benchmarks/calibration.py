"""Scale and contact on rendered sequences whose hands the hand model cannot represent, with structure from motion on the pictures.

As a command, `python -m tests.benchmarks --calibration`. Every sequence has its own hand, object, grasp, camera and motion. It is aligned
three times: from exact keypoints, from the default tracker with the hand's true length, and from the default tracker alone.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product, repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import USUAL_FOCAL, project
from holdprep.hand.model import load_hand_model
from holdprep.hand.targets import lengths_m
from holdprep.quality.gates import judge
from holdprep.quality.truth import GroundTruth, load_truth
from holdprep.sequence import Sequence
from holdprep.stages.create import write_rendered
from holdprep.synth.film import Shot
from holdprep.synth.motion import Grasp
from holdprep.synth.scene import Filming, make_scene
from tests.benchmarks.measure import Row, row, worst
from tests.benchmarks.other_hands import other_hands
from tests.running import run

FRAMES = 60
OBJECTS, GRASPS = ("can", "box", "bottle", "mug"), ("rigid", "regrasp", "in_hand")
GIVEN = ("on_fail=warn", "source=synthetic", "segmenter=truth", "object_pose=sift", "align=lm")
HAND_INPUTS = ("exact", "length", "default")
FIGURES = ("size_error_pct", "scale_error_pct", "mrrpe_mm", "mpjpe_mm")


@dataclass(frozen=True)
class Sample:
    """One rendered sequence: `hand` of `other_hands`, `object` in a `grasp`, and how it is filmed."""

    name: str
    hand: str
    object: str
    grasp: Grasp
    seed: int
    filming: Filming


def samples(rounds: int = 5, seed: int = 500) -> list[Sample]:
    """Every object in every grasp, `rounds` times; hands in turn; camera, distance and rotation drawn at random."""
    rng = np.random.default_rng(seed)
    names = sorted(other_hands())
    found = []
    for k, (_, thing, grasp) in enumerate(product(range(rounds), OBJECTS, GRASPS)):
        filming = Filming(
            focal_px=USUAL_FOCAL * 640 * float(rng.uniform(0.85, 1.2)),
            degrees=float(rng.uniform(120, 300)),
            depth_m=float(rng.uniform(0.3, 0.5)),
            blur=float(rng.uniform(0, 0.5)),
        )
        hand = names[(5 * k + k // len(names)) % len(names)]
        found.append(Sample(f"{k:02d}_{thing}_{grasp}_{hand}", hand, thing, grasp, seed + k, filming))  # type: ignore[arg-type]
    return found


def prepare(sample: Sample, root: Path, painted: Callable[[GroundTruth, int, Shot], Shot] | None = None) -> Sequence:
    """The sequence with its masks and object poses, and exact keypoints beside it; raises HoldprepError where SfM refuses it.

    `painted` changes the shot of each frame.
    """
    seq, hand = Sequence(root, sample.name), other_hands()[sample.hand]
    truth, shots = make_scene(
        sample.object, sample.grasp, ("right",), FRAMES, filming=sample.filming, seed=sample.seed, hands={"right": hand}
    )
    write_rendered(seq, truth, shots if painted is None else (painted(truth, t, shot) for t, shot in enumerate(shots)))
    joints_m = truth.hands["right"].joints_m
    assert joints_m is not None
    exact_keypoints(root, sample).parent.mkdir(exist_ok=True)
    np.savez(
        exact_keypoints(root, sample), **{"names": np.array(truth.names), "j2d.right": project(joints_m, truth.K), "j3d.right": joints_m}
    )
    for stage in ("segment", "object_pose"):
        run(root, root / "out" / sample.name, f"stage={stage}", f"seq={sample.name}", *GIVEN)
    return seq


def exact_keypoints(root: Path, sample: Sample) -> Path:
    """Where `prepare` writes the hand's true keypoints."""
    return root / "keypoints" / f"{sample.name}.npz"


def hand_inputs(sample: Sample, seq: Sequence) -> dict[str, tuple[str, ...]]:
    """Command line of the hand stages by the kind of input."""
    joints_m = load_truth(seq.path("truth")).hands["right"].joints_m
    length_mm = 1e3 * float(lengths_m(load_hand_model("right"), torch.as_tensor(joints_m)).median())
    commands = {
        "exact": ("hand=import", "hand.format=keypoints", f"hand.folder={exact_keypoints(seq.data_root, sample)}"),
        "length": ("hand=mediapipe", f"hands.length_mm={length_mm:.1f}"),
        "default": ("hand=mediapipe", "hands.length_mm=null"),
    }
    return {kind: commands[kind] for kind in HAND_INPUTS}


def measure_sample(sample: Sample, root: Path) -> list[Row]:
    """Errors after mode ho with each hand input; a row `refused` where structure from motion or the alignment refuses."""
    try:
        seq = prepare(sample, root)
    except HoldprepError as error:
        print(f"{sample.name}: {error}")
        return [refused(sample.name)]
    rows: list[Row] = []
    for kind, overrides in hand_inputs(sample, seq).items():
        case = f"{sample.name}_{kind}"
        try:
            rows += [row(case, "align", name, value) for name, value in aligned(sample, seq, overrides).items()]
        except HoldprepError as error:
            print(f"{case}: {error}")
            rows.append(refused(case))
    return rows


def refused(case: str) -> Row:
    """The row of a sequence that a stage refuses."""
    return {"case": case, "stage": "align", "metric": "refused", "value": 1.0, "unit": ""}


def aligned(sample: Sample, seq: Sequence, overrides: tuple[str, ...]) -> dict[str, float]:
    """Errors after the hand's stages and the alignment, the stated interval of the size, and whether the true size is in it.

    `failed_gates` is the number of gates that refuse the result.
    """
    root, stages = seq.data_root, {}
    given = (f"seq={sample.name}", *GIVEN, *overrides)
    for stage in ("hand_pose", "register", "align"):
        stages |= run(root, root / "out" / sample.name, f"stage={stage}", "force=true", *given)
    failed = sum(gate.status == "fail" for name, found in stages.items() for gate in judge(name, found["metrics"]))
    return judged(root, sample, given, stages["align.ho"]["metrics"]) | {"failed_gates": float(failed)}


def judged(root: Path, sample: Sample, given: tuple[str, ...], metrics: Mapping[str, float]) -> dict[str, float]:
    """Errors of an alignment with these metrics, the stated interval of the size, and whether the true size is in it."""
    known = run(root, root / "out" / sample.name, "stage=evaluate", *given)["evaluate"]["metrics"]
    errors = {name: worst(known, name) for name in FIGURES if any(key.rpartition(".")[2] == name for key in known)}
    true_scale = metrics["object.scale"] / (1 + errors["size_error_pct"] / 100)
    inside = metrics["object.scale_low"] <= true_scale <= metrics["object.scale_high"]
    return errors | {"size_interval_pct": metrics["object.size_interval_pct"], "size_in_interval_pct": 100.0 * inside}


def measure_calibration(root: Path, jobs: int) -> Iterator[Row]:
    """All samples in `jobs` processes, and the summary of each hand input."""
    root.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        rows = [own for found in pool.map(measure_sample, samples(), repeat(root)) for own in found]
    yield from rows
    for kind in HAND_INPUTS:
        of_kind = [r for r in rows if str(r["case"]).endswith(f"_{kind}")]
        passed = {r["case"] for r in of_kind if r["metric"] == "failed_gates" and r["value"] == 0}
        yield from summary(f"all_{kind}", of_kind)
        yield from summary(f"passed_{kind}", [r for r in of_kind if r["case"] in passed])


def summary(case: str, rows: list[Row]) -> Iterator[Row]:
    """Number of sequences, medians, the worst size error, and the share of intervals that hold."""
    values = {name: np.abs([float(r["value"]) for r in rows if r["metric"] == name]) for name in {str(r["metric"]) for r in rows}}
    yield row(case, "align", "sequences", len({r["case"] for r in rows}))
    if "size_error_pct" in values:
        for name in ("size_error_pct", "mrrpe_mm", "size_interval_pct"):
            yield row(case, "align", f"median_{name}", np.median(values[name]))
        yield row(case, "align", "worst_size_error_pct", values["size_error_pct"].max())
        yield row(case, "align", "size_in_interval_pct", values["size_in_interval_pct"].mean())
