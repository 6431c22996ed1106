"""What closes a sweep: one table of every job, on the screen and as summary.csv, and an exit status that says if one failed."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

SHOWN = 5  # columns of metrics on the screen; the csv has all


class Summary(Callback):
    """Hydra callback: collects the jobs' metrics.json when a sweep ends."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        rows = collect(folder)
        if not rows:
            return
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with (folder / "summary.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        _show(rows, columns)
        failed = [row["job"] for row in rows if row["status"] == "failed"]
        print(f"{len(rows) - len(failed)} of {len(rows)} jobs succeeded; table: {folder / 'summary.csv'}")
        if failed:
            sys.exit(1)


def collect(folder: Path) -> list[dict[str, Any]]:
    """One row a job: its folder, what it was told, how it ended, and the numbers of its last stage."""
    rows = []
    jobs = [p for p in folder.iterdir() if (p / ".hydra" / "overrides.yaml").is_file()]
    for job in sorted(jobs, key=lambda p: int(p.name.split("_")[0])):
        told = [o for o in OmegaConf.load(job / ".hydra" / "overrides.yaml")]
        row: dict[str, Any] = {"job": job.name} | dict(str(o).lstrip("+").split("=", 1) for o in told)
        stages = json.loads((job / "metrics.json").read_text())["stages"] if (job / "metrics.json").is_file() else {}
        ended = {name: s["status"] for name, s in stages.items()}
        row["status"] = "failed" if "failed" in ended.values() or not ended else "ok"
        row["error"] = next((s["error"] for s in stages.values() if s["error"]), "" if ended else "see run.log")
        row["seconds"] = round(sum(s["seconds"] for s in stages.values()), 2)
        last = list(stages)[-1] if stages else None
        row |= {f"{last}/{k}": v for k, v in stages[last]["metrics"].items()} if last else {}
        rows.append(row)
    return rows


def _show(rows: list[dict[str, Any]], columns: list[str]) -> None:
    """What differs between the jobs, for the screen; the file has everything."""
    differing = [c for c in columns if c != "error" and len({str(row.get(c, "")) for row in rows}) > 1]
    told = [c for c in differing if "/" not in c and c not in ("job", "status", "seconds")]
    shown = ["job", *told, "status", "seconds", *[c for c in differing if "/" in c][:SHOWN]]
    table = Table()
    for column in shown:
        table.add_column(column.rpartition("/")[2], overflow="fold")
    for row in rows:
        table.add_row(*(f"{row[c]:.4g}" if isinstance(row.get(c), float) else str(row.get(c, "")) for c in shown))
    Console(width=max(100, 14 * len(shown))).print(table)
    for row in rows:
        if row["status"] == "failed":
            print(f"{row['job']}: {row['error']}")
