"""The chart of the object's size: an interval a source, in the place that its numbers say."""

import re

import pytest

from holdprep.quality.report import ReportData, StageReport, render_report, styled
from holdprep.quality.size_sources import size_chart, size_sources

METRICS = {
    "object.diameter_mm": 140.0,
    "object.scale": 0.28,
    "object.diameter_low_mm": 110.0,
    "object.diameter_high_mm": 160.0,
    "scale.contact.low": 0.27,
    "scale.contact.high": 0.3,
    "scale.depth_order.low": 0.1,
    "scale.depth_order.high": 0.29,
    "scale.all.low": 0.27,
    "scale.all.high": 0.29,
}


def test_intervals_are_in_millimetres_and_the_result_is_the_last():
    rows = size_sources(METRICS)
    assert list(rows) == ["contact", "depth order on rays", "all of these", "with the hand's own errors"]
    assert rows["contact"] == pytest.approx((135.0, 150.0))
    assert rows["with the hand's own errors"] == (110.0, 160.0)


def test_what_was_measured_of_the_object_is_the_result():
    rows = size_sources(
        METRICS | {"scale.points.low": 0.275, "scale.points.high": 0.285, "scale.depth_maps.low": 0.2, "scale.depth_maps.high": 0.3}
    )
    assert list(rows) == ["contact", "depth order on rays", "depth maps", "all of these", "clicked points", "what was measured"]
    assert rows["clicked points"] == pytest.approx((137.5, 142.5))


def test_a_bar_has_the_length_of_its_interval_and_a_wide_one_ends_at_the_chart():
    bars = [(float(a), float(b)) for a, b in re.findall(r'class="range c\d" x1="([\d.]+)" x2="([\d.]+)"', str(size_chart(METRICS)))]
    (line,) = re.findall(r'class="cursor" x1="([\d.]+)"', str(size_chart(METRICS)))
    assert len(bars) == 4
    px_per_mm = (bars[3][1] - bars[3][0]) / 50
    assert bars[0][1] - bars[0][0] == pytest.approx(15 * px_per_mm, abs=0.2)
    assert float(line) - bars[3][0] == pytest.approx(30 * px_per_mm, abs=0.2)
    assert bars[3][0] - bars[1][0] == pytest.approx(40 * px_per_mm, abs=0.2)  # the ray's bound of 50 mm is cut at half the size


def test_without_an_interval_there_is_no_chart():
    without = {name: value for name, value in METRICS.items() if name != "object.diameter_low_mm"}
    assert size_sources(without) == {}
    assert size_chart(without) is None


@pytest.mark.parametrize(("metrics", "count"), [(METRICS, 1), ({}, 0)])
def test_the_report_shows_it_where_there_is_one(metrics: dict[str, float], count: int):
    stages = [StageReport("align.o", 1.0, False, metrics)]
    page = render_report(ReportData(seq="a", version="0", hand_model="standin", created="today", stages=stages))
    assert page.count("Sources of the size") == count


def test_on_its_own_it_has_the_report_s_style():
    chart = size_chart(METRICS)
    assert chart is not None
    assert ".range" in styled(chart)
    assert str(chart) in styled(chart)
