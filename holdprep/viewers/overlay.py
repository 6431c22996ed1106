"""A scene's result drawn over its pictures."""

from collections.abc import Iterator

import numpy as np

from holdprep.geometry.cameras import project
from holdprep.geometry.rigid import apply
from holdprep.viewers.scene import ResultTrack, Scene
from holdprep.viz.overlay import draw_scene

BEST = ("ho", "o", "h", "slerp", "init")  # what is shown where one result is asked for
POINTS = 1500  # most points of the cloud that are drawn


def best_result(scene: Scene) -> ResultTrack | None:
    """The last result of the pipeline, without the ground truth."""
    return next((found for name in BEST if (found := scene.result(name)) is not None), None)


def overlays(scene: Scene, result: ResultTrack) -> Iterator[np.ndarray]:
    """Pictures (H, W, 3) BGR of the scene's frames with the object's cloud and the hands; what was not measured is pale."""
    for t in range(len(scene.names)):
        yield overlay(scene, result, t)


def overlay(scene: Scene, result: ResultTrack, t: int) -> np.ndarray:
    """One frame's picture with the object's cloud and the hands."""
    hands = [hand for hand in result.hands if np.isfinite(hand.vertices_m[t]).all()]
    meshes = {hand.side: (hand.vertices_m[t].astype(float), hand.faces) for hand in hands}
    points_px, unmeasured = np.zeros((0, 2)), [hand.side for hand in hands if not hand.is_valid[t]]
    if result.obj is not None:
        points = result.obj.points_m[:: max(1, len(result.obj.points_m) // POINTS)]
        cam = apply(result.obj.T_cam_obj[t], points)
        points_px = project(cam[cam[:, 2] > 0], result.K)
        unmeasured += [] if result.obj.is_registered[t] else ["object"]
    return draw_scene(scene.images[t], points_px, meshes, result.K, unmeasured)  # type: ignore[arg-type]
