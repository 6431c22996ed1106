"""A headless Chromium over its debugging socket: open, click, drag, press, look."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

STARTUP_S, ANSWER_S = 30, 30


class Page:
    """One page. Coordinates are the page's CSS pixels."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._count = socket, 0
        self.complaints: list[str] = []  # what the page's scripts threw or logged as an error

    async def call(self, method: str, **params: Any) -> dict:
        """One command of the DevTools protocol."""
        self._count += 1
        await self._socket.send_json({"id": self._count, "method": method, "params": params})
        while True:
            message = await asyncio.wait_for(self._socket.receive_json(), ANSWER_S)
            if message.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(message["params"]["exceptionDetails"].get("exception", {}).get("description")))
            if message.get("id") == self._count:
                assert "error" not in message, message["error"]
                return message["result"]

    async def evaluate(self, script: str) -> Any:
        """The value of an expression; promises are awaited."""
        found = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def until(self, script: str, seconds: float = 60) -> None:
        """Wait for an expression to be true."""
        for _ in range(int(seconds / 0.05)):
            if await self.evaluate(script):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never true: {script}; the page says: {await self.evaluate('document.body.innerText')}")

    async def open(self, address: str) -> None:
        await self.call("Runtime.enable")
        await self.call("Page.navigate", url=address)
        await self.until("document.readyState === 'complete'")

    async def drag(self, *points: tuple[float, float], button: str = "left") -> None:
        """Press at the first point, move through the others, release at the last: a click where there is one."""
        await self._mouse("mousePressed", points[0], button)
        for point in points[1:]:
            await self._mouse("mouseMoved", point, button)
        await self._mouse("mouseReleased", points[-1], button)

    async def _mouse(self, kind: str, point: tuple[float, float], button: str) -> None:
        held = {"left": 1, "right": 2}[button] if kind != "mouseReleased" else 0
        x, y = point
        await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, buttons=held, clickCount=1)

    async def press(self, key: str) -> None:
        text = {"text": key} if len(key) == 1 else {}
        await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"]))


@asynccontextmanager
async def chromium(binary: str, folder: Path, size: tuple[int, int] = (1280, 860)) -> AsyncIterator[Page]:
    """A page of a fresh Chromium; `folder` takes its profile."""
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run", "--disable-dev-shm-usage")
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        binary, *flags, f"--user-data-dir={folder}", f"--window-size={size[0]},{size[1]}", "about:blank", stdout=quiet, stderr=quiet
    )
    try:
        port_file = folder / "DevToolsActivePort"
        for _ in range(STARTUP_S * 10):
            if port_file.is_file() and port_file.read_text().count("\n"):
                break
            await asyncio.sleep(0.1)
        port = int(port_file.read_text().split("\n")[0])
        async with aiohttp.ClientSession() as client:
            async with client.get(f"http://127.0.0.1:{port}/json/list") as answer:
                target = next(t for t in await answer.json() if t["type"] == "page")
            async with client.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        process.terminate()
        await process.wait()
