"""A scene as a file of rerun (.rrd), where rerun-sdk is installed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from holdprep.errors import HoldprepError
from holdprep.io.atomic import atomic_path
from holdprep.viewers.colors import CONTACT_M, CONTACTS, GUESS, hand_color, object_color
from holdprep.viewers.scene import ResultTrack, Scene

JPEG_QUALITY = 75


def write(scenes: Sequence[Scene], path: Path) -> None:
    """Write the scenes; raises HoldprepError where rerun-sdk is not installed."""
    try:
        import rerun as rr
    except ImportError:
        raise HoldprepError("view=rerun needs rerun-sdk: pip install rerun-sdk") from None
    with atomic_path(path) as temporary:
        recording = rr.RecordingStream("holdprep")
        recording.save(str(temporary))
        for scene in scenes:
            for result in scene.results:
                _static(rr, recording, scene, result)
            for t in range(len(scene.names)):
                recording.set_time("frame", sequence=int(scene.frames[t]))
                jpeg = cv2.imencode(".jpg", scene.images[t], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
                for result in scene.results:
                    recording.log(f"{scene.seq}/{result.name}/camera", rr.EncodedImage(contents=jpeg, media_type="image/jpeg"))
                    _frame(rr, recording, scene, result, t)
        recording.flush()
        recording.disconnect()


def _static(rr: Any, recording: Any, scene: Scene, result: ResultTrack) -> None:
    root = f"{scene.seq}/{result.name}"
    recording.log(root, rr.ViewCoordinates.RDF, static=True)
    recording.log(f"{root}/camera", rr.Pinhole(image_from_camera=result.K, resolution=list(scene.image_size)), static=True)
    if result.obj is None:
        return
    color = object_color(result, "plain", 0)
    recording.log(f"{root}/object/cloud", rr.Points3D(result.obj.points_m, colors=[color], radii=0.001), static=True)
    if result.obj.surface is not None:
        surface = result.obj.surface
        each = np.where(surface.observed[:, None], np.array(color), np.array(GUESS)).astype(np.uint8)
        mesh = rr.Mesh3D(vertex_positions=surface.vertices_m, triangle_indices=surface.faces, vertex_colors=each)
        recording.log(f"{root}/object/surface", mesh, static=True)


def _frame(rr: Any, recording: Any, scene: Scene, result: ResultTrack, t: int) -> None:
    root = f"{scene.seq}/{result.name}"
    if result.obj is not None:
        T = result.obj.T_cam_obj[t]
        recording.log(f"{root}/object", rr.Transform3D(mat3x3=T[:3, :3], translation=T[:3, 3]))
    for hand in result.hands:
        vertices, name = hand.vertices_m[t], f"{root}/{hand.side}"
        if not np.isfinite(vertices).all():
            recording.log(name, rr.Clear(recursive=True))
            continue
        colors = np.tile(np.array(hand_color(result, hand), np.uint8), (len(vertices), 1))
        recording.log(name, rr.Mesh3D(vertex_positions=vertices, triangle_indices=hand.faces, vertex_colors=colors))
        if hand.distance_m is not None:
            near = vertices[hand.distance_m[t] <= CONTACT_M]
            recording.log(f"{name}/contacts", rr.Points3D(near, colors=[CONTACTS], radii=0.0015))
        for curve, values in (("error", hand.error), ("confidence", hand.confidence)):
            if values is not None and np.isfinite(values[t]):
                recording.log(f"{name}/{curve}", rr.Scalars(float(values[t])))
