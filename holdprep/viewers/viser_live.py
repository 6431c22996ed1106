"""The live view by viser: a page of this machine, opened by an address with a token."""

import hmac
import http
import io
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from scipy.spatial.transform import Rotation

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import pinhole_K
from holdprep.geometry.rigid import invert
from holdprep.viewers.colors import CONTACT_M, CONTACTS, GUESS, frame_color, hand_color, object_color, vertex_colors
from holdprep.viewers.scene import ObjectTrack, ResultTrack, Scene

HOST = "127.0.0.1"
APART = 1.6  # distance of results side by side, by the extent of the scene
PICTURE_SIDE = 640  # px, longest side of the pictures in the frustum
FRAMES_PER_S = 12
UPRIGHT = np.array([1.0, -1.0, -1.0])  # the camera's axes (y down, z forward) to viser's (y up)


class LiveView:
    """Serves scenes until it is closed. Raises HoldprepError where viser is not installed or the port is in use."""

    def __init__(
        self, scenes: Sequence[Scene], results: Sequence[str] | None = None, world: str = "camera", color: str = "plain", port: int = 0
    ) -> None:
        self.scenes, self.scene, self.first, self.world, self.color = list(scenes), scenes[0], results, world, color
        self._token = secrets.token_urlsafe(24)
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self.server = _server(port, self._token)
        self.port = int(self.server.get_port())
        self._nodes: dict[str, Any] = {}
        self._build()
        self._choose(0)

    @property
    def address(self) -> str:
        """The address with the token; others are refused."""
        return f"http://{HOST}:{self.port}/?token={self._token}"

    def serve(self) -> None:
        """Wait, and play if asked to, until `close`."""
        while not self._ended.wait(1 / FRAMES_PER_S):
            if self._play.value:
                self._frame.value = (int(self._frame.value) + 1) % len(self.scene.names)

    def close(self) -> None:
        """End the server."""
        self._ended.set()
        self.server.stop()

    # controls

    def _build(self) -> None:
        gui = self.server.gui
        gui.configure_theme(control_layout="collapsible", show_logo=False)
        if len(self.scenes) > 1:
            names = [scene.seq for scene in self.scenes]
            which = gui.add_dropdown("sequence", names)
            which.on_update(lambda _: self._choose(names.index(which.value)))
        self._frame = gui.add_slider("frame", 0, max(len(self.scene.names) - 1, 1), 1, 0)
        self._play = gui.add_checkbox("play", False)
        self._name = gui.add_text("name", "", disabled=True)
        self._world = gui.add_dropdown("at rest", ["camera", "object"], initial_value=self.world)
        self._color = gui.add_dropdown("colour by", ["plain", "error", "confidence", "distance"], initial_value=self.color)
        self._surface = gui.add_checkbox("surface", False)
        self._results = gui.add_folder("results")
        for control in (self._frame, self._world, self._color, self._surface):
            control.on_update(lambda _: self.draw())

    def _choose(self, number: int) -> None:
        """Show another sequence."""
        with self._lock:
            self.scene = self.scenes[number]
            self._remove(set(self._nodes))
            self._frame.max = max(len(self.scene.names) - 1, 1)
            self._frame.value = min(int(self._frame.value), len(self.scene.names) - 1)
            for box in getattr(self, "_boxes", {}).values():
                box.remove()
            width, height = self.scene.image_size
            # a sequence without results is shown with its pictures alone, by a phone's camera
            self._found = list(self.scene.results) or [ResultTrack("pictures", pinhole_K(max(width, height), width, height))]
            last = list(self.first or [*[r.name for r in self._found if r.name != "truth"][-1:], "truth"])
            with self._results:
                self._boxes = {r.name: self.server.gui.add_checkbox(r.title, r.name in last) for r in self._found}
            for box in self._boxes.values():
                box.on_update(lambda _: self.draw())
            self._look_at(next((r for r in self._found if r.name in last), None))
            self.draw()

    def _look_at(self, result: ResultTrack | None) -> None:
        """The first view of a browser that connects: the result from behind the camera, from the right and above."""
        self.server.scene.set_up_direction("+y")
        if result is None:
            return
        middle = len(self.scene.names) // 2
        points = [hand.vertices_m[middle] for hand in result.hands]
        centre = np.nanmedian(np.concatenate(points), axis=0) if points else np.zeros(3)
        target = (centre if np.isfinite(centre).all() else np.zeros(3)) * UPRIGHT
        self.server.initial_camera.look_at = tuple(target)
        self.server.initial_camera.position = tuple(target + 2.5 * _extent_m(result) * np.array([1.2, 0.6, 0.5]))

    # drawing

    def draw(self) -> None:
        """Show the chosen frame of the chosen results."""
        with self._lock:
            t = min(int(self._frame.value), len(self.scene.names) - 1)
            self._name.value = str(self.scene.names[t])
            self.world, self.color = self._world.value, self._color.value
            shown = [r for r in self._found if self._boxes[r.name].value]
            kept: set[str] = set()
            for k, result in enumerate(shown):
                kept |= self._draw_result(result, t, k)
            self._remove(self._nodes.keys() - kept)

    def _remove(self, names: set[str]) -> None:
        """Remove nodes, children before their parents."""
        for name in sorted(names, key=len, reverse=True):
            self._nodes.pop(name).remove()

    def _draw_result(self, result: ResultTrack, t: int, k: int) -> set[str]:
        """Draw a result as number k of those side by side; returns the names of its nodes."""
        root = f"/{result.name}"
        offset = np.array([APART * _extent_m(result) * k, 0.0, 0.0])
        pose = np.eye(4)
        if self.world == "object" and result.obj is not None:
            pose = invert(result.obj.T_cam_obj[t])
        self._frame_node(root, np.diag([*UPRIGHT, 1.0]), offset)
        self._frame_node(f"{root}/world", pose, np.zeros(3))
        drawn = {root, f"{root}/world", self._frustum(result, t, f"{root}/world/camera")}
        if result.obj is not None:
            drawn |= self._draw_object(result.obj, t, f"{root}/world/object", object_color(result, self.color, t))
        for hand in result.hands:
            vertices = hand.vertices_m[t]
            if not np.isfinite(vertices).all():
                continue
            name = f"{root}/world/{hand.side}"
            colors = vertex_colors(hand, t) if self.color == "distance" else None
            plain = frame_color(hand, self.color, t, result.hands) or hand_color(result, hand)
            self._mesh(name, vertices, hand.faces, colors if colors is not None else plain, 1.0 if hand.is_valid[t] else 0.35)
            drawn.add(name)
            if hand.distance_m is not None and (near := hand.distance_m[t] <= CONTACT_M).any():
                self._points(f"{name}_contacts", vertices[near], CONTACTS, 0.0015)
                drawn.add(f"{name}_contacts")
        return drawn

    def _draw_object(self, obj: ObjectTrack, t: int, root: str, color: tuple[int, int, int]) -> set[str]:
        self._frame_node(root, obj.T_cam_obj[t], np.zeros(3))
        drawn = {root, f"{root}/cloud"}
        self._points(f"{root}/cloud", obj.points_m, color, 0.001)
        if self._surface.value and obj.surface is not None:
            each = np.where(obj.surface.observed[:, None], np.array(color), np.array(GUESS))
            self._mesh(f"{root}/surface", obj.surface.vertices_m, obj.surface.faces, each, 1.0)
            drawn.add(f"{root}/surface")
        return drawn

    def _frame_node(self, name: str, T: np.ndarray, offset: np.ndarray) -> None:
        node = self._nodes.get(name) or self.server.scene.add_frame(name, show_axes=False)
        self._nodes[name] = node
        node.wxyz = Rotation.from_matrix(T[:3, :3]).as_quat()[[3, 0, 1, 2]]
        node.position = T[:3, 3] + offset

    def _frustum(self, result: ResultTrack, t: int, name: str) -> str:
        width, height = self.scene.image_size
        image = self.scene.images[t][..., ::-1]
        step = max(1, round(max(width, height) / PICTURE_SIDE))
        node = self._nodes.get(name)
        if node is None:
            node = self.server.scene.add_camera_frustum(
                name, 2 * np.arctan(height / 2 / result.K[1, 1]), width / height, scale=0.08, thickness=0.001
            )
            self._nodes[name] = node
        node.image = np.ascontiguousarray(image[::step, ::step])
        return name

    def _mesh(self, name: str, vertices: np.ndarray, faces: np.ndarray, color: Any, opacity: float) -> None:
        """A mesh in one colour, or in one per vertex (V, 3)."""
        if isinstance(color, np.ndarray):
            import trimesh

            mesh = trimesh.Trimesh(vertices, faces, vertex_colors=color.astype(np.uint8), process=False)
            self._nodes[name] = self.server.scene.add_mesh_trimesh(name, mesh)  # replaces the node of this name
            return
        look = {"color": color, "opacity": None if opacity == 1.0 else opacity, "side": "double"}
        self._nodes[name] = self.server.scene.add_mesh_simple(name, vertices, faces, **look)

    def _points(self, name: str, points: np.ndarray, color: tuple[int, int, int], size: float) -> None:
        self._nodes[name] = self.server.scene.add_point_cloud(name, points, color, point_size=size, precision="float32")


def _extent_m(result: ResultTrack) -> float:
    """The size of what a result shows in one frame."""
    parts = [hand.vertices_m[len(hand.vertices_m) // 2] for hand in result.hands]
    parts += [] if result.obj is None else [result.obj.points_m]
    extents = [float(np.ptp(p[np.isfinite(p).all(axis=1)], axis=0).max()) for p in parts if np.isfinite(p).all(axis=1).any()]
    return max([*extents, 0.1])


def _server(port: int, token: str) -> Any:
    """viser's server on this machine alone, which refuses whoever does not name the token."""
    try:
        import viser
    except ImportError:
        raise HoldprepError(
            "view=viser needs viser: pip install 'holdprep[view]', or write a file that needs nothing: view.export=true"
        ) from None
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise HoldprepError(f"port {port} of {HOST} cannot be used ({error.strerror}): set view.port=0 or another") from None
    with _guarded(token), redirect_stdout(io.StringIO()):  # viser prints addresses without the token
        return viser.ViserServer(HOST, port, label="holdprep", verbose=False)


@contextmanager
def _guarded(token: str) -> Iterator[None]:
    """Servers that start in this block ask for the token: viser has no access control of its own."""
    import websockets.asyncio.server as websockets_server

    serve = websockets_server.serve

    def with_token(*args: Any, process_request: Callable[..., Any] | None = None, **options: Any) -> Any:
        return serve(*args, process_request=_checked(process_request, token), **options)

    websockets_server.serve = with_token  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        websockets_server.serve = serve  # type: ignore[misc]


def _checked(process_request: Callable[..., Any] | None, token: str) -> Callable[..., Any]:
    """A server's handler of requests that first checks the token: in the address, which sets a cookie, or in the cookie."""
    cookie = f"holdprep_{secrets.token_hex(4)}"  # cookies are shared by all ports: each server has its own

    def handle(connection: Any, request: Any) -> Any:
        given = parse_qs(urlsplit(request.path).query).get("token", [""])[0]
        kept = SimpleCookie(request.headers.get("Cookie", "")).get(cookie)
        offered = given or ("" if kept is None else kept.value)
        if not hmac.compare_digest(offered.encode(errors="replace"), token.encode()):
            return connection.respond(http.HTTPStatus.FORBIDDEN, "open the whole address that the command has printed\n")
        answer = None if process_request is None else process_request(connection, request)
        if answer is not None and given:
            answer.headers["Set-Cookie"] = f"{cookie}={token}; HttpOnly; SameSite=Strict; Path=/"
        return answer

    return handle
