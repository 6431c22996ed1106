"""index.html of a batch or sweep: one row a job with verdict, key numbers, thumbnail and links; sortable, self-contained."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from holdprep.io.atomic import write_bytes_atomic
from holdprep.quality.bounds import show
from holdprep.quality.gates import SEVERITY, Status, worst_of
from holdprep.viewers.page import environment, policy, source

HERE = Path(__file__).parent
FILE = "index.html"
LINKS = ("report.html", "run.log", "metrics.json")


@dataclass(frozen=True)
class Cell:
    """A cell's text and the value that it is sorted by."""

    text: str
    value: float | str


@dataclass(frozen=True)
class Job:
    """A row of the table: `verdict` is pass, warn or fail, `sentence` says why; `links` are file names with their addresses."""

    name: str
    verdict: Status
    sentence: str
    cells: Sequence[Cell]
    thumbnail: str | None
    links: Sequence[tuple[str, str]]

    @property
    def order(self) -> int:
        """The verdict as a number."""
        return SEVERITY[self.verdict]


def write_index(folder: Path, rows: Sequence[Mapping[str, Any]], settings: Sequence[str], numbers: Sequence[str]) -> Path:
    """Write the page of the jobs in `folder` from the rows of `summary.collect`; `settings` and `numbers` are its columns."""
    jobs = [_job(folder, row, settings, numbers) for row in rows]
    code = (HERE / "index.js").read_text()
    html = (
        environment(HERE)
        .get_template("index.html.j2")
        .render(
            title=folder.name,
            jobs=jobs,
            columns=[*settings, *(name.replace("/", " ") for name in numbers), "seconds"],
            counts={verdict: sum(job.verdict == verdict for job in jobs) for verdict in SEVERITY},
            policy=policy(code),
            code=Markup(code),
            style=Markup(source("theme.css") + (HERE / "index.css").read_text()),
        )
    )
    path = folder / FILE
    write_bytes_atomic(path, html.encode())
    return path


def _job(folder: Path, row: Mapping[str, Any], settings: Iterable[str], numbers: Iterable[str]) -> Job:
    name = str(row["job"])
    verdicts: list[Status] = [value for key, value in row.items() if key.endswith("/verdict") and value in SEVERITY]
    worst = "fail" if row["status"] == "failed" else worst_of(verdicts)
    if row.get("report/trainable") is False:
        worst = "fail"
    sentence = str(
        row.get("error") or row.get("report/sentence") or {"pass": "all gates pass", "warn": "warnings"}.get(worst, "a gate failed")
    )
    cells = [*(_cell(row.get(key, "")) for key in (*settings, *numbers)), _cell(row["seconds"])]
    thumbnail = folder / name / "thumbnail.jpg"
    picture = base64.b64encode(thumbnail.read_bytes()).decode() if thumbnail.is_file() else None
    links = [(link, f"{quote(name)}/{link}") for link in LINKS if (folder / name / link).is_file()]
    return Job(name, worst, sentence, cells, picture, links)


def _cell(value: Any) -> Cell:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Cell(show(value), float(value))
    text = "" if value is None else str(value)
    try:
        return Cell(text, float(text))
    except ValueError:
        return Cell(text, text)
