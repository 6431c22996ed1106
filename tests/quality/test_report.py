"""The page holds everything that it should, nothing from elsewhere, and no text of the user's as markup."""

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from holdprep.errors import HoldprepError
from holdprep.quality.chart import Curve, line_chart
from holdprep.quality.gates import judge
from holdprep.quality.report import Picture, ReportData, StageReport, render_report

VOID = {"meta", "img", "br", "link", "input", "hr"}
METRICS = {
    "segment": {"right.frames_with_mask_pct": 71.0, "object.area_median_px": 31234.0, "fps": 29.97},
    "register": {"hand_model": "standin", "right.error_mm": 25.5},
    "object_pose": {"registered_pct": 42.5, "rotation_jumps": 3, "focal_ratio": 1.1},
}


class Page(HTMLParser):
    """Checks that tags nest, and collects tags, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def data(**changes: object) -> ReportData:
    frames = np.arange(0, 40, 2)
    gap = (frames > 10) & (frames < 20)
    values: dict[str, object] = {
        "seq": "bottle",
        "version": "0.1.0",
        "hand_model": "standin",
        "created": "2026-01-02 03:04",
        "stages": [StageReport(name, 12.34, name == "segment", m, judge(name, m)) for name, m in METRICS.items()],
        "pictures": [Picture(f"Frame {i}", "all is well", np.full((60, 80, 3), 40 * i, np.uint8)) for i in range(3)],
        "curves": [Curve("Error", "px", frames, {"right": np.where(gap, np.nan, frames / 7), "left": frames / 5.0}, gap)],
        "config_yaml": "seq: bottle\nweights:\n  contact: 100.0\n",
        "notes": ["11 frames were infilled"],
    }
    return ReportData(**(values | changes))


def test_the_page_parses_and_holds_every_number_threshold_and_advice():
    report = data()
    page = Page(render_report(report))
    text = " ".join(page.text.split())
    for gate in report.gates:
        for part in (gate.metric, gate.number, gate.threshold, gate.advice):
            assert part in text
    for part in ("bottle", "0.1.0", "2026-01-02 03:04", "fps 30.0", "12.3 s", "up to date", "11 frames were infilled", "contact: 100.0"):
        assert part in text, part
    assert "Not fit to train on" in text
    assert text.index(report.stages[2].gates[0].advice) < text.index(report.stages[0].gates[0].advice), "failures come before warnings"


def test_nothing_is_fetched_from_elsewhere():
    html = render_report(data())
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", html, re.IGNORECASE)
    assert not Page(html).named("link")


def test_text_is_text():
    evil = '<b>&"<script>alert(1)</script>'
    stage = StageReport("x", 1.0, False, {"<em>": 1}, [], error=evil)
    curve = Curve(evil, evil, np.arange(3), {evil: np.arange(3.0)})
    picture = Picture(evil, evil, np.zeros((4, 4, 3), np.uint8))
    html = render_report(data(seq="<b>", stages=[stage], curves=[curve], pictures=[picture], notes=[evil], config_yaml=evil))
    page = Page(html)
    assert page.text.count("alert(1)") == 8  # error, curve (title, label, legend), picture (title, caption), note, configuration
    assert len(page.named("script")) == 1 and not page.named("em")
    assert '<b>&"' not in html and "<b></" not in html and "&lt;b&gt;" in html


def test_pictures_are_in_the_page_reduced_and_true():
    wide = np.zeros((1000, 3000, 3), np.uint8)
    wide[:, 1500:] = (200, 100, 50)
    page = Page(render_report(data(pictures=[*data().pictures, Picture("wide", "", wide)])))
    sources = [i["src"] for i in page.named("img") if i.get("src")]
    assert len(sources) == 4
    assert [f["class"] for f in page.named("figure")][:4] == ["card", "card", "card", "card wide"]
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(sources[3].removeprefix("data:image/jpeg;base64,")), np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (640, 1920, 3)
    np.testing.assert_allclose(decoded[320, 1300], (200, 100, 50), atol=4)


def test_a_picture_that_is_none_is_named():
    with pytest.raises(HoldprepError, match="'broken'"):
        render_report(data(pictures=[Picture("broken", "", np.zeros((5, 5, 2), np.uint8))]))


def test_the_stand_in_hand_is_announced_and_mano_is_not():
    assert "NOT FOR TRAINING" in render_report(data())
    assert "NOT FOR TRAINING" not in render_report(data(hand_model="mano"))


@pytest.mark.parametrize(
    ("stage", "verdict"),
    [
        (StageReport("create", 1.0, False, {"frames": 100}, judge("create", {"frames": 100})), "Fit to train on"),
        (StageReport("create", 1.0, False, {"frames": 30}, judge("create", {"frames": 30})), "Usable"),
        (StageReport("create", 1.0, False, error="no video"), "Not fit to train on"),
    ],
)
def test_the_verdict(stage: StageReport, verdict: str):
    assert verdict in Page(render_report(data(stages=[stage]))).text


def test_an_empty_report_is_a_page():
    page = Page(render_report(ReportData("empty", "0", "mano", "today")))
    assert not [i for i in page.named("img") if i.get("src")] and not page.named("svg")


def test_a_chart_places_values_on_its_axes():
    chart = str(line_chart(Curve("t", "mm", np.array([0, 10, 20]), {"a": np.array([0.0, 5.0, 10.0])})))
    assert 'd="M58.0 190.0L344.0 100.0L630.0 10.0"' in chart  # from the origin of the axes to the opposite corner
    assert [t for t in re.findall(r'text-anchor="end">([^<]*)<', chart)] == ["0", "5", "10"]


def test_gaps_interrupt_the_line_and_are_shaded():
    values = np.array([1, 1, np.nan, 1, np.nan, 1, 1.0])
    chart = str(line_chart(Curve("t", "mm", np.arange(7), {"a": values}, np.isnan(values))))
    (path,) = re.findall(r' d="([^"]*)"', chart)
    assert path.count("M") == 3 and path.count("L") == 2 and path.count("h0") == 1
    shades = [(float(a), float(b)) for a, b in re.findall(r'class="gap" x="([\d.]+)" y="10" width="([\d.]+)"', chart)]
    step = 572 / 6
    assert shades == [pytest.approx((58 + 1.5 * step, step), abs=0.1), pytest.approx((58 + 3.5 * step, step), abs=0.1)]


@pytest.mark.parametrize("values", [[np.nan, np.nan], [], [5.0], [0.0, 0.0], [-3.0, -3.0], [1e-7, 2e-7], [1e9, 2e9]])
def test_awkward_values_draw_without_nan(values: list[float]):
    chart = str(line_chart(Curve("t", "", np.arange(len(values)), {"a": np.array(values)})))
    assert "nan" not in chart and "inf" not in chart
    assert ("<svg" in chart) == bool(np.isfinite(values).any())
