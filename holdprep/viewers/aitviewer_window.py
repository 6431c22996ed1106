"""A scene in aitviewer's window, as HOLD's own guide shows an alignment; where aitviewer is installed and there is a display."""

from typing import Any

import numpy as np

from holdprep.errors import HoldprepError
from holdprep.geometry.rigid import apply, invert
from holdprep.viewers.colors import Color, hand_color, object_color
from holdprep.viewers.scene import ResultTrack, Scene

FLIP = np.diag([1.0, -1.0, -1.0])  # OpenCV axes to OpenGL axes
POINTS = {"point_size": 4.0, "min_point_size": 1.0, "max_point_size": 4.0}  # px; they grow towards the camera


def show(scene: Scene, world: str = "camera") -> None:
    """Open the window with every result of the scene; raises HoldprepError where it cannot be opened."""
    try:
        from aitviewer.renderables.meshes import Meshes
        from aitviewer.renderables.point_clouds import PointClouds
        from aitviewer.viewer import Viewer
    except ImportError:
        raise HoldprepError("view=aitviewer needs aitviewer and a display: pip install aitviewer, or use view=viser") from None
    try:
        viewer: Any = Viewer()
    except Exception as error:  # each of its window libraries raises its own
        raise HoldprepError(
            f"aitviewer cannot open a window ({type(error).__name__}: {error}): it needs a display with OpenGL; use view=viser"
        ) from error
    shown: list[Any] = []
    for result in scene.results:
        nodes: list[Any] = []
        for hand in result.hands:
            vertices = np.nan_to_num(_seen(result, hand.vertices_m, world))
            nodes.append(Meshes(vertices, hand.faces, name=f"{result.name} {hand.side}", color=_rgba(hand_color(result, hand))))
        if result.obj is not None:
            points = _seen(result, apply(result.obj.T_cam_obj, result.obj.points_m), world)
            color = _rgba(object_color(result, "plain", 0))
            nodes.append(PointClouds(points, name=f"{result.name} object", color=color, **POINTS))
        for node in nodes:  # results overlap: the last one is shown, the others can be switched on
            viewer.scene.add(node, enabled=result is scene.results[-1])
        shown = nodes
    if shown:
        viewer.center_view_on_node(shown[0])
    viewer.run()


def _seen(result: ResultTrack, points_cam_m: np.ndarray, world: str) -> np.ndarray:
    """Points (T, N, 3) of the camera frame in the world of the window."""
    if world == "object" and result.obj is not None:
        return apply(invert(result.obj.T_cam_obj), points_cam_m)
    return points_cam_m @ FLIP.T


def _rgba(color: Color) -> tuple[float, float, float, float]:
    red, green, blue = (c / 255 for c in color)
    return red, green, blue, 1.0
