"""WiLoR: the meshes of its demo (`demo.py --save_mesh`; HaMeR's demo writes the same), or the results of the package wilor_mini.

demo.py writes `<frame>_<number>.obj` for each detected hand: vertices in metres in the frame of its assumed camera (focal length
5000 / 256 longer image sides, centre (w / 2, h / 2)), left hands mirrored back, all in OpenGL's axes.

wilor_mini's `predict(image)` returns a list of dicts, to be stored by `np.save(f"{frame}.npy", result)`: `is_right`, and `wilor_preds` with
`pred_vertices` (1, 778, 3) about the origin and `pred_cam_t_full` (1, 3) in OpenCV's axes, left hands mirrored back; `pred_keypoints_2d`
(1, 21, 2) in OpenPose's order; `global_orient` (1, 1, 3) and `hand_pose` (1, 15, 3), hand mean INCLUDED, and `betas` (1, 10) of the right
model, rotations of left hands mirrored back, but not their shape.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdprep.errors import HoldprepError
from holdprep.hand.joints import to_mano21
from holdprep.hand.model import HandModel, ManoParams, Side
from holdprep.hand.trackers import conversion, crops, meshes
from holdprep.hand.trackers.tracks import VertexTrack
from holdprep.io.safeio import load_npy

SHAPES = {
    "pred_vertices": (1, 778, 3),
    "pred_cam_t_full": (1, 3),
    "pred_keypoints_2d": (1, 21, 2),
    "global_orient": (1, 1, 3),
    "hand_pose": (1, 15, 3),
    "betas": (1, 10),
}
FLIP = np.array([-1.0, 1.0, 1.0])
MIRRORED_ROTATION = np.array([1.0, -1.0, -1.0])


def read(folder: Path, names: Sequence[str], image_size: tuple[int, int], models: Mapping[Side, HandModel]) -> VertexTrack:
    """Hands of the frames `names` in images of `image_size` (width, height), from .npy files if there are any, else from meshes.

    Raises HoldprepError where files are not as described above, no frame matches, or without any hand.
    """
    files = {p.stem: p for p in folder.glob("*.npy")}
    if not files:
        return meshes.read(folder, names, image_size, models)
    frames, notes = conversion.match_frames(folder, "WiLoR", list(files), names)
    file_of = {name: files[stem] for stem, name in frames.items()}
    hands = []
    for t, name in enumerate(names):
        if name in file_of:
            content = load_npy(file_of[name])
            hands += [_hand(file_of[name], t, one, models) for one in (content if isinstance(content, list | np.ndarray) else [content])]
    if not hands:
        raise HoldprepError(f"{folder}: no hand in its {len(files)} frames; the tracker found none")
    return conversion.collect_tracks(hands, crops.assumed_camera(*image_size), names, models, notes)


def _hand(path: Path, frame: int, content: Any, models: Mapping[Side, HandModel]) -> conversion.DetectedHand:
    predicted = content.get("wilor_preds") if isinstance(content, Mapping) else None
    if not isinstance(predicted, Mapping):
        raise HoldprepError(f"{path} holds no 'wilor_preds': it must be np.save of the result of wilor_mini's predict()")
    arrays = {}
    for key, shape in SHAPES.items():
        arrays[key] = np.asarray(predicted.get(key, np.nan))
        if arrays[key].shape != shape or arrays[key].dtype.kind != "f":
            raise HoldprepError(
                f"{path}: {key} is {arrays[key].dtype} {arrays[key].shape}, {shape} numbers are needed; is it wilor_mini's?"
            )
    is_right = np.asarray(content.get("is_right")).ravel()
    if len(is_right) != 1 or is_right.dtype.kind not in "biuf":
        raise HoldprepError(f"{path}: is_right is {is_right.dtype} {is_right.shape}, one number is needed; is it wilor_mini's?")
    side: Side = "right" if float(is_right[0]) > 0.5 else "left"
    vertices_m = (arrays["pred_vertices"] + arrays["pred_cam_t_full"][:, None])[0].astype(np.float64)
    params = _params({k: a.astype(np.float64) for k, a in arrays.items()}, side, models)
    return conversion.DetectedHand(frame, side, vertices_m, to_mano21(arrays["pred_keypoints_2d"][0].astype(np.float64)), params)


def _params(arrays: Mapping[str, np.ndarray], side: Side, models: Mapping[Side, HandModel]) -> ManoParams:
    """MANO parameters without the hand mean; a left hand's are computed from its mirror image, a right hand."""
    mirror, flip = (MIRRORED_ROTATION, FLIP) if side == "left" else (np.ones(3), np.ones(3))
    mean = models["right"].hand_mean.double().numpy()
    as_right = (
        (arrays["global_orient"] * mirror).reshape(1, 3),
        (arrays["hand_pose"] * mirror).reshape(1, 45) - mean,
        arrays["betas"],
        arrays["pred_cam_t_full"] * flip,
    )
    return conversion.to_side(ManoParams(*(torch.as_tensor(x) for x in as_right)), side, models)[0]
