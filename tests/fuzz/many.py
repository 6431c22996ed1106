"""Many damaged files for one reader, in a process of its own, with bounds on time and memory."""

import gc
import multiprocessing
import resource
import shutil
import signal
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

from tests.fuzz import harness
from tests.fuzz.readers import all_readers

SECONDS, BYTES = 5, 1 << 30
STARTS_S, HANGS_AFTER_S = 300, 60  # before the first input; an input in native code, which no signal interrupts
PROGRESS = 50  # inputs between two signs of life
SHOWN = 5  # findings of a reader
MEMORY_FOLDER = Path("/dev/shm")
Result = tuple[int, int, list[str]]  # inputs, accepted ones, findings


class _TooSlow(Exception):
    pass


def run(name: str, inputs: int, seed: int, keep: Path) -> Result:
    """Read `inputs` damaged files of a reader. A crash, and a process that hangs, are findings. Findings' files are copied to `keep`."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-", dir=MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else None))
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_child, args=(name, inputs, seed, (folder, keep), theirs))
    process.start()
    theirs.close()
    found: Result = 0, 0, []
    try:
        wait_s = STARTS_S
        while found[0] < inputs and ours.poll(wait_s):
            found, wait_s = ours.recv(), PROGRESS * SECONDS + HANGS_AFTER_S
        lost = "" if found[0] == inputs else f"hangs after input {found[0]}"
    except EOFError:
        process.join()
        lost = f"crashed after input {found[0]}, exit status {process.exitcode}"
    if lost:
        process.kill()
        shutil.copytree(folder, keep / f"{name}.lost", dirs_exist_ok=True)
        found = (*found[:2], [*found[2], f"{name}: the process {lost}"])
    process.join()
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _child(name: str, inputs: int, seed: int, folders: tuple[Path, Path], out: Connection) -> None:
    folder, keep = folders
    reader = all_readers()[name]
    harness.write_valid(reader, folder)
    harness.check(reader, folder, "")  # imports and caches are there before memory is bounded
    gc.freeze()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, _alarm)
    accepted = 0
    found: dict[str, str] = {}
    for number in range(inputs):
        signal.alarm(SECONDS)
        try:
            accepted += harness.try_one(reader, folder, (seed << 32) + number)
        except (harness.Finding, _TooSlow) as finding:
            text = str(finding) or f"{name}: more than {SECONDS} s"
            if len(found) < SHOWN and text[:60] not in found:
                found[text[:60]] = f"{text} (input {number})"
                shutil.copytree(folder, keep / f"{name}.{len(found)}", dirs_exist_ok=True)
            harness.write_valid(reader, folder)
        finally:
            signal.alarm(0)
        if number % PROGRESS == PROGRESS - 1 or number == inputs - 1:
            out.send((number + 1, accepted, list(found.values())))


def _alarm(*_: object) -> None:
    raise _TooSlow
