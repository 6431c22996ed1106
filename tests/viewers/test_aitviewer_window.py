"""view=aitviewer with a stand-in for the package, which is not among the tests' dependencies."""

import sys
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

from holdprep.errors import HoldprepError
from holdprep.viewers import aitviewer_window
from tests.viewers.scenes import small_scene


class Node:
    def __init__(self, points: np.ndarray, faces: np.ndarray | None = None, **options: Any) -> None:
        self.points, self.options, self.enabled = points, options, True


class Window:
    opened: ClassVar[list["Window"]] = []
    refuses = False

    def __init__(self) -> None:
        if Window.refuses:
            raise RuntimeError("Cannot detect window with OpenGL support")
        self.scene, self.nodes, self.centre, self.has_run = self, list[Node](), None, False
        Window.opened.append(self)

    def add(self, node: Node, enabled: bool = True) -> None:
        node.enabled = enabled
        self.nodes.append(node)

    def center_view_on_node(self, node: Node) -> None:
        self.centre = node

    def run(self) -> None:
        self.has_run = True


@pytest.fixture(autouse=True)
def _package(monkeypatch: pytest.MonkeyPatch) -> None:
    Window.opened, Window.refuses = [], False
    contents = {"": {}, ".renderables": {}, ".renderables.meshes": {"Meshes": Node}, ".renderables.point_clouds": {"PointClouds": Node}}
    for name, values in (contents | {".viewer": {"Viewer": Window}}).items():
        module = ModuleType("aitviewer" + name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, "aitviewer" + name, module)


def test_the_last_result_is_shown_and_the_others_can_be_switched_on():
    some = small_scene()
    aitviewer_window.show(some)
    (window,) = Window.opened
    assert window.has_run and window.centre in window.nodes and window.centre.enabled
    last = some.results[-1].name
    assert {node.options["name"].split()[0] for node in window.nodes if node.enabled} == {last}
    assert {node.options["name"].split()[0] for node in window.nodes} == {r.name for r in some.results}
    hand = next(node for node in window.nodes if node.enabled and "right" in node.options["name"])
    vertices = some.results[-1].hands[0].vertices_m
    np.testing.assert_allclose(hand.points, np.nan_to_num(vertices) * [1, -1, -1], atol=1e-6)


def test_without_a_display_it_is_one_line():
    Window.refuses = True
    with pytest.raises(HoldprepError, match=r"cannot open a window \(RuntimeError: Cannot detect.*use view=viser"):
        aitviewer_window.show(small_scene())
