"""The page's API by HTTP, and the page itself in a headless Chromium."""

import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import cv2
import numpy as np
import pytest

from holdprep.segmenters import classical
from holdprep.segmenters.option import PromptedSegmenter
from holdprep.segmenters.prompts import read_prompts, write_prompts
from holdprep.ui.clicks import ClickSession
from holdprep.ui.server import ClickServer
from tests.synthetic import SyntheticSequence, make_sequence
from tests.ui.chromium import chromium

FRAMES, SIZE = 7, (320, 240)
NAMES = [f"{2 * t:04d}" for t in range(FRAMES)]


@pytest.fixture(scope="module")
def seq() -> SyntheticSequence:
    return make_sequence(("right",), frames=FRAMES, size=SIZE, degrees=24)


def box_of(mask: np.ndarray) -> list[float]:
    ys, xs = np.nonzero(mask)
    return [float(v) for v in (xs.min(), ys.min(), xs.max(), ys.max())]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@asynccontextmanager
async def serving(seq: SyntheticSequence, path: Path):
    """(session, address, task) of a page over the classical segmenter that reads and saves `path`; frame 3 is to click again."""
    prompts = {NAMES.index(n): p for n, p in read_prompts(path, SIZE).items()} if path.is_file() else {}
    session = ClickSession(seq.images, PromptedSegmenter(classical.outline, classical.propagate), prompts, {})

    def save() -> Path:
        write_prompts(path, {NAMES[t]: p for t, p in session.prompts.items()}, SIZE)
        return path

    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = ClickServer(session, "box", NAMES, save, {3: ["object: flickers"]})
    task = asyncio.create_task(server.run(0, address.set_result))
    done, _ = await asyncio.wait({task, address}, return_when=asyncio.FIRST_COMPLETED)
    assert address in done, task.exception()
    try:
        yield session, address.result(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def client_of(address: str):
    """A client that has opened the page, as a browser does: the token of the address has set a cookie."""
    jar = aiohttp.CookieJar(unsafe=True)  # of an address without a name
    async with aiohttp.ClientSession(address.partition("?")[0], cookie_jar=jar) as client:
        async with client.get(address) as answer:
            assert answer.status == 200
        yield client


def test_click_propagate_correct_save_and_load_again(seq, tmp_path: Path):
    async def story() -> None:
        path = tmp_path / "prompts.yaml"
        async with serving(seq, path) as (session, address, task), client_of(address) as client:

            async def post(what: str, **body: object) -> dict:
                async with client.post(f"/api/{what}", json=body) as answer:
                    assert answer.status == 200, await answer.text()
                    return await answer.json()

            async def state() -> dict:
                async with client.get("/api/state") as answer:
                    return await answer.json()

            assert (await state())["names"] == NAMES and (await state())["again"] == {"3": ["object: flickers"]}
            for entity in ("object", "right"):
                after = await post("edit", frame=0, entity=entity, action="box", at=box_of(seq.masks[entity][0]))
            assert after["prompts"]["0"]["object"]["box"] == box_of(seq.masks["object"][0])
            await post("propagate")
            while (await state())["progress"]["running"]:
                await asyncio.sleep(0.05)
            assert (await state())["progress"]["error"] is None
            before = iou(session.labels(FRAMES - 1) == 3, seq.masks["object"][-1])
            await post("edit", frame=FRAMES - 1, entity="object", action="box", at=box_of(seq.masks["object"][-1]))
            assert iou(session.labels(FRAMES - 1) == 3, seq.masks["object"][-1]) > 0.7 and before > 0.5
            await post("edit", frame=0, entity="object", action="negative", at=[2, 2])
            assert (await post("undo"))["frame"] == 0
            async with client.get(f"/api/overlay/{FRAMES - 1}") as answer:
                overlay = cv2.imdecode(np.frombuffer(await answer.read(), np.uint8), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(overlay[..., 3] > 0, session.labels(FRAMES - 1) > 0)
            async with client.get("/api/image/4") as answer:
                image = cv2.imdecode(np.frombuffer(await answer.read(), np.uint8), cv2.IMREAD_COLOR)
            assert np.abs(image.astype(int) - seq.images[4]).mean() < 3
            assert (await post("done"))["path"] == str(path)
            await asyncio.wait_for(task, 10)
        async with serving(seq, path) as (again, _, _):
            assert set(again.prompts) == {0, FRAMES - 1} and set(again.prompts[0]) == {"object", "right"}
            np.testing.assert_allclose(again.prompts[0]["right"].box, session.prompts[0]["right"].box, atol=0.05)

    asyncio.run(story())


def test_mistakes_and_strangers_are_refused(seq, tmp_path: Path):
    async def story() -> None:
        async with serving(seq, tmp_path / "prompts.yaml") as (_, address, _), client_of(address) as client:
            wrong = {"frame": 0, "entity": "object", "action": "box", "at": [1, 2]}
            for body, words in (
                (wrong, "needs 4 numbers"),
                (wrong | {"action": "paint"}, "no action paint"),
                ({"frame": "x"}, "frame, entity"),
                ([], "frame, entity"),
                (wrong | {"at": 3}, "frame, entity"),
                (wrong | {"at": [10**400]}, "frame, entity"),
                (wrong | {"action": {"a": []}}, "no action"),
                (wrong | {"frame": 99}, "no frame 99"),
            ):
                async with client.post("/api/edit", json=body) as answer:
                    assert answer.status == 400 and words in (await answer.json())["error"]
            for data in (b"{", b"[" * 100_000, b"\xff", b'{"frame": 1' + b"0" * 5000 + b"}", b"null", b"", b'{"frame": Infinity}'):
                async with client.post("/api/edit", data=data, headers={"Content-Type": "application/json"}) as answer:
                    assert answer.status == 400 and "frame, entity" in (await answer.json())["error"]
            for path in ("/api/image/" + "9" * 5000, "/api/image/99", "/api/overlay/-1", "/api/image/x"):
                async with client.get(path) as answer:
                    assert answer.status == 400
            async with client.post("/api/save", data="{}", headers={"Content-Type": "text/plain"}) as answer:
                assert answer.status == 415  # what a form of another site could send
            async with client.get("/api/state", headers={"Host": "elsewhere.example"}) as answer:
                assert answer.status == 403
            for name in ("", "page.js", "page.css"):
                async with client.get(f"/{name}") as answer:
                    assert answer.status == 200
                    assert "http" not in (await answer.text()).replace("http-equiv", "")  # nothing is fetched from elsewhere

    asyncio.run(story())


def test_another_user_of_the_machine_is_refused(seq, tmp_path: Path):
    """Everything needs the token of this run: pictures, state, and the end of the work."""

    async def story() -> None:
        async with serving(seq, tmp_path / "prompts.yaml") as (_, address, task), serving(seq, tmp_path / "b.yaml") as (_, other, _):
            bare, token = address.split("?token=")
            assert len(token) >= 32 and token != other.split("?token=")[1]
            async with aiohttp.ClientSession(bare, cookie_jar=aiohttp.CookieJar(unsafe=True)) as stranger:
                for path in ("/", "/page.js", "/api/state", "/api/image/0", "/api/overlay/0", f"/api/state?token={token}x", "/?token="):
                    async with stranger.get(path) as answer:
                        assert answer.status == 403 and "holdprep" not in answer.headers.get("Set-Cookie", "")
                for what in ("edit", "undo", "propagate", "save", "done"):
                    async with stranger.post(f"/api/{what}", json={}) as answer:
                        assert answer.status == 403
            # another run's token and cookie
            async with client_of(other) as client, client.get(f"{bare}api/state") as answer:
                assert answer.status == 403
            async with client_of(address) as client, client.get("/api/image/0") as answer:
                assert answer.status == 200
            assert not task.done()

    asyncio.run(story())


def test_the_page_in_a_browser(seq, tmp_path: Path):
    binary = os.environ.get("HOLDPREP_CHROMIUM")
    if not binary:
        pytest.skip("set HOLDPREP_CHROMIUM to a Chromium binary (Debian: /usr/bin/chromium) to run this")
    shots = Path(os.environ.get("HOLDPREP_SCREENSHOTS", tmp_path))

    async def story() -> None:
        path = tmp_path / "prompts.yaml"
        async with serving(seq, path) as (session, address, task), chromium(binary, tmp_path / "profile") as page:
            await page.open(address)
            await page.until("!!overlay && busy === 0")
            assert await page.evaluate("frame") == 3  # the frame to click again

            async def drag(*points: tuple[float, float], button: str = "left") -> None:
                rect = "(() => { const b = view.getBoundingClientRect(); return [b.x, b.y, b.width, b.height] })()"
                left, top, width, height = await page.evaluate(rect)
                assert width / height == pytest.approx(SIZE[0] / SIZE[1], rel=0.01)
                ends = [(left + (x + 0.5) * width / SIZE[0], top + (y + 0.5) * height / SIZE[1]) for x, y in points]
                await page.drag(*ends, button=button)
                await page.until("busy === 0")

            async def draw_box(key: str, mask: np.ndarray) -> None:
                x1, y1, x2, y2 = box_of(mask)
                await page.press(key)
                await drag((x1, y1), ((x1 + x2) / 2, y2), (x2, y2))

            await page.evaluate("guarded(() => show(0))")
            await page.until("frame === 0 && busy === 0")
            await draw_box("3", seq.masks["object"][0])
            await draw_box("1", seq.masks["right"][0])
            np.testing.assert_allclose(session.prompts[0]["object"].box, box_of(seq.masks["object"][0]), atol=0.6)
            await page.screenshot(shots / "boxes.png")
            await page.press("Enter")
            await page.until("busy === 0 && document.getElementById('status').textContent.startsWith('propagated')")
            for _ in range(FRAMES - 1):
                await page.press("ArrowRight")
                await page.until("busy === 0")
            assert await page.evaluate("frame") == FRAMES - 1
            ys, xs = np.nonzero(seq.masks["object"][-1])
            await page.press("3")
            await drag((float(np.median(xs)), float(np.median(ys))))  # a click: on it
            await drag((3, 3), button="right")  # beside it
            prompt = session.prompts[FRAMES - 1]["object"]
            np.testing.assert_allclose(prompt.positive, [[np.median(xs), np.median(ys)]], atol=0.6)
            np.testing.assert_allclose(prompt.negative, [[3, 3]], atol=0.6)
            assert iou(session.labels(FRAMES - 1) == 3, seq.masks["object"][-1]) > 0.5
            await page.screenshot(shots / "corrected.png")
            await page.press("z")
            await page.until("busy === 0")
            assert session.prompts[FRAMES - 1]["object"].negative is None
            await page.press("s")
            await page.until("document.getElementById('status').textContent.startsWith('saved')")
            await page.evaluate("window.before = true; location.reload()")
            await page.until("!window.before && typeof state !== 'undefined' && !!state && !!overlay && busy === 0")
            assert await page.evaluate("Object.keys(state.prompts)") == ["0", str(FRAMES - 1)]
            await page.evaluate("document.getElementById('done').click()")
            await asyncio.wait_for(task, 10)
            assert page.complaints == []
        assert set(read_prompts(path, SIZE)) == {NAMES[0], NAMES[-1]}

    asyncio.run(story())
