"""Many damaged files for one reader, with bounds on time and memory; each reader in a process of its own."""

import resource
import signal
import tempfile
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


def child(name: str, inputs: int, number: int, keep: Path, out: Any) -> None:
    out.send(run(name, inputs, number, keep))
