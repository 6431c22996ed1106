"""`python -m tests.fuzz [--inputs N] [--seed S] [READER ...]`: N damaged files for each reader, in one process per reader.

Reported are all findings: another error than the project's own, a message of several lines or without the file's name, more than 5 s or
1 GB, a crash. The findings' files are kept in --keep. The exit status is 1 if there is any.
"""

import argparse
import multiprocessing
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz import harness
from tests.fuzz.mutations import edits
from tests.fuzz.readers import all_readers

SECONDS, BYTES = 5, 1 << 30
SHOWN = 5  # findings of a reader


class _TooSlow(Exception):
    pass


def run(name: str, inputs: int, number: int, keep: Path) -> tuple[int, int, list[str]]:
    """Inputs, accepted ones, and the findings of a reader, at most SHOWN."""
    reader = all_readers()[name]
    found: list[str] = []
    counts = [0, 0]
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)) / "d"
    harness.write(reader, folder, "", [])
    harness.check(reader, folder, "")  # imports and caches are there before memory is bounded
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, _alarm)

    @seed(number)
    @settings(max_examples=inputs, database=None, deadline=None, suppress_health_check=list(HealthCheck), phases=(Phase.generate,))
    @given(st.sampled_from(reader.changed), edits())
    def one(target: str, changes: list[tuple[str, float, int]]) -> None:
        content = harness.write(reader, folder, target, changes)
        counts[0] += 1
        signal.alarm(SECONDS)
        try:
            counts[1] += harness.check(reader, folder, target)
        except (harness.Finding, _TooSlow) as finding:
            text = str(finding) or f"{name}: more than {SECONDS} s"
            if len(found) < SHOWN and text[:60] not in {f[:60] for f in found}:
                found.append(text)
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{name}.{len(found)}.{Path(target).name}").write_bytes(content)
        finally:
            signal.alarm(0)

    one()
    return counts[0], counts[1], found


def _alarm(*_: object) -> None:
    raise _TooSlow


def _child(name: str, inputs: int, number: int, keep: Path, out: Any) -> None:
    out.send(run(name, inputs, number, keep))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", help=f"default: all ({', '.join(all_readers())})")
    parser.add_argument("--inputs", type=int, default=20_000, help="damaged files for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "fuzz-findings", help="folder for the findings' files")
    arguments = parser.parse_args()
    failed = False
    for name in arguments.readers or all_readers():
        started = time.monotonic()
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(
            target=_child, args=(name, arguments.inputs, arguments.seed, arguments.keep, theirs)
        )
        process.start()
        theirs.close()
        try:
            inputs, accepted, found = ours.recv()
        except EOFError:
            process.join()
            inputs, accepted, found = 0, 0, [f"{name}: the process ended with status {process.exitcode}"]
        process.join()
        print(f"{name:18s} {inputs:6d} inputs, {accepted:6d} accepted, {time.monotonic() - started:6.0f} s, {len(found)} findings", flush=True)
        for line in found:
            print(f"    {line[:500]}", flush=True)
        failed = failed or bool(found)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
