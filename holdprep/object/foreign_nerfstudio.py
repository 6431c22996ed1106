"""Object poses of nerfstudio's transforms.json: poses of the camera in the object's frame, in OpenGL's axes, and a cloud as .ply."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import trimesh

from holdprep.errors import HoldprepError
from holdprep.io.bounded import inside, read_json
from holdprep.io.matching import match
from holdprep.object.foreign_camera import ForeignCamera, single_camera
from holdprep.object.reconstruction import RawReconstruction

FILE = "transforms.json"
CLOUD = "sparse_pc.ply"  # where ns-process-data writes it
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])  # camera axes: y up, z back
KEYS = {"fl_x": "fx", "fl_y": "fy", "cx": "cx", "cy": "cy", "k1": "k1", "k2": "k2", "k3": "k3", "k4": "k4", "p1": "p1", "p2": "p2"}
FISHEYE = ("OPENCV_FISHEYE", "EQUIRECTANGULAR", "FISHEYE624", "ORTHOPHOTO")


def read_transforms(path: Path, names: Sequence[str], image_size: tuple[int, int]) -> tuple[RawReconstruction, list[str]]:
    """Poses, camera and cloud of the frames `names`, and notes.

    Raises HoldprepError for other content, without a cloud, and for what `single_camera` and `matching.match` refuse.
    """
    tree = read_json(path)
    try:
        stems = [PurePosixPath(str(frame["file_path"])).stem for frame in tree["frames"]]
        T_obj_cam = np.array([frame["transform_matrix"] for frame in tree["frames"]], np.float64)
        cameras = [_camera({**tree, **frame}, image_size) for frame in tree["frames"]]
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:150]
        raise HoldprepError(f"{path} is no transforms.json of nerfstudio ({detail})") from None
    if T_obj_cam.shape != (len(stems), 4, 4) or not np.isfinite(T_obj_cam).all() or not stems:
        raise HoldprepError(f"{path} has poses of shape {T_obj_cam.shape}, (frames, 4, 4) finite numbers are needed")
    K, distortion = single_camera(str(path), cameras, image_size)
    found = match(str(path), stems, names)
    T, known = np.tile(np.eye(4), (len(names), 1, 1)), np.zeros(len(names), bool)
    for t, i in enumerate(found.of_frame):
        if i is not None:
            T[t], known[t] = np.linalg.inv(T_obj_cam[i] @ OPENGL), True
    return RawReconstruction(names, K, T, known, _cloud(path, tree), distortion=distortion), list(found.notes)


def _camera(values: Mapping[str, Any], image_size: tuple[int, int]) -> ForeignCamera:
    """The camera of one frame, whose values have priority over those of the file."""
    size = (int(values.get("w", image_size[0])), int(values.get("h", image_size[1])))
    known = {name: float(values[key]) for key, name in KEYS.items() if values.get(key) is not None}
    if "fx" not in known and "camera_angle_x" in values:
        known["fx"] = 0.5 * size[0] / np.tan(0.5 * float(values["camera_angle_x"]))
    if "fx" in known:
        known.setdefault("fy", known["fx"])
    model = str(values.get("camera_model", "OPENCV"))
    return ForeignCamera(model if model in FISHEYE else "FULL_OPENCV", size, {"cx": size[0] / 2, "cy": size[1] / 2, **known})


def _cloud(path: Path, tree: Mapping[str, Any]) -> np.ndarray:
    file = inside(path.parent, str(tree.get("ply_file_path") or CLOUD), str(path))
    if not file.is_file():
        raise HoldprepError(
            f"{path} has no cloud: {file.name} is not beside it; give the COLMAP model that it was made from, or 'ply_file_path' in the file"
        )
    try:
        cloud = trimesh.load(file, process=False)
    except Exception as error:  # readers of damaged files raise various exceptions
        raise HoldprepError(f"{file} is not a readable cloud ({type(error).__name__}: {error}); is it truncated?") from error
    return np.asarray(getattr(cloud, "vertices", np.zeros((0, 3))), np.float64)
