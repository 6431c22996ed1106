"""The page holds everything that it should, nothing from elsewhere, and no text of the user's as markup."""

import asyncio
import base64
import hashlib
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from holdprep.quality.chart import Curve, line_chart
from holdprep.quality.gates import judge
from holdprep.quality.report import ReportData, StageReport, render_report
from tests.ui.chromium import chromium
from tests.viewers.scenes import small_scene

BROWSER = os.environ.get("HOLDPREP_CHROMIUM")
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
    frames = np.arange(20)
    gap = (frames > 5) & (frames < 10)
    values: dict[str, object] = {
        "seq": "bottle",
        "version": "0.1.0",
        "hand_model": "standin",
        "created": "2026-01-02 03:04",
        "stages": [StageReport(name, 12.34, name == "segment", m, judge(name, m)) for name, m in METRICS.items()],
        "names": [f"{2 * t:04d}" for t in frames],
        "curves": {"register/right.error_mm": np.where(gap, np.nan, frames / 7), "register/right.is_valid": 1.0 - gap},
        "scene": small_scene(20),
        "config_yaml": "seq: bottle\nweights:\n  contact: 100.0\n",
        "notes": ["11 frames were infilled"],
        "versions": {"torch": "2.13"},
    }
    return ReportData(**(values | changes))


def test_the_page_parses_and_holds_every_number_threshold_and_advice():
    report = data()
    page = Page(render_report(report))
    text = " ".join(page.text.split())
    for gate in report.gates:
        for part in (gate.metric, gate.number, gate.threshold):
            assert part in text
    for part in ("bottle", "0.1.0", "2026-01-02 03:04", "fps 30.0", "12.3 s", "up to date", "11 frames were infilled", "contact: 100.0"):
        assert part in text, part
    assert "Not trainable" in text
    assert text.index(report.stages[2].gates[0].advice) < text.index(report.stages[0].gates[0].advice), "failures come before warnings"


def test_nothing_is_fetched_from_elsewhere_and_one_script_runs():
    html = render_report(data())
    assert not re.search(r"https?:|//[a-z]+\.[a-z]|@import|url\(", re.sub(r'"block":"[^"]*"', "", html), re.IGNORECASE)
    page = Page(html)
    assert not page.named("link") and not page.named("img")
    (policy,) = [meta["content"] for meta in page.named("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert len(html) < 1e7


def test_text_is_text():
    evil = '<b>&"<script>alert(1)</script>'
    stage = StageReport("x", 1.0, False, {"<em>": 1}, [], error=evil)
    curves = {f"{evil}/{evil}": np.arange(20.0)}
    changes = {"stages": [stage], "curves": curves, "notes": [evil], "config_yaml": evil, "versions": {evil: evil}}
    html = render_report(data(seq="<b>", scene=small_scene(20, seq=evil), **changes))
    page = Page(html)
    assert len(page.named("script")) == 2 and not page.named("em")
    assert '<b>&"' not in html and "<b></" not in html and "&lt;b&gt;" in html


def test_the_stand_in_hand_makes_a_sequence_not_trainable_once():
    stages = [StageReport("register", 1.0, False, m := {"hand_model": "standin"}, judge("register", m))]
    stages.append(StageReport("build", 1.0, False, m := {"trainable": False}, judge("build", m)))
    report = data(stages=stages)
    assert not report.verdict.is_trainable and len(report.problems) == 1
    text = Page(render_report(report)).text
    assert "Usable" not in text and text.count("Not trainable") == 1
    assert "stand-in hand was used" not in Page(render_report(data(stages=[], hand_model="mano"))).text


def test_curves_are_linked_to_frames_and_the_worst_are_shown():
    page = Page(render_report(data()))
    (chart,) = page.named("svg")
    assert chart["data-count"] == "20"
    worst = [int(b["data-frame"]) for b in page.named("button") if "data-frame" in b]
    assert worst[0] == 19 and not set(worst) & set(range(6, 10))  # the largest error; none where there is no hand


def test_a_later_failure_hides_nothing():
    broken = StageReport("align.ho", 1.0, False, error="the cloud is flat")
    html = render_report(data(stages=[*data().stages, broken]))
    page = Page(html)
    assert "Not trainable: align.ho failed" in page.text and "the cloud is flat" in page.text
    assert 'class="scene"' in html and '"name":"slerp"' in html


def test_an_empty_report_is_a_page():
    page = Page(render_report(ReportData("empty", "0", "mano", "today")))
    assert not page.named("svg") and "Not trainable yet" in page.text


def test_a_chart_places_values_on_its_axes():
    chart = str(line_chart(Curve("t", "mm", np.array([0, 10, 20]), {"a": np.array([0.0, 5.0, 10.0])})))
    assert 'd="M58.0 190.0L344.0 100.0L630.0 10.0"' in chart  # from the origin of the axes to the opposite corner
    assert [t for t in re.findall(r'text-anchor="end">([^<]*)<', chart)] == ["0", "5", "10"]


def test_a_long_curve_is_thinned_and_keeps_extremes_and_gaps():
    values = np.sin(np.arange(30_000) / 500)
    values[12_345], values[20_000:21_000] = 7.0, np.nan
    (path,) = re.findall(r' d="([^"]*)"', str(line_chart(Curve("t", "mm", np.arange(30_000), {"a": values}))))
    assert len(path) < 20_000
    ys = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", path)]
    assert min(ys) == pytest.approx(190 - (7 + 2) / (8 + 2) * 180, abs=20)  # the single large value
    assert path.count("M") == 2


def test_a_report_of_3000_frames_is_below_10_megabytes():
    curves = {f"align/ho/{side}.c{i}_mm": np.random.default_rng(i).normal(size=3000) for i in range(20) for side in ("right", "left")}
    names = [f"{t:04d}" for t in range(3000)]
    scene = small_scene(3000, results=("init", "slerp", "h", "o", "ho"))
    html = render_report(data(names=names, curves=curves, scene=scene))
    assert len(html) < 1e7 and "of 3000 frames are shown" in html


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


@pytest.mark.skipif(BROWSER is None, reason="set HOLDPREP_CHROMIUM to a Chromium")
def test_one_frame_moves_everything_in_a_browser(tmp_path: Path):
    path = tmp_path / "report.html"
    path.write_text(render_report(data(scene=small_scene(20, results=("slerp", "ho")))))

    async def look() -> None:
        async with chromium(str(BROWSER), tmp_path / "profile") as page:
            await page.open(path.as_uri())
            await page.until("window.viewer && viewer.parts.length === 3")
            cursor = "Number(document.querySelector('svg .cursor').getAttribute('x1'))"
            assert await page.evaluate(cursor) == 58  # the left end of the axis
            for _ in range(3):
                await page.press("ArrowRight")
            assert await page.evaluate("viewer.frame") == 3
            assert abs(await page.evaluate(cursor) - (58 + 3 / 19 * 572)) < 0.01
            await page.evaluate("document.querySelector('.worst button').click()")
            assert await page.evaluate("viewer.frame") == 19
            box = await page.evaluate(
                "(() => { const s = document.querySelector('.curves svg'); s.scrollIntoView(); "
                "const b = s.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
            )
            await page.drag((box[0] + box[2] * (58 + 572 / 2) / 640, box[1] + box[3] / 2))
            assert await page.evaluate("viewer.frame") in (9, 10)
            await page.until("document.querySelector('.worst canvas').width === 240")
            for width, theme in ((1280, "light"), (400, "dark")):
                await page.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
                await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
                assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert page.complaints == []

    asyncio.run(look())
