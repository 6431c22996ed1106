"""The quality report of a sequence: one self-contained HTML file, for screen and print."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from holdprep.errors import HoldprepError
from holdprep.quality.bounds import Value, show
from holdprep.quality.chart import COLORS, Curve, line_chart
from holdprep.quality.gates import Gate, Status, overall

PICTURE_SIDE = 1920  # px: sheets of twelve frames are readable when enlarged; a report of five sheets has about 3 MB
WIDE = 1000  # px: wider images (sheets, large frames) have a row of their own
JPEG_QUALITY = 82

VERDICTS: dict[Status, str] = {"pass": "Fit to train on", "warn": "Usable: read the warnings first", "fail": "Not fit to train on"}


@dataclass(frozen=True)
class StageReport:
    """One stage of the pipeline: its time in seconds, whether it was skipped as up to date, its metrics and gates.

    `error` is the message of its failure, if any.
    """

    name: str
    seconds: float
    skipped: bool
    metrics: Mapping[str, Value] = field(default_factory=dict)
    gates: list[Gate] = field(default_factory=list)
    error: str | None = None

    @property
    def status(self) -> Status:
        """The worst of its gates; fail after an error."""
        return "fail" if self.error else overall(self.gates)

    @property
    def other_metrics(self) -> dict[str, Value]:
        """The metrics without a gate."""
        judged = {gate.metric for gate in self.gates}
        return {name: value for name, value in self.metrics.items() if name not in judged}


@dataclass(frozen=True)
class Picture:
    """An overlay; `image` is (H, W, 3) uint8 BGR."""

    title: str
    caption: str
    image: np.ndarray

    @property
    def is_wide(self) -> bool:
        """Whether the image needs the full width of the page."""
        return self.image.shape[1] > WIDE

    @property
    def data_uri(self) -> str:
        """The image as an embedded JPEG, reduced to PICTURE_SIDE."""
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise HoldprepError(f"the report's picture '{self.title}' is {self.image.dtype} {self.image.shape}; it must be uint8 (H, W, 3)")
        scale = min(1.0, PICTURE_SIDE / max(self.image.shape[:2]))
        image = cv2.resize(self.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else self.image
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


@dataclass(frozen=True)
class ReportData:
    """Content of a report. `hand_model` is "mano" or "standin"; `created` a date as text; `config_yaml` the resolved configuration."""

    seq: str
    version: str
    hand_model: str
    created: str
    stages: list[StageReport] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    config_yaml: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def gates(self) -> list[Gate]:
        """All gates, in the order of the stages."""
        return [gate for stage in self.stages for gate in stage.gates]

    @property
    def status(self) -> Status:
        """The worst stage's status."""
        worst: list[Status] = [stage.status for stage in self.stages]
        return "fail" if "fail" in worst else "warn" if "warn" in worst else "pass"


def render_report(data: ReportData) -> str:
    """The report as self-contained HTML. Raises HoldprepError for an invalid image."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["show"] = show
    todo = sorted((g for g in data.gates if g.status != "pass"), key=lambda g: g.status)  # "fail" sorts before "warn"
    template = environment.get_template("report.html.j2")
    return template.render(data=data, verdict=VERDICTS[data.status], todo=todo, line_chart=line_chart, colors=COLORS)
