"""21 keypoints per hand of any tracker: OpenPose's .json files, one .json of all frames, or a .npz.

- a folder of `<frame>_keypoints.json` (OpenPose's format): `people[n].hand_right_keypoints_2d`, 63 numbers x, y, confidence; of several
  people's hands of a side, the one nearest its mask and its last place is used;
- a .json `{"<frame>": {"right": [[x, y] or [x, y, confidence], .. 21], "left": ..}}`, or instead of a list
  `{"j2d": .., "j3d": [[x, y, z], ..]}`;
- a .npz of `j2d.right` (T, 21, 2 or 3), if known `j3d.right` (T, 21, 3), the same with `left`, and `names` (T,) if T are not all frames.

Pixels are those of images/; 3D is in metres, centimetres or millimetres with any origin, y down or up. Joints are in OpenPose's order
or MANO's: the order that gives the shorter bones is used. Joints of confidence 0 or of values that are not finite are not visible. Where a
third number is outside 0..1 (a depth, such as MediaPipe's z), none of them is a confidence.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from holdprep.errors import HoldprepError, listed
from holdprep.hand.joints import BONES_MANO21, MIDDLE_FINGER, to_mano21
from holdprep.hand.model import SIDES, Side
from holdprep.hand.targets import MIN_JOINTS
from holdprep.hand.trackers import conversion, people
from holdprep.hand.trackers.tracks import KeypointTrack
from holdprep.io.bounded import read_json
from holdprep.io.safeio import is_zip, load_npz

ADVICE = "give a folder of OpenPose's <frame>_keypoints.json, a .json or a .npz as holdprep/README.md says"
CONFIDENT = 1e-3  # rounding of confidences beyond 0 and 1
Row = dict[str, np.ndarray]  # of a hand: j2d (21, 3) px and confidence, j3d (21, 3); each may be missing
Rows = dict[str, list[Row]]  # the candidates for a hand, by frame name


def read(
    path: Path, names: Sequence[str], image_size: tuple[int, int], masks: Mapping[Side, Sequence[np.ndarray]] | None = None
) -> tuple[dict[Side, KeypointTrack], list[str]]:
    """Tracks of the hands in a file or folder, and notes; NaN and confidence 0 where a joint or hand is not visible.

    `masks`, one (H, W) bool for each of the frames `names`, choose among the hands of several people.

    Raises HoldprepError for other content, where no frame matches, without a hand, or where keypoints are outside of the images.
    """
    rows, stems = _rows(path, names)
    frames, notes = conversion.match_frames(path, path.name, stems, names)
    notes += _without_depths(rows)
    tracks = {}
    for side, own in rows.items():
        named = {frames[stem]: row for stem, row in own.items() if stem in frames}
        if not named:
            continue
        chosen, remarks = _chosen([named.get(name, []) for name in names], (masks or {}).get(side))
        notes += [f"{side} hand: {text}" for text in remarks]
        track, remarks = _track(path, chosen, image_size)
        notes += [f"{side} hand: {text}" for text in remarks]
        if np.isfinite(track.j2d_px).any():
            tracks[side] = track
    if not tracks:
        raise HoldprepError(f"{path}: no hand with {MIN_JOINTS} visible joints or more in {len(names)} frames; the tracker found none")
    return tracks, notes


def _without_depths(rows: Mapping[Side, Rows]) -> list[str]:
    """Replace the third numbers of 2D keypoints by 1 where one of them is outside 0..1; returns a note."""
    all_rows = [row["j2d"] for own in rows.values() for candidates in own.values() for row in candidates if "j2d" in row]
    third = np.concatenate([row[:, 2] for row in all_rows]) if all_rows else np.zeros(0)
    outside = third[np.isfinite(third) & ((third < -CONFIDENT) | (third > 1 + CONFIDENT))]
    if not len(outside):
        return []
    for row in all_rows:
        row[:, 2] = np.isfinite(row[:, :2]).all(axis=1) & (row[:, :2] != 0).any(axis=1)
    return [f"the third number of keypoints is no confidence, {len(outside)} of {len(third)} are outside 0..1 ({outside[0]:.3g}): not used"]


def _chosen(candidates: Sequence[list[Row]], masks: Sequence[np.ndarray] | None) -> tuple[list[Row], list[str]]:
    """One of the candidates of each frame, empty without one, and notes."""
    several = sum(len(c) > 1 for c in candidates)
    if not several:
        return [c[0] if c else {} for c in candidates], []
    number = people.nearest([[row.get("j2d", np.full((21, 3), np.nan)) for row in c] for c in candidates], masks)
    by = "its mask and " if masks is not None else ""
    note = f"{several} of {len(candidates)} frames show several people: the hand nearest {by}its last place is used"
    return [c[k] if c else {} for c, k in zip(candidates, number, strict=True)], [note]


def _track(path: Path, rows: Sequence[Row], image_size: tuple[int, int]) -> tuple[KeypointTrack, list[str]]:
    j2d, j3d = (np.stack([row.get(k, np.full((21, 3), np.nan)) for row in rows]) for k in ("j2d", "j3d"))
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
    return KeypointTrack(j2d, j3d, confidence, square_boxes(j2d)), notes + remarks


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
        inside_2 = f"they lie within 2 px: multiply x by {image_size[0]} and y by {image_size[1]} if they are shares of the image"
        reason = (
            inside_2 if np.nanmax(np.abs(seen)) <= 2 else f"{outside} of {len(seen)} hands are outside: are they of images of another size?"
        )
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


def square_boxes(j2d_px: np.ndarray) -> np.ndarray:
    """(T, 4) squares around the visible joints, with a margin."""
    boxes = np.full((len(j2d_px), 4), np.nan)
    for t, points in enumerate(j2d_px):
        seen = points[np.isfinite(points).all(axis=1)]
        if len(seen):
            low, high = seen.min(axis=0), seen.max(axis=0)
            center, half = (low + high) / 2, 0.75 * float((high - low).max())
            boxes[t] = (*(center - half), *(center + half))
    return boxes


def _rows(path: Path, names: Sequence[str]) -> tuple[dict[Side, Rows], list[str]]:
    """Each hand's rows, and the names of all frames of the file."""
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        frames: Any = {re.sub(r"_keypoints$", "", f.stem): _people(f) for f in files}
    elif path.suffix == ".json":
        frames = read_json(path)
    elif path.suffix == ".npz":
        frames = dict(_npz(path, names))
    else:
        raise HoldprepError(f"{path} holds no keypoints: {ADVICE}")
    if not isinstance(frames, Mapping) or not frames or not all(isinstance(f, Mapping | list) for f in frames.values()):
        raise HoldprepError(f"{path} holds no frames: {ADVICE}")
    found: dict[Side, Rows] = {}
    for frame, persons in frames.items():
        for hands in persons if path.is_dir() else [persons]:
            for side in (s for s in SIDES if s in hands):
                row = _hand(path, str(frame), hands[side])
                if row:
                    found.setdefault(side, {}).setdefault(str(frame), []).append(row)
    if not found:
        raise HoldprepError(f"{path}: no frame of {len(frames)} has a 'right' or 'left' hand: {ADVICE}")
    return found, [str(frame) for frame in frames]


def _people(path: Path) -> list[dict[Side, Any]]:
    """The hands of each person in OpenPose's file; hands that are all zeros were not found."""
    content = read_json(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("people"), list):
        raise HoldprepError(f"{path} has no 'people': {ADVICE}")
    found = []
    for person in content["people"]:
        if not isinstance(person, Mapping):
            raise HoldprepError(f"{path}: a person is a {type(person).__name__}, a mapping of keypoints is needed: {ADVICE}")
        given = {side: person.get(f"hand_{side}_keypoints_2d") for side in SIDES}
        hands: dict[Side, Any] = {}
        for side, numbers in given.items():
            if isinstance(numbers, list) and len(numbers) == 63 and any(numbers):
                hands[side] = [numbers[i : i + 3] for i in range(0, 63, 3)]
        found.append(hands)
    return found


def _npz(path: Path, names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.is_file() and not is_zip(path):
        raise HoldprepError(f"{path} is no .npz: is it truncated?")
    arrays = load_npz(path)
    hands = {k: a for k, a in arrays.items() if re.fullmatch(r"j[23]d\.(right|left)", k)}
    stems = [str(n) for n in np.ravel(arrays["names"])] if "names" in arrays else list(names)
    wrong = [k for k, a in hands.items() if np.ndim(a) != 3 or len(a) != len(stems)]
    if not hands or wrong:
        what = f"{wrong[0]} has shape {np.shape(hands[wrong[0]])} for {len(stems)} frames" if wrong else f"only {listed(arrays)}"
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
        except (TypeError, ValueError, OverflowError) as error:
            raise HoldprepError(f"{path}, frame {frame[:60]}: {key} is no array of numbers ({str(error)[:100]})") from error
        if array.shape not in ((21, 2), (21, 3)) or (key == "j3d" and array.shape[1] == 2):
            raise HoldprepError(f"{path}, frame {frame[:60]}: {key} has shape {array.shape}, 21 keypoints of 2 or 3 numbers are needed")
        if array.shape[1] == 2:  # no confidence given: 1 where there is a number
            array = np.concatenate([array, np.isfinite(array).all(axis=1, keepdims=True)], axis=1)
        row[key] = array
    return row
