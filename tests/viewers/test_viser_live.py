"""The live view is served on this machine only, and only with the token of its address."""

import asyncio
import socket
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest

from holdprep.errors import HoldprepError
from tests.viewers.scenes import small_scene

pytest.importorskip("viser")

from holdprep.viewers.viser_live import LiveView


@pytest.fixture(scope="module")
def view() -> Iterator[LiveView]:
    found = LiveView([small_scene(5, lost=(3,)), small_scene(3, "other"), small_scene(2, "half", ())])
    yield found
    found.close()


def test_the_page_needs_the_token(view: LiveView):
    bare = view.address.partition("?")[0]
    for address in (bare, f"{bare}?token=guess"):
        with pytest.raises(HTTPError, match="403"):
            urlopen(address)
    with urlopen(view.address) as answer:
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
        assert b"<html" in answer.read()
    assert urlopen(Request(bare, headers={"Cookie": cookie})).status == 200
    with pytest.raises(HTTPError, match="403"):
        urlopen(Request(bare, headers={"Cookie": "holdprep=guess"}))


def test_the_socket_needs_it_too(view: LiveView):
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidStatus

    async def status_of(address: str) -> int:
        try:
            async with connect(address, max_size=None):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code

    bare = f"ws://127.0.0.1:{view.port}/"
    assert asyncio.run(status_of(bare)) == 403
    assert asyncio.run(status_of(f"{bare}?token={view.address.partition('token=')[2]}")) == 101


def test_it_listens_on_this_machine_alone(view: LiveView):
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", view.port))  # would be in use, were it bound to all addresses


def test_frames_results_world_and_sequence_move_the_scene(view: LiveView):
    truth = view.scenes[0].result("ho")
    view._frame.value = 2
    view.draw()
    np.testing.assert_allclose(view._nodes["/ho/world/right"].vertices, truth.hands[0].vertices_m[2], atol=1e-6)
    np.testing.assert_allclose(view._nodes["/ho/world/object"].position, truth.obj.T_cam_obj[2, :3, 3], atol=1e-6)
    assert "/ho/world/right_contacts" in view._nodes and "/slerp/world/right" not in view._nodes
    view._boxes["slerp"].value = True
    view._world.value = "object"
    view._frame.value = 3  # the hand is lost
    view.draw()
    assert {"/slerp", "/ho"} <= view._nodes.keys() and "/ho/world/right" not in view._nodes
    assert np.linalg.norm(np.asarray(view._nodes["/ho"].position) - view._nodes["/slerp"].position) > 0.1  # side by side
    world = view._nodes["/ho/world"]
    R = truth.obj.T_cam_obj[3, :3, :3]
    np.testing.assert_allclose(world.position, -R.T @ truth.obj.T_cam_obj[3, :3, 3], atol=1e-6)
    view._choose(1)
    assert view.scene.seq == "other" and view._frame.max == 2
    view._choose(2)  # without any result: its pictures
    assert view._nodes["/pictures/world/camera"].image.shape == (120, 160, 3)


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(HoldprepError, match=f"port {port} of 127.0.0.1 cannot be used"):
            LiveView([small_scene(3)], port=port)
