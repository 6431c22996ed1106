"""HaWoR: camera-space results of its demo, `cam_space/<hand>/<first>_<last>.json` (hand 0 left, 1 right), beside the video.

Each file holds a range of frames: `init_root_orient` (1, T, 3, 3) and `init_hand_pose` (1, T, 15, 3, 3), rotations with the hand
mean INCLUDED; `init_betas` (1, T, 10); `init_trans` (1, T, 3) metres in OpenCV's axes, for a camera with the focal length in
`est_focal.txt` and the centre (w / 2, h / 2). Rotations and translations of left hands are mirrored back; their shape is the right
model's. Frames are numbers of the images in `extracted_images/`, 30 per second of video. world_space_res.pth, with infilled hands,
is not read.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import roma
import torch
from torch import Tensor

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from holdprep.hand import lbs
from holdprep.hand.model import HandModel, ManoParams, Side
from holdprep.hand.trackers import conversion, crops
from holdprep.hand.trackers.tracks import VertexTrack
from holdprep.io.bounded import picture_size, read_bytes, read_json

HANDS: dict[Side, str] = {"right": "1", "left": "0"}
SHAPES = {"init_root_orient": (3, 3), "init_hand_pose": (15, 3, 3), "init_trans": (3,), "init_betas": (10,)}


def read(folder: Path, names: Sequence[str], image_size: tuple[int, int], models: Mapping[Side, HandModel]) -> VertexTrack:
    """Hands of the frames `names`, whose images have `image_size` (width, height); NaN without a hand.

    Raises HoldprepError where files are not as described above, no frame matches, or without any hand.
    """
    images = sorted((folder / "extracted_images").glob("*.jpg"), key=lambda p: (len(p.stem), p.stem))
    K = crops.assumed_camera(*image_size, _focal_px(folder, images, image_size))
    ranges = {side: found for side, number in HANDS.items() if (found := _ranges(folder / "cam_space" / number))}
    if not ranges:
        raise HoldprepError(
            f"{folder / 'cam_space'} holds no <first>_<last>.json of any hand: is hand.folder HaWoR's folder beside the video?"
        )
    hands = {side: _as_right(found, side, models["right"]) for side, found in ranges.items()}
    stem_of = {f: images[f].stem if f < len(images) else f"{f:04d}" for frames, _ in hands.values() for f in frames.tolist()}
    name_of, notes = conversion.match_frames(folder, "HaWoR", [stem_of[f] for f in sorted(stem_of)], names)
    vertices, joints, j2d, params = {}, {}, {}, {}
    for side, (frames, hand) in hands.items():
        own = [name_of.get(stem_of[f], stem_of[f]) for f in frames.tolist()]
        params[side], mesh, remarks = conversion.to_side(hand, side, models)
        notes += remarks
        vertices[side], joints[side] = (conversion.rows_by_name(x.numpy(), own, names) for x in (mesh.vertices, mesh.joints))
        j2d[side] = project(joints[side], K)
        params[side] = ManoParams(
            **{k: torch.as_tensor(conversion.rows_by_name(getattr(params[side], k).numpy(), own, names)) for k in conversion.PARAM_SHAPES}
        )
    return VertexTrack(vertices, j2d, K, tuple(names), tuple(notes), joints, params)


def _focal_px(folder: Path, images: Sequence[Path], image_size: tuple[int, int]) -> float:
    """Focal length in pixels of images/; HaWoR's images may have another size."""
    path = folder / "est_focal.txt"
    try:
        focal = float(read_bytes(path, 1024))
    except (HoldprepError, ValueError):
        focal = math.nan
    if not 0 < focal < math.inf:
        raise HoldprepError(f"{path} holds no focal length: write HaWoR's focal length (--img_focal) into it")
    return focal * image_size[0] / picture_size(images[0])[0] if images else focal


def _ranges(folder: Path) -> list[tuple[int, dict[str, np.ndarray]]]:
    """First frame and arrays of each range, in order."""
    found = []
    for path in folder.glob("*_*.json") if folder.is_dir() else []:
        first, _, last = path.stem.partition("_")
        if not (first.isdigit() and last.isdigit()):
            raise HoldprepError(f"{path} is not named <first>_<last>.json like HaWoR's results")
        found.append((int(first), _arrays(path, int(last) - int(first) + 1)))
    return sorted(found, key=lambda item: item[0])


def _arrays(path: Path, frames: int) -> dict[str, np.ndarray]:
    content: Any = read_json(path)
    arrays = {}
    for key, shape in SHAPES.items():
        try:
            arrays[key] = np.asarray(content[key], dtype=np.float64)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise HoldprepError(f"{path} has no numbers {key!r}: is it HaWoR's?") from error
        if arrays[key].shape != (1, frames, *shape):
            raise HoldprepError(f"{path}: {key} has shape {arrays[key].shape}, {(1, frames, *shape)} is needed according to its name")
    return arrays


def _as_right(ranges: Sequence[tuple[int, dict[str, np.ndarray]]], side: Side, model: HandModel) -> tuple[np.ndarray, ManoParams]:
    """Frames (N,) and parameters of right hands, mirrored if `side` is left."""
    frames = np.concatenate([first + np.arange(len(a["init_trans"][0])) for first, a in ranges])
    root, pose, transl, betas = (
        torch.as_tensor(np.concatenate([a[k][0] for _, a in ranges]))
        for k in ("init_root_orient", "init_hand_pose", "init_trans", "init_betas")
    )
    rotations = torch.cat([root[:, None], pose], dim=1)
    if side == "left":
        flip = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
        rotations, transl = flip[:, None] * rotations * flip, transl * flip
    return frames, lbs.to_params(model, lbs.HandState(_proper(rotations), betas, transl))


def _proper(rotations: Tensor) -> Tensor:
    """The nearest rotations; text in single precision is not exactly orthogonal."""
    return roma.special_procrustes(rotations)
