"""The exported page: self-contained, small, no text of the user's as markup, and it works in Chromium."""

import asyncio
import base64
import hashlib
import os
import re
from pathlib import Path

import pytest

from holdprep.viewers.page import view_page
from tests.ui.chromium import chromium
from tests.viewers.scenes import small_scene

EVIL = "</script><script>document.title='bad'</script>"
BROWSER = os.environ.get("HOLDPREP_CHROMIUM")


def test_nothing_is_fetched_and_only_its_own_script_may_run():
    html = view_page([small_scene()], {"results": None, "world": "camera", "color": "plain"})
    assert not re.search(r"https?:|@import|<link|<img|<iframe", html)
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html).group(1).replace("&#39;", "'")
    assert f"script-src 'sha256-{digest}'" in policy and policy.startswith("default-src 'none'")


def test_names_are_text():
    html = view_page([small_scene(seq=EVIL)], {})
    assert "<script>document.title" not in html and len(re.findall("<script", html)) == 3


def test_300_frames_of_five_results_are_below_25_megabytes():
    html = view_page([small_scene(300, results=("init", "slerp", "h", "o", "ho"))], {})
    assert len(html) < 25e6


@pytest.mark.skipif(BROWSER is None, reason="set HOLDPREP_CHROMIUM to a Chromium")
def test_the_page_in_a_browser(tmp_path: Path):
    path = tmp_path / "view.html"
    scenes = [small_scene(6, EVIL, ("slerp", "ho", "truth"), lost=(2,)), small_scene(4, "second", ())]
    path.write_text(view_page(scenes, {"results": ["slerp", "ho"], "world": "camera", "color": "distance"}))

    async def look() -> None:
        async with chromium(str(BROWSER), tmp_path / "profile") as page:
            await page.open(path.as_uri())
            await page.until("window.viewer && viewer.parts.length === 4")
            assert await page.evaluate("document.title") != "bad"
            await page.press("ArrowRight")
            await page.press("ArrowRight")
            assert await page.evaluate("viewer.frame") == 2
            assert await page.evaluate("viewer.color") == "distance"
            await page.press("w")
            assert await page.evaluate("viewer.world") == "object"
            await page.press(" ")
            await page.until("viewer.frame === 5")
            await page.press(" ")
            colors = """(() => { const c = viewer.parts[1].deep; viewer.go(3); viewer.parts[1].draw(3); const o = document.createElement('canvas');
                o.width = c.width; o.height = c.height; const x = o.getContext('2d'); x.drawImage(c, 0, 0);
                return new Set(new Uint32Array(x.getImageData(0, 0, o.width, o.height).data.buffer)).size; })()"""
            assert await page.evaluate(colors) > 20  # a shaded mesh, not a plain canvas
            await page.evaluate("viewer.choose(1)")
            await page.until("viewer.scene.seq === 'second' && viewer.parts.length === 1")
            for width in (1280, 400):
                await page.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
                assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert page.complaints == []

    asyncio.run(look())
