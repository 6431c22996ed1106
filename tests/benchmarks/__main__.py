"""The command: one table, and rows as JSON."""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from tests.benchmarks.calibration import measure_calibration
from tests.benchmarks.cases import CASES
from tests.benchmarks.clips import CLIPS, measure_ablations, measure_clip
from tests.benchmarks.few_clicks import FEW, measure_few_clicks
from tests.benchmarks.hands import measure_frames, measure_registration, measure_schedule
from tests.benchmarks.kinds import measure_kinds
from tests.benchmarks.measure import Row, measure_case
from tests.benchmarks.measured_sizes import measure_measured
from tests.benchmarks.other_hands import CASE, measure_other_hands
from tests.benchmarks.perturbed import measure_perturbed
from tests.benchmarks.trackers import TRACKERS

# measurements of rendered sequences in a folder, with a number: of processes, or of sequences
ROOTED = {"calibration": measure_calibration, "perturbed": measure_perturbed, "measured": measure_measured}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the short set: six to seven minutes on two cores")
    parser.add_argument("--only", nargs="*", metavar="CASE", help="these cases alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="show ratios to an earlier run's rows")
    parser.add_argument("--root", type=Path, help="keep the sequences there (default: a temporary folder)")
    parser.add_argument("--frames", type=int, nargs="+", metavar="N", help="registration alone, of clips with so many frames")
    parser.add_argument(
        "--trackers", nargs="+", choices=TRACKERS, help="hand trackers alone: crops or frames a second, pixels off the truth"
    )
    parser.add_argument(
        "--clips",
        nargs="*",
        choices=CLIPS,
        metavar="CLIP",
        help=f"real clips alone ({' '.join(CLIPS)}; none named: all), by drawn outlines",
    )
    parser.add_argument("--kinds", action="store_true", help="kinds of files that people have: how many are read as they should be")
    parser.add_argument(
        "--few-clicks",
        nargs="*",
        choices=FEW,
        metavar="CLIP",
        help=f"masks alone of real clips ({' '.join(FEW)}; none named: all) from two key frames with a box and three clicks an entity",
    )
    parser.add_argument("--ablate", action="store_true", help="with --clips: registration with each of its terms left out, too")
    parser.add_argument(
        "--calibration", type=int, metavar="JOBS", help="scale with hands that the model cannot represent, in JOBS processes"
    )
    parser.add_argument("--perturbed", type=int, metavar="JOBS", help="the demo's object poses with perturbed settings, in JOBS processes")
    parser.add_argument("--measured", type=int, metavar="N", help="scale by measured sizes, on N such sequences")
    parser.add_argument("--data", type=Path, metavar="DIR", help="keep the clips' sequences there, and use what is up to date there")
    arguments = parser.parse_args()
    rows = list(measure(arguments))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    show(rows, json.loads(arguments.compare.read_text()) if arguments.compare else [])


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """What was requested alone; else registration, then the cases."""
    rooted = next((name for name in ROOTED if getattr(arguments, name)), None)
    if rooted is not None:
        with tempfile.TemporaryDirectory() as scratch:
            yield from ROOTED[rooted](arguments.root or Path(scratch), getattr(arguments, rooted))
    elif arguments.kinds:
        yield from measure_kinds()
    elif arguments.few_clicks is not None:
        with tempfile.TemporaryDirectory() as scratch:
            for clip in arguments.few_clicks or FEW:
                yield from measure_few_clicks(clip, arguments.data or Path(scratch))
    elif arguments.clips is not None:
        yield from _measure_clips(arguments)
    elif arguments.trackers or arguments.frames:
        for name in arguments.trackers or ():
            yield from TRACKERS[name]()
        for frames in arguments.frames or ():
            yield from measure_frames(frames)
    else:
        yield from _measure_cases(arguments)


def _measure_clips(arguments: argparse.Namespace) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        for clip in arguments.clips or CLIPS:
            yield from measure_clip(clip, arguments.data or Path(scratch))
            if arguments.ablate:
                yield from measure_ablations(clip, arguments.data or Path(scratch))


def _measure_cases(arguments: argparse.Namespace) -> Iterator[Row]:
    if not arguments.only:
        yield from measure_registration()
    if not (arguments.only or arguments.quick):
        yield from measure_schedule()
    with tempfile.TemporaryDirectory() as scratch:
        for case in CASES:
            if case.name in arguments.only if arguments.only else case.quick or not arguments.quick:
                yield from measure_case(case, arguments.root or Path(scratch))
        if CASE in arguments.only if arguments.only else not arguments.quick:
            yield from measure_other_hands(arguments.root or Path(scratch))


def show(rows: Sequence[Row], old: Sequence[Row]) -> None:
    """Markdown, one line a case and stage, its metrics side by side, each with its ratio to the old value where there is one."""
    before = {(r["case"], r["stage"], r["metric"]): float(r["value"]) for r in old}
    table = Table("case", "stage", "result", box=box.MARKDOWN)
    lines: dict[tuple[str, str], list[str]] = {}
    for r in rows:
        text = f"{r['metric']} {float(r['value']):.3g}"
        earlier = before.get((r["case"], r["stage"], r["metric"]))
        if earlier:
            text += f" (x{float(r['value']) / earlier:.2f})"
        lines.setdefault((str(r["case"]), str(r["stage"])), []).append(text)
    for (case, stage), texts in lines.items():
        table.add_row(case, stage, ", ".join(texts))
    Console(width=400).print(table)


if __name__ == "__main__":
    main()
