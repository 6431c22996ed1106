"""The server of the click page, local only, with three static files."""

import asyncio
import hmac
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from aiohttp import web

from holdprep.errors import HoldprepError
from holdprep.segmenters import ENTITIES
from holdprep.segmenters.prompts import EntityPrompt
from holdprep.ui.clicks import ClickSession
from holdprep.viz.overlay import COLORS

HOST = "127.0.0.1"
PAGE = Path(__file__).parent / "page"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ClickServer:
    """Serves a ClickSession. `save` writes the prompts; `again` are the frames to click again, with reasons."""

    def __init__(
        self, session: ClickSession, seq: str, names: Sequence[str], save: Callable[[], Path], again: dict[int, list[str]] | None = None
    ) -> None:
        self.session, self.names, self.again = session, list(names), again or {}
        self._seq, self._save = seq, save
        self._done = asyncio.Event()
        self._token = secrets.token_urlsafe(24)  # of this run; other users of the machine can reach the port
        self._cookie = f"holdprep_{secrets.token_hex(4)}"  # cookies are shared by all ports: each server has its own

    def app(self) -> web.Application:
        """The routes; requests that another site's page could have made are refused."""
        app = web.Application(middlewares=[_local_only, self._with_token, _errors])
        app.add_routes(
            [
                web.get("/", lambda _: _file("page.html")),
                web.get("/page.css", lambda _: _file("page.css")),
                web.get("/page.js", lambda _: _file("page.js")),
                web.get("/api/state", self._state),
                web.get("/api/image/{frame}", self._image),
                web.get("/api/overlay/{frame}", self._overlay),
                web.post("/api/edit", self._edit),
                web.post("/api/undo", self._undo),
                web.post("/api/propagate", self._propagate),
                web.post("/api/save", self._save_prompts),
                web.post("/api/done", self._finish),
            ]
        )
        return app

    async def run(self, port: int, started: Callable[[str], None]) -> None:
        """Serve until the page is done; `started` is called with the address. Raises HoldprepError where the port is in use."""
        runner = web.AppRunner(self.app(), access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, HOST, port, shutdown_timeout=1)
            try:
                await site.start()
            except OSError as error:
                raise HoldprepError(f"port {port} of {HOST} cannot be used ({error.strerror}): set segmenter.port=0 or another") from None
            address = runner.addresses[0]
            started(f"http://{address[0]}:{address[1]}/?token={self._token}")
            await self._done.wait()
        finally:
            await runner.cleanup()

    @web.middleware
    async def _with_token(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse requests without this run's token: in the address, which sets a cookie, or in the cookie."""
        given, kept = request.query.get("token"), request.cookies.get(self._cookie, "")
        said = (kept if given is None else given).encode(errors="replace")
        if not hmac.compare_digest(said, self._token.encode()):
            raise web.HTTPForbidden(text="open the whole address that the command has printed: it holds this run's token")
        response = await handler(request)
        if given is not None:
            response.set_cookie(self._cookie, self._token, httponly=True, samesite="Strict")
        return response

    async def _state(self, _: web.Request) -> web.Response:
        session = self.session
        height, width = session.images[0].shape[:2]
        prompts = {t: {e: _plain(p) for e, p in by.items()} for t, by in sorted(session.prompts.items())}
        colors = {e: "#" + "".join(f"{c:02x}" for c in COLORS[e][::-1]) for e in ENTITIES}
        state = {"seq": self._seq, "names": self.names, "width": width, "height": height, "entities": ENTITIES, "colors": colors}
        return web.json_response(state | {"prompts": prompts, "again": self.again, "progress": asdict(session.progress)})

    async def _image(self, request: web.Request) -> web.Response:
        def encode() -> bytes:
            return cv2.imencode(".jpg", self.session.images[self._frame(request)], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()

        return web.Response(body=await asyncio.to_thread(encode), content_type="image/jpeg", headers={"Cache-Control": "max-age=3600"})

    async def _overlay(self, request: web.Request) -> web.Response:
        body = await asyncio.to_thread(self.session.overlay, self._frame(request))
        return web.Response(body=body, content_type="image/png", headers={"Cache-Control": "no-store"})

    async def _edit(self, request: web.Request) -> web.Response:
        try:
            request_data = await request.json()
            arguments = (
                int(request_data["frame"]),
                str(request_data["entity"]),
                request_data["action"],
                [float(v) for v in request_data.get("at", [])],
            )
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
            raise HoldprepError("an edit needs frame, entity, action and where") from None
        if arguments[2] not in ("positive", "negative", "box", "absent", "clear"):
            raise HoldprepError(f"there is no action {str(arguments[2])[:40]}")
        await asyncio.to_thread(self.session.edit, *arguments)
        return await self._state(request)

    async def _undo(self, request: web.Request) -> web.Response:
        return web.json_response({"frame": await asyncio.to_thread(self.session.undo)})

    async def _propagate(self, _: web.Request) -> web.Response:
        self.session.propagate()
        return web.json_response({})

    async def _save_prompts(self, _: web.Request) -> web.Response:
        return web.json_response({"path": str(await asyncio.to_thread(self._save))})

    async def _finish(self, request: web.Request) -> web.Response:
        response = await self._save_prompts(request)
        asyncio.get_running_loop().call_later(0.3, self._done.set)  # the answer goes out first
        return response

    def _frame(self, request: web.Request) -> int:
        text = request.match_info["frame"]
        if not text.isdecimal() or len(text) > 9 or int(text) >= len(self.names):
            raise HoldprepError(f"there is no frame {text}")
        return int(text)


def _plain(prompt: EntityPrompt) -> dict[str, Any]:
    def numbers(values: Any) -> list[Any]:
        return np.asarray(values, float).tolist() if values is not None else []

    found = {"positive": numbers(prompt.positive), "negative": numbers(prompt.negative), "box": numbers(prompt.box)}
    return found | {"polygons": [numbers(p) for p in prompt.polygons], "absent": prompt.absent}


async def _file(name: str) -> web.FileResponse:
    return web.FileResponse(PAGE / name, headers={"Cache-Control": "no-cache"})


@web.middleware
async def _local_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Another site's page must neither reach this server by a name of its own nor post to it without the browser asking first."""
    if request.url.host not in (HOST, "localhost"):
        raise web.HTTPForbidden(text="this page is for this machine alone")
    if request.method == "POST" and request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="json only")
    return await handler(request)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except HoldprepError as error:
        return web.json_response({"error": str(error)}, status=400)
