"""Summary of a sweep: a table of all jobs, on the screen and as summary.csv, and the exit status."""

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from holdprep.io import safeio
from holdprep.sweeps import batch
from holdprep.sweeps.done import row_of
from holdprep.sweeps.jobs import failure

UP_TO_DATE = "up to date"
SHOWN_ROWS = 60  # on the screen; the file has all
VERDICTS_WIDTH = 44  # characters
SHOWN = 6  # columns of metrics on the screen; the csv has all
KEY_NUMBERS = (
    "object_pose/registered_pct",
    "align.ho/object.scale",
    "align.ho/object.scale_stderr_pct",
    "align.ho/contact.gap_mm",
    "align.ho/contact.penetration_mm",
)


class Summary(Callback):
    """Hydra callback that collects the jobs' metrics.json when a sweep ends."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        if conclude(folder, [*up_to_date(), *collect(folder)]):
            sys.exit(1)


def conclude(folder: Path, rows: list[dict[str, Any]]) -> bool:
    """Write and print the table of a batch; returns whether a job failed."""
    if not rows:
        return False
    columns = list(dict.fromkeys(key for row in rows for key in row))
    folder.mkdir(parents=True, exist_ok=True)
    safeio.write_bytes_atomic(folder / "summary.csv", _csv(rows, columns))
    failed = [row for row in rows if row["status"] == "failed"]
    skipped = [row for row in rows if row["status"] == UP_TO_DATE]
    shown = rows if len(rows) <= SHOWN_ROWS else [*failed, *(r for r in rows if r["status"] == "ok")][:SHOWN_ROWS]
    if shown:
        _show(shown, columns)
    if len(rows) > len(shown):
        print(f"{len(rows) - len(shown)} more rows are in the table's file")
    ran = len(rows) - len(skipped)
    counts = [f"{len(skipped)} of {len(rows)} sequences were up to date"] if skipped else []
    counts += [f"{ran - len(failed)} of {ran} jobs succeeded"] if ran else []
    pages = [f"; page: {_page(folder, done, columns)}"] if (done := [row for row in rows if row["status"] != UP_TO_DATE]) else []
    print("".join([f"{'; '.join(counts)}; table: {folder / 'summary.csv'}", *pages]))
    return bool(failed)


def _page(folder: Path, rows: list[dict[str, Any]], columns: list[str]) -> Path:
    """index.html, with the settings that differ and the key numbers."""
    from holdprep.sweeps.index_page import write_index

    settings = [c for c in columns if "/" not in c and c not in ("job", "status", "error", "seconds")]
    settings = [c for c in settings if c == "seq" or len({str(row.get(c, "")) for row in rows}) > 1]
    return write_index(folder, rows, settings, [c for c in KEY_NUMBERS if c in columns])


def _csv(rows: list[dict[str, Any]], columns: list[str]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def up_to_date() -> list[dict[str, Any]]:
    """One row per sequence on which the command was done before."""
    return [{"job": "", "seq": name, "status": UP_TO_DATE, "error": "", "seconds": 0.0} | row for name, row in batch.skipped().items()]


def collect(folder: Path) -> list[dict[str, Any]]:
    """One row per job: folder, overrides, status, and each stage's verdict and metrics (`<stage>/<metric>`)."""
    rows = []
    jobs = [p for p in folder.iterdir() if (p / ".hydra" / "overrides.yaml").is_file()]
    for job in sorted(jobs, key=_by_number):
        row: dict[str, Any] = {"job": job.name} | _overrides(list(OmegaConf.load(job / ".hydra" / "overrides.yaml")))
        stages = json.loads((job / "metrics.json").read_text())["stages"] if (job / "metrics.json").is_file() else {}
        ended = {name: s["status"] for name, s in stages.items()}
        cause = failure(job) or ("" if ended else "see run.log")
        row["status"] = "failed" if "failed" in ended.values() or cause else "ok"
        row["error"] = next((s["error"] for s in stages.values() if s["error"]), cause)
        row["seconds"] = round(sum(s["seconds"] for s in stages.values()), 2)
        rows.append(row | row_of(stages))
    return rows


def _by_number(job: Path) -> tuple[int, str]:
    """Jobs in the order of their numbers, those without one first."""
    number = job.name.split("_")[0]
    return int(number) if number.isdigit() else -1, job.name


def _overrides(overrides: list[Any]) -> dict[str, str]:
    """Key and value of each override; "(deleted)" for one that deletes a key."""
    found = {}
    for override in map(str, overrides):
        key, _, value = override.lstrip("+~").partition("=")
        is_quoted = len(value) > 1 and value[0] == value[-1] == "'"  # names as typed, such as 2024
        found[key] = "(deleted)" if override.startswith("~") else value[1:-1] if is_quoted else value
    return found


def _show(rows: list[dict[str, Any]], columns: list[str]) -> None:
    """Print the columns that differ between the jobs; the file has all."""
    ran = [row for row in rows if row["status"] != UP_TO_DATE]  # the others have no settings of their own
    differing = [c for c in columns if c != "error" and len({str(row.get(c, "")) for row in ran}) > 1]
    differing += [c for c in ("seq",) if c not in differing and len(ran) < len(rows)]
    settings = [c for c in differing if "/" not in c and c not in ("job", "status", "seconds")]
    verdicts = [c for c in columns if c.endswith("/verdict") and c.partition("/")[0] not in ("report", "score")]
    numbers = [c for c in KEY_NUMBERS if c in columns]
    numbers += [c for c in differing if "/" in c and c not in (*verdicts, *numbers)][: max(0, SHOWN - len(numbers))]
    shown = ["job", *settings, "status", "seconds", *numbers]
    table = Table()
    for column in shown:
        table.add_column(column.replace("/", " "), overflow="fold")
    if verdicts:
        table.add_column("verdicts", overflow="fold", min_width=VERDICTS_WIDTH)
    for row in rows:
        cells = [f"{row[c]:.4g}" if isinstance(row.get(c), float) else str(row.get(c, "")) for c in shown]
        table.add_row(*cells, *([_verdicts(row, verdicts)] if verdicts else []))
    Console(width=max(100, 17 * len(shown) + (VERDICTS_WIDTH if verdicts else 0))).print(table)
    for row in rows:
        if row["status"] == "failed":
            print(f"{row['job']}: {row['error']}")


def _verdicts(row: dict[str, Any], columns: list[str]) -> str:
    """Stages by verdict, worst first: `fail: align.ho; warn: register, build; pass: 5`."""
    stages = {v: [c.partition("/")[0] for c in columns if row.get(c) == v] for v in ("fail", "warn", "pass")}
    named = [f"{verdict}: {', '.join(stages[verdict])}" for verdict in ("fail", "warn") if stages[verdict]]
    return "; ".join([*named, *([f"pass: {len(stages['pass'])}"] if stages["pass"] else [])])
