"""Ground truth of data sets as hands: the joints of HO-3D (v2, v3) and of DexYCB, under the cameras of their images.

HO-3D: `meta/<frame>.pkl` of a sequence's folder (see `quality.truth`). DexYCB: `labels_<frame>.npz` of a camera's folder, with `joint_3d`
(1, 21, 3) m in OpenCV's camera frame and `joint_2d` (1, 21, 2) px, in OpenPose's order, -1 without a hand; the side is `mano_sides` of
`meta.yml` one folder up. Both data sets have images of 640 x 480.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from holdprep.hand.joints import to_mano21
from holdprep.hand.model import SIDES, Side
from holdprep.hand.trackers import conversion
from holdprep.hand.trackers.keypoints import square_boxes
from holdprep.hand.trackers.tracks import KeypointTrack
from holdprep.io.bounded import read_yaml
from holdprep.io.safeio import load_npz
from holdprep.quality.truth import read_ho3d, solve_K

IMAGES = (640, 480)
ABSENT = -1.0
Found = tuple[dict[Side, KeypointTrack], np.ndarray, list[str]]


def read(data_set: str, folder: Path, names: Sequence[str], image_size: tuple[int, int]) -> Found:
    """Tracks of the frames `names`, K (3, 3) of images of `image_size` (width, height), and notes; NaN without a hand.

    Raises HoldprepError for other content, without a hand, or where no frame matches.
    """
    if data_set == "ho3d":
        truth = read_ho3d(folder)
        side: Side = "right"
        joints_m, stems, K = truth.hands[side].joints_m, truth.names, truth.K
    else:
        side, joints_m, stems, K = _dexycb(folder)
    if joints_m is None or not np.isfinite(joints_m).any():
        raise HoldprepError(f"{folder}: no hand in its {len(stems)} frames: is it the evaluation split?")
    frames, notes = conversion.match_frames(folder, folder.name, stems, names)
    rows = conversion.rows_by_name(joints_m, [frames.get(stem, "") for stem in stems], names)
    K = np.diag([image_size[0] / IMAGES[0], image_size[1] / IMAGES[1], 1.0]) @ K
    j2d = project(rows, K)
    confidence = np.isfinite(rows).all(axis=2).astype(float)
    return {side: KeypointTrack(j2d, rows - rows[:, :1], confidence, square_boxes(j2d))}, K, notes


def _dexycb(folder: Path) -> tuple[Side, np.ndarray, list[str], np.ndarray]:
    files = sorted(folder.glob("labels_*.npz"))
    if not files:
        raise HoldprepError(f"{folder} holds no labels_<frame>.npz: hand.folder is the folder of one camera of a DexYCB sequence")
    points: list[np.ndarray] = []
    px: list[np.ndarray] = []
    for file in files:
        arrays = load_npz(file)
        for key, found, size in (("joint_3d", points, 3), ("joint_2d", px, 2)):
            array = np.asarray(arrays.get(key))
            if array.shape not in ((1, 21, size), (21, size)) or array.dtype.kind not in "fi":
                raise HoldprepError(f"{file}: {key} is {array.dtype} {array.shape}, numbers (1, 21, {size}) are needed; is it DexYCB's?")
            found.append(array.reshape(21, size).astype(np.float64))
    joints, pixels = np.stack(points), np.stack(px)
    absent = (joints == ABSENT).all(axis=(1, 2))
    joints[absent], pixels[absent] = np.nan, np.nan
    K = solve_K(joints, pixels) if not absent.all() else np.eye(3)
    return _side(folder), to_mano21(joints), [file.stem.removeprefix("labels_") for file in files], K


def _side(folder: Path) -> Side:
    path = next((p for p in (folder.parent / "meta.yml", folder / "meta.yml") if p.exists()), folder.parent / "meta.yml")
    tree = read_yaml(path)
    sides = tree.get("mano_sides") if isinstance(tree, dict) else None
    side = next((s for s in SIDES if isinstance(sides, list) and s in sides), None)
    if side is None:
        raise HoldprepError(f"{path} has no mano_sides with right or left: it is one folder above DexYCB's labels")
    return side
