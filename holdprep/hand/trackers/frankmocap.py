"""frankmocap: `<frame>_prediction_result.pkl` of its hand demo (`demo.demo_handmocap --save_pred_pkl`), one per image.

`pred_output_list` holds one dict for each person, with `left_hand` and `right_hand`: None, empty, or a dict of `pred_hand_pose` (1, 48),
rotation vectors of wrist and fingers, hand mean NOT included, of left hands mirrored back; `pred_joints_smpl` (21, 3) m in OpenPose's
order about the index finger's base, x right, y down, z forward; `pred_camera` (scale, tx, ty) of a square crop of 224 pixels, whose side
is 2, with `bbox_scale_ratio` (pixels of the crop per pixel of the image) and `bbox_top_left` (px). Its camera is weak perspective:
crop = scale (xy + t).

`pred_hand_betas` is the shape of SMPL-X's body, not of MANO's hand, and is not read: hands have the average shape, and the place in
which the length of their palm and middle finger has the pixels of frankmocap's. `pred_joints_img`, whose origin is the image's centre in
some versions, is not read either.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdprep.errors import HoldprepError
from holdprep.hand import lbs
from holdprep.hand.joints import to_mano21
from holdprep.hand.model import SIDES, HandModel, ManoParams, Side
from holdprep.hand.targets import lengths_m
from holdprep.hand.trackers import conversion, crops
from holdprep.hand.trackers.tracks import VertexTrack
from holdprep.io.safeio import load_pickle

SUFFIX = "_prediction_result"
SHAPES = {"pred_hand_pose": (1, 48), "pred_joints_smpl": (21, 3), "pred_camera": (3,), "bbox_scale_ratio": (), "bbox_top_left": (2,)}
CROP_HALF_PX = 112.0
ANCHOR = 1  # base of the index finger in MANO-21 order, the origin of frankmocap's joints
NOTE = "frankmocap's shape is that of SMPL-X's body and is not used: an average hand; set hands.length_mm"
Arrays = dict[str, np.ndarray]


def read(
    folder: Path, names: Sequence[str], image_size: tuple[int, int], models: Mapping[Side, HandModel], focal_px: float | None = None
) -> VertexTrack:
    """Hands of the frames `names` in images of `image_size` (width, height), under a camera of `focal_px`, None: HaMeR's assumed one.

    `folder` is frankmocap's output folder or its `mocap`. Raises HoldprepError where files are not as described above, no frame matches, or
    without any hand.
    """
    files = {p.stem.removesuffix(SUFFIX): p for place in (folder, folder / "mocap") for p in sorted(place.glob(f"*{SUFFIX}.pkl"))}
    if not files:
        raise HoldprepError(f"{folder} holds no <frame>{SUFFIX}.pkl: run frankmocap's demo_handmocap with --save_pred_pkl")
    frames, notes = conversion.match_frames(folder, "frankmocap", list(files), names)
    file_of = {name: files[stem] for stem, name in frames.items()}
    K = crops.assumed_camera(*image_size, focal_px)
    hands = [
        _hand(t, side, arrays, models, K) for t, name in enumerate(names) if name in file_of for side, arrays in _content(file_of[name])
    ]
    if not hands:
        raise HoldprepError(f"{folder}: no hand in its {len(files)} frames; the tracker found none")
    return conversion.collect_tracks(hands, K, names, models, [*notes, NOTE])


def _content(path: Path) -> Iterator[tuple[Side, Arrays]]:
    """Side and arrays of each hand in a file."""
    tree = load_pickle(path)
    people = tree.get("pred_output_list") if isinstance(tree, Mapping) else None
    if not isinstance(people, list):
        raise HoldprepError(f"{path} has no 'pred_output_list': is it frankmocap's?")
    if tree.get("demo_type", "hand") != "hand":
        raise HoldprepError(f"{path} is of frankmocap's {str(tree['demo_type'])[:20]!r} demo: run demo_handmocap, whose hands are read")
    for person in people:
        if not isinstance(person, Mapping | None):
            raise HoldprepError(f"{path}: a person is a {type(person).__name__}, a dict of left_hand and right_hand is needed")
        for side in SIDES:
            hand = (person or {}).get(f"{side}_hand")
            if hand:
                yield side, _arrays(path, hand)


def _arrays(path: Path, hand: Any) -> Arrays:
    arrays = {}
    for key, shape in SHAPES.items():
        value = np.asarray(hand.get(key)) if isinstance(hand, Mapping) else np.zeros(0)
        if value.dtype.kind not in "fi" or value.shape not in (shape, (1, *shape)) or not np.isfinite(value).all():
            raise HoldprepError(f"{path}: {key} is {value.dtype} {value.shape}, finite numbers {shape} are needed; is it frankmocap's?")
        arrays[key] = value.astype(np.float64).reshape(shape)
    if not (arrays["pred_camera"][0] > 0 and arrays["bbox_scale_ratio"] > 0):
        raise HoldprepError(f"{path}: the scale of pred_camera and bbox_scale_ratio must be positive; is it frankmocap's?")
    return arrays


def _hand(frame: int, side: Side, arrays: Arrays, models: Mapping[Side, HandModel], K: np.ndarray) -> conversion.DetectedHand:
    flip, turned = (np.array([-1.0, 1, 1]), np.array([1.0, -1, -1])) if side == "left" else (np.ones(3), np.ones(3))
    pose = torch.as_tensor((arrays["pred_hand_pose"].reshape(16, 3) * turned).reshape(1, 48))
    as_right = ManoParams(pose[:, :3], pose[:, 3:], torch.zeros(1, 10, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64))
    joints = lbs.forward(models["right"], as_right).joints
    seen_m = to_mano21(arrays["pred_joints_smpl"])
    scale, shift = arrays["pred_camera"][0], arrays["pred_camera"][1:]
    px_per_unit = CROP_HALF_PX / float(arrays["bbox_scale_ratio"])
    j2d_px = arrays["bbox_top_left"] + px_per_unit * (scale * (seen_m[:, :2] + shift) + 1)
    ratio = float(lengths_m(models["right"], torch.as_tensor(seen_m)[None]) / lengths_m(models["right"], joints))
    depth_m = K[0, 0] / (px_per_unit * scale * max(ratio, 1e-6)) + float(joints[0, ANCHOR, 2] - joints[0, :, 2].mean())
    anchor_m = depth_m * (np.linalg.inv(K) @ [*j2d_px[ANCHOR], 1.0])
    params = ManoParams(pose[:, :3], pose[:, 3:], as_right.betas, torch.as_tensor(anchor_m * flip)[None] - joints[:, ANCHOR])
    own, mesh, _ = conversion.to_side(params, side, models)
    return conversion.DetectedHand(frame, side, mesh.vertices[0].numpy(), j2d_px, own)
