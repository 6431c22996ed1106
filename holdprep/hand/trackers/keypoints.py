"""21 keypoints per hand of any tracker: OpenPose's .json files, one .json of all frames, or a .npz.

- a folder of `<frame>_keypoints.json` (OpenPose's format): `people[0].hand_right_keypoints_2d`, 63 numbers x, y, confidence;
- a .json `{"<frame>": {"right": [[x, y] or [x, y, confidence], .. 21], "left": ..}}`, or instead of a list
  `{"j2d": .., "j3d": [[x, y, z], ..]}`;
- a .npz of `j2d.right` (T, 21, 2 or 3), if known `j3d.right` (T, 21, 3), the same with `left`, and `names` (T,) if T are not all frames.

Pixels are those of images/; 3D is in metres, centimetres or millimetres with any origin, y down or up. Joints are in OpenPose's order
or MANO's: the order that gives the shorter bones is used. Joints of confidence 0 or of values that are not finite are not visible.
"""

import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from holdprep.errors import HoldprepError
from holdprep.hand.joints import BONES_MANO21, MIDDLE_FINGER, to_mano21
from holdprep.hand.model import SIDES, Side
from holdprep.hand.targets import MIN_JOINTS
from holdprep.hand.trackers import conversion
from holdprep.hand.trackers.tracks import KeypointTrack
from holdprep.io.safeio import load_npz_array

ADVICE = "give a folder of OpenPose's <frame>_keypoints.json, a .json or a .npz as holdprep/README.md says"
Rows = dict[str, dict[str, np.ndarray]]  # by frame name: j2d (21, 3) px and confidence, j3d (21, 3); each may be missing


def read(path: Path, names: Sequence[str], image_size: tuple[int, int]) -> tuple[dict[Side, KeypointTrack], list[str]]:
    """Tracks of the hands in a file or folder, and notes; NaN and confidence 0 where a joint or hand is not visible.

    Raises HoldprepError for other content, where no frame matches, without a hand, or where keypoints are outside of the images.
    """
    rows, stems = _rows(path, names)
    frames, notes = conversion.match_frames(path, path.name, stems, names)
    tracks = {}
    for side, own in rows.items():
        named = {frames[stem]: row for stem, row in own.items() if stem in frames}
        if not named:
            continue
        track, remarks = _track(path, named, names, image_size)
        notes += [f"{side} hand: {text}" for text in remarks]
        if np.isfinite(track.j2d_px).any():
            tracks[side] = track
    if not tracks:
        raise HoldprepError(f"{path}: no hand with {MIN_JOINTS} visible joints or more in {len(names)} frames; the tracker found none")
    return tracks, notes


def _track(path: Path, rows: Rows, names: Sequence[str], image_size: tuple[int, int]) -> tuple[KeypointTrack, list[str]]:
    j2d, j3d = (conversion.rows_by_name(_stack(rows, k), list(rows), names) for k in ("j2d", "j3d"))
    confidence = np.clip(np.nan_to_num(j2d[..., 2]), 0, 1)
    j2d = np.where(confidence[..., None] > 0, j2d[..., :2], np.nan)
    few = (confidence > 0).sum(axis=1) < MIN_JOINTS
    j2d[few], j3d[few], confidence[few] = np.nan, np.nan, 0.0
    notes = []
    if _skeleton(j2d) + _skeleton(j3d) < _skeleton(to_mano21(j2d)) + _skeleton(to_mano21(j3d)):
        notes.append("joints in MANO's order")
    else:
        j2d, j3d, confidence = to_mano21(j2d), to_mano21(j3d), to_mano21(confidence[..., None])[..., 0]
    _check_picture(path, j2d, image_size)
    j3d, remarks = _in_space(path, j3d, j2d)
    return KeypointTrack(j2d, j3d, confidence, _boxes(j2d)), notes + remarks


def _skeleton(joints: np.ndarray) -> float:
    """Mean length of the bones of joints (T, 21, C) in MANO-21 order, by their extent; 0 without joints."""
    bones = np.array(BONES_MANO21)
    lengths = np.linalg.norm(joints[:, bones[:, 0]] - joints[:, bones[:, 1]], axis=-1)
    if np.isnan(lengths).all():
        return 0.0
    extent = np.linalg.norm(np.nanmax(joints, axis=(0, 1)) - np.nanmin(joints, axis=(0, 1)))
    return float(np.nanmean(lengths) / (extent + 1e-12))


def _check_picture(path: Path, j2d_px: np.ndarray, image_size: tuple[int, int]) -> None:
    seen = j2d_px[np.isfinite(j2d_px).any(axis=(1, 2))]
    if not len(seen):
        return
    centroid = np.nanmedian(seen, axis=1)
    outside = int(((centroid < 0) | (centroid > np.array(image_size) - 1)).any(axis=1).sum())
    if outside > 0.5 * len(seen) or np.nanmax(np.abs(seen)) <= 2:
        reason = "they lie within 2 px" if np.nanmax(np.abs(seen)) <= 2 else f"{outside} of {len(seen)} hands are outside"
        raise HoldprepError(f"{path}: keypoints are not pixels of the image of {image_size[0]} x {image_size[1]}: {reason}")


def _in_space(path: Path, j3d: np.ndarray, j2d_px: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Joints (T, 21, 3) in metres relative to the wrist, with y down as for pixels, and notes."""
    chain = np.linalg.norm(np.diff(j3d[:, list(MIDDLE_FINGER)], axis=1), axis=-1).sum(axis=1)
    if np.isnan(chain).all():
        return j3d, []
    unit, notes = conversion.unit_m(path, float(np.nanmedian(chain)))
    j3d = (j3d - j3d[:, :1]) * unit
    flat, up = (x - np.nanmean(x, axis=1, keepdims=True) for x in (j2d_px[..., 1], j3d[..., 1]))
    if np.nansum(flat * up) < 0:
        return j3d * conversion.TO_OPENCV, [*notes, "OpenGL's axes in 3D, converted to OpenCV's"]
    return j3d, notes


def _boxes(j2d_px: np.ndarray) -> np.ndarray:
    """(T, 4) squares around the visible joints, with a margin."""
    boxes = np.full((len(j2d_px), 4), np.nan)
    for t, points in enumerate(j2d_px):
        seen = points[np.isfinite(points).all(axis=1)]
        if len(seen):
            low, high = seen.min(axis=0), seen.max(axis=0)
            center, half = (low + high) / 2, 0.75 * float((high - low).max())
            boxes[t] = (*(center - half), *(center + half))
    return boxes


def _stack(rows: Rows, key: str) -> np.ndarray:
    return np.stack([own.get(key, np.full((21, 3), np.nan)) for own in rows.values()])


def _rows(path: Path, names: Sequence[str]) -> tuple[dict[Side, Rows], list[str]]:
    """Each hand's rows, and the names of all frames of the file."""
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        frames = {re.sub(r"_keypoints$", "", f.stem): _person(f) for f in files}
    elif path.suffix == ".json":
        frames = _json(path)
    elif path.suffix == ".npz":
        frames = dict(_npz(path, names))
    else:
        raise HoldprepError(f"{path} holds no keypoints: {ADVICE}")
    if not isinstance(frames, Mapping) or not frames or not all(isinstance(f, Mapping) for f in frames.values()):
        raise HoldprepError(f"{path} holds no frames: {ADVICE}")
    found: dict[Side, Rows] = {}
    for frame, hands in frames.items():
        for side in (s for s in SIDES if s in hands):
            row = _hand(path, frame, hands[side])
            if row:
                found.setdefault(side, {})[str(frame)] = row
    if not found:
        raise HoldprepError(f"{path}: no frame of {len(frames)} has a 'right' or 'left' hand: {ADVICE}")
    return found, [str(frame) for frame in frames]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise HoldprepError(f"{path} is no JSON ({error}): is it truncated?") from error


def _person(path: Path) -> dict[str, Any]:
    """The hands of OpenPose's first person; hands that are all zeros were not found."""
    content = _json(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("people"), list):
        raise HoldprepError(f"{path} has no 'people': {ADVICE}")
    person = content["people"][0] if content["people"] else {}
    hands = {side: person.get(f"hand_{side}_keypoints_2d", []) for side in SIDES}
    return {side: np.reshape(v, (-1, 3)).tolist() for side, v in hands.items() if len(v) == 63 and any(v)}


def _npz(path: Path, names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with zipfile.ZipFile(path) as archive:
            keys = {Path(n).stem for n in archive.namelist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise HoldprepError(f"{path} is no .npz ({error}): is it truncated?") from error
    arrays = {key: load_npz_array(path, key) for key in sorted(keys)}
    hands = {k: a for k, a in arrays.items() if re.fullmatch(r"j[23]d\.(right|left)", k)}
    stems = [str(n) for n in arrays.get("names", names)]
    wrong = [k for k, a in hands.items() if np.ndim(a) != 3 or len(a) != len(stems)]
    if not hands or wrong:
        what = f"{wrong[0]} has shape {np.shape(hands[wrong[0]])} for {len(stems)} frames" if wrong else f"only {', '.join(sorted(keys))}"
        raise HoldprepError(f"{path}: {what}; (frames, 21, 2 or 3) numbers as j2d.right, j2d.left, j3d.right, j3d.left are needed")
    for t, stem in enumerate(stems):
        row: dict[str, Any] = {}
        for key, array in hands.items():
            kind, _, side = key.partition(".")
            row.setdefault(side, {})[kind] = array[t]
        yield stem, row


def _hand(path: Path, frame: str, content: Any) -> dict[str, np.ndarray]:
    given_rows = content if isinstance(content, Mapping) else {"j2d": content}
    row = {}
    for key in (k for k in ("j2d", "j3d") if given_rows.get(k) is not None):
        try:
            array = np.array(given_rows[key], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise HoldprepError(f"{path}, frame {frame}: {key} is no array of numbers ({error})") from error
        if array.shape not in ((21, 2), (21, 3)) or (key == "j3d" and array.shape[1] == 2):
            raise HoldprepError(f"{path}, frame {frame}: {key} has shape {array.shape}, 21 keypoints of 2 or 3 numbers are needed")
        if array.shape[1] == 2:  # no confidence given: 1 where there is a number
            array = np.concatenate([array, np.isfinite(array).all(axis=1, keepdims=True)], axis=1)
        row[key] = array
    return row
