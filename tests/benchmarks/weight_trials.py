"""Alignments of rendered sequences under many weights, with figures that need no ground truth and the true errors.

As a command, `python -m tests.benchmarks.weight_trials --root DIR --minutes 40 --jobs 2`; it writes one .npz per sequence and input, and
`python -m tests.benchmarks.weight_trials --root DIR --collect` adds them to tests/data/weight_trials.npz, from which
`weight_score` computes the numbers of holdprep/sweeps/score.py. Hands are those of `other_hands`, which the hand model cannot represent; object poses are
measured by structure from motion; hands by the default tracker with the hand's true length, or keypoints with noise that is correlated in time.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from holdprep.align.problem import Weights
from holdprep.align.run import Options
from holdprep.errors import HoldprepError
from holdprep.hand.model import load_hand_model
from holdprep.quality.evaluation import evaluate
from holdprep.quality.truth import load_truth
from holdprep.sequence import Sequence
from holdprep.stages.align import load_problem
from holdprep.sweeps.figures import figures, in_all_modes, leave_out
from holdprep.sweeps.trial import estimate_of
from tests.benchmarks import calibration
from tests.running import run

DATA = Path(__file__).parent.parent / "data" / "weight_trials.npz"
RANGES = {
    "j2d_sigma_px": (5, 100),
    "rotation": (3, 30000),
    "pose": (3, 30000),
    "contact": (1, 10000),
    "grasp": (100, 1000000),
    "smooth": (1, 10000),
    "scale_prior": (0.1, 1000),
    "order": (1e3, 1e7),
    "penetration": (1e2, 1e6),
}
SETS = 16  # the first is the defaults
FREE_SHARE = 0.6  # of the weights of a set are drawn, the others keep their default
TRUE = ("mpjpe_mm", "mrrpe_mm", "size_error_pct", "pa_mpjpe_mm", "root_relative_mpjpe_mm")
NOISE_PX = (3.0, 6.0, 12.0)


def drawn(seed: int) -> list[dict[str, float]]:
    """Sets of weights for one sequence, log-uniform in RANGES; the first is empty: the defaults."""
    rng = np.random.default_rng(seed)
    sets: list[dict[str, float]] = [{}]
    while len(sets) < SETS:
        values = {k: float(np.exp(rng.uniform(np.log(low), np.log(high)))) for k, (low, high) in RANGES.items()}
        kept = {k: v for k, v in values.items() if rng.random() < FREE_SHARE}
        sets += [kept] if kept else []
    return sets


def noisy_keypoints(root: Path, sample: calibration.Sample) -> tuple[str, ...]:
    """Command line of the true keypoints with noise of which half is constant over some ten frames."""
    rng, sigma = np.random.default_rng(sample.seed), NOISE_PX[sample.seed % len(NOISE_PX)]
    with np.load(calibration.exact_keypoints(root, sample)) as file:
        arrays = {key: file[key] for key in file.files}
    kernel = np.hanning(13) / np.linalg.norm(np.hanning(13))

    def smoothed(x: np.ndarray) -> np.ndarray:
        return np.convolve(x, kernel, "same")

    for key, std in (("j2d.right", sigma), ("j3d.right", 1e-3 * sigma)):
        white, slow = (rng.normal(size=arrays[key].shape) for _ in range(2))
        slow = np.apply_along_axis(smoothed, 0, slow)
        arrays[key] = arrays[key] + std * (white + slow) / np.sqrt(2)
    path = root / "keypoints" / f"{sample.name}_noisy.npz"
    np.savez(path, **arrays)
    return ("hand=import", "hand.format=keypoints", f"hand.folder={path}")


def trials(seq: Sequence, seed: int) -> tuple[list[str], np.ndarray]:
    """Names and values (SETS, F): weights (NaN: default) as `weights.*`, figures, and true errors as `true.*`."""
    models = {"right": load_hand_model("right", dtype=torch.float64)}
    problem = load_problem(seq, models)[0]  # type: ignore[arg-type]
    fitted, left_out = leave_out(problem)
    truth, rows = load_truth(seq.path("truth")), []
    for weights in drawn(seed):
        row = {f"weights.{key}": weights.get(key, np.nan) for key in RANGES}
        try:
            found = in_all_modes(fitted, Options(weights=Weights.from_dict(weights)))
            row |= figures(problem, left_out, found)
            judged = evaluate(estimate_of(seq, problem, found["ho"]), truth).metrics
            for name in TRUE:
                values = [abs(v) for k, v in judged.items() if k.rpartition(".")[2] == name]
                row[f"true.{name}"] = max(values) if values else np.nan
        except HoldprepError as error:
            print(f"{seq.name}: {error}")
        rows.append(row)
    names = sorted({name for row in rows for name in row})
    return names, np.array([[row.get(name, np.nan) for name in names] for row in rows])


def measure(root: Path, minutes: float, jobs: int) -> None:
    """Prepare and align sequences in `jobs` processes until the time is over; what has a file is kept."""
    until = time.time() + 60 * minutes
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for lines in pool.map(measure_sample, order(calibration.samples()), repeat(root), repeat(until)):
            print(*lines, sep="\n", flush=True)


def measure_sample(sample: calibration.Sample, root: Path, until: float) -> list[str]:
    """The trials of one sequence with both inputs, each begun before `until` (s since the epoch) and written to its file; lines that say so."""
    lines = []
    for kind in ("default", "noisy"):
        target = root / f"{sample.name}_{kind}.npz"
        if target.exists() or time.time() > until:
            continue
        started = time.monotonic()
        try:
            seq = Sequence(root, sample.name)
            if not seq.has("colmap"):
                seq = calibration.prepare(sample, root)
            prepared = time.monotonic()
            given = noisy_keypoints(root, sample) if kind == "noisy" else calibration.hand_inputs(sample, seq)["length"]
            for stage in ("hand_pose", "register"):
                run(root, root / "out" / sample.name, f"stage={stage}", "force=true", f"seq={sample.name}", *calibration.GIVEN, *given)
            registered = time.monotonic()
            names, values = trials(seq, sample.seed)
        except HoldprepError as error:
            lines.append(f"{sample.name} {kind}: {error}")
            continue
        np.savez(target, names=names, values=values)
        spent = [round(x) for x in (prepared - started, registered - prepared, time.monotonic() - registered)]
        lines.append(f"{target.name}: {spent} s")
    return lines


def order(samples: list[calibration.Sample]) -> list[calibration.Sample]:
    """Objects and grasps in turn, so that any number of them holds all."""
    stride = next(n for n in (5, 7, 11, 13) if len(samples) % n)
    return [samples[(stride * k) % len(samples)] for k in range(len(samples))]


def collect(root: Path) -> None:
    """Add the files of `measure` to tests/data/weight_trials.npz, in the place of sets of the same name."""
    with np.load(DATA) as file:
        names = [str(n) for n in file["names"]]
        parts = {str(name): (names, values) for name, values in zip(file["sequences"], file["values"], strict=True)}
    for file_of_set in [*root.glob("*_default.npz"), *root.glob("*_noisy.npz")]:
        with np.load(file_of_set) as file:
            parts[file_of_set.stem] = ([str(n) for n in file["names"]], file["values"])
    every = sorted({name for own, _ in parts.values() for name in own})
    tables = []
    for own, values in parts.values():
        table = np.full((len(values), len(every)), np.nan, np.float32)
        table[:, [every.index(n) for n in own]] = values
        tables.append(table)
    np.savez_compressed(DATA, sequences=list(parts), names=every, values=np.stack(tables))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--collect", action="store_true")
    arguments = parser.parse_args()
    arguments.root.mkdir(parents=True, exist_ok=True)
    collect(arguments.root) if arguments.collect else measure(arguments.root, arguments.minutes, arguments.jobs)
