"""`python -m tests.fuzz [--inputs N] [--seed S] [READER ...]`: N damaged files for each reader, in one process per reader.

Reported are all findings: another error than the project's own, a message of several lines or without the file's name, more than 5 s or
1 GB, a crash. The findings' files are kept in --keep. The exit status is 1 if there is any.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz import many
from tests.fuzz.readers import all_readers


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
        inputs, accepted, found = many.run(name, arguments.inputs, arguments.seed, arguments.keep)
        print(
            f"{name:18s} {inputs:6d} inputs, {accepted:6d} accepted, {time.monotonic() - started:6.0f} s, {len(found)} findings", flush=True
        )
        for line in found:
            print(f"    {line[:500]}", flush=True)
        failed = failed or bool(found)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
