"""Printed square markers (ArUco, AprilTag) that are fixed on the object: their corners, as marks with a known distance."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np

from holdprep.align.marks import parallax_deg, rays_obj, triangulated
from holdprep.align.problem import Marks, Problem
from holdprep.errors import HoldprepError

CORNER_PX = 0.5  # standard error of a corner; neighbouring frames share most of it
NEAR_SIDES = 1.5  # largest distance of a corner from the object's mask, in the marker's sides: masks may leave the marker out
MIN_FRAMES = 5  # that show a marker; a pattern of the object may look like one in a single frame
MOST_PX, MOST_SIDES = 2.5, 0.05  # distance of a corner from its point on the object that is an error of pose or corner, in px or in sides
MIN_FIXED = 0.7  # share of the object's rotation over which all four corners are as near as that
MIN_TURN_DEG = 15.0  # of the object's rotation over these frames: less is no proof that a marker is fixed on it
MAX_OBLONG = 0.15  # largest difference of the logarithms of two of a marker's sides
CORNERS = ("upper left", "upper right", "lower right", "lower left")
PAIRS = np.array(list(combinations(range(4), 2)))
SIDES_APART = np.array([np.sqrt(2) if (b - a) == 2 else 1.0 for a, b in PAIRS])


@dataclass(frozen=True)
class Seen:
    """One marker in `frame` (F,): its corners `px` (F, 4, 2) in pixels of the pictures, clockwise from the printed upper left one."""

    frame: np.ndarray
    px: np.ndarray

    def in_frames(self, kept: np.ndarray) -> "Seen":
        """Those of the rows `kept` (F,) bool."""
        return Seen(self.frame[kept], self.px[kept])


def find_markers(pictures: Iterable[np.ndarray], masks: Sequence[np.ndarray] | None, dictionary: str) -> dict[int, Seen]:
    """Markers of one of OpenCV's dictionaries by their number, in pictures (T of (H, W, 3) BGR).

    With the object's masks (T of (H, W) bool), only those whose corners lie on the object or next to it are used. Raises HoldprepError
    where there are none, and says whether they are elsewhere.
    """
    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    detector = cv2.aruco.ArucoDetector(cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, dictionary)), parameters)
    found: dict[int, list[tuple[int, np.ndarray]]] = {}
    count, elsewhere = 0, set[int]()
    for t, picture in enumerate(pictures):
        count += 1
        corners, numbers, _ = detector.detectMarkers(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY))
        for px, number in zip(corners, [] if numbers is None else map(int, numbers.ravel()), strict=True):
            if masks is None or _is_near(px[0], masks[t]):
                found.setdefault(number, []).append((t, px[0].astype(float)))
            else:
                elsewhere.add(t)
    if not found and elsewhere:
        raise HoldprepError(
            f"object.marker_mm: {len(elsewhere)} of {count} frames show a marker of {dictionary}, but none on the object's mask: fix it on the "
            "object, or check the masks"
        )
    if not found:
        raise HoldprepError(
            f"object.marker_mm: no marker of {dictionary} in any of {count} frames: check object.marker; the marker needs its white border, "
            "and some 20 px in the picture"
        )
    return {number: Seen(*(np.array(values) for values in zip(*seen, strict=True))) for number, seen in sorted(found.items())}


def marks_of(found: Mapping[int, Seen], problem: Problem, side_mm: float, frame_names: Sequence[str]) -> Marks:
    """The corners of all markers that move with the object, in pixels of the pinhole camera, as marks.

    Raises HoldprepError for the marker of the most frames where there is none: too few frames, too little rotation, another motion than
    the object's, or no square.
    """
    kept: dict[int, Seen] = {}
    refused: dict[int, str] = {}
    for number, seen in found.items():
        fixed = _fixed_on(problem, seen)
        if isinstance(fixed, Seen):
            kept[number] = fixed
        else:
            refused[number] = fixed
    if not kept:
        number = max(found, key=lambda n: len(found[n].frame))
        raise HoldprepError(f"object.marker_mm: marker {number} {refused[number]}")
    frames = np.concatenate([np.repeat(seen.frame, 4) for seen in kept.values()])
    points = np.concatenate([4 * k + np.tile(np.arange(4), len(seen.frame)) for k, seen in enumerate(kept.values())])
    pairs = np.concatenate([4 * k + PAIRS for k in range(len(kept))])
    apart_m = np.tile(side_mm / 1e3 * SIDES_APART, len(kept))
    px = np.concatenate([seen.px.reshape(-1, 2) for seen in kept.values()])
    labels = tuple(f"{corner} of {number}" for number in kept for corner in CORNERS)
    return Marks("marker", "object.marker_mm", frames, points, px, pairs, apart_m, labels, frame_names, CORNER_PX, np.inf)


def _fixed_on(problem: Problem, seen: Seen) -> Seen | str:
    """A marker in the frames in which it is where the object's poses put it; or why it does not give the scale, in words."""
    seen = seen.in_frames(problem.obj_weight.numpy()[seen.frame] > 0)
    count = len(seen.frame)
    if count < MIN_FRAMES:
        return f"is seen in {count} frames with an object pose (at least {MIN_FRAMES}): show it longer, larger and sharper"
    K, T = problem.K.numpy(), problem.T_cam_obj.numpy()[seen.frame]
    side_px = np.linalg.norm(seen.px - np.roll(seen.px, 1, axis=1), axis=2).mean(axis=1)
    most_px = np.maximum(MOST_PX, MOST_SIDES * side_px)
    located = [triangulated(K, T, seen.px[:, corner], float(np.median(most_px))) for corner in range(4)]
    away_px = np.max([residual_px for _, residual_px in located], axis=0)
    fixed = away_px <= most_px
    if np.average(fixed, weights=_turning(K, T, seen.px.mean(axis=1))) < MIN_FIXED:
        return (
            f"does not move with the object: in {(~fixed).sum()} of {count} frames its corners are more than {np.median(most_px):.0f} px "
            f"(median {np.median(away_px):.0f}) from where the object's poses put them: fix it on the object, or check object_pose"
        )
    turned_deg = min(parallax_deg(K, T[fixed], seen.px[fixed, corner]) for corner in range(4))
    if turned_deg < MIN_TURN_DEG:
        return (
            f"is seen over {turned_deg:.0f} deg of the object's rotation (at least {MIN_TURN_DEG:.0f}): rotate the object while it is seen"
        )
    at = np.stack([point for point, _ in located])
    sides = np.log(np.linalg.norm(at[PAIRS[:, 0]] - at[PAIRS[:, 1]], axis=1) / SIDES_APART)
    if np.ptp(sides) > MAX_OBLONG:
        return f"is no square: its sides differ by {100 * np.ptp(sides):.0f} % (at most {100 * MAX_OBLONG:.0f}): is it bent, or a pattern of the object?"
    return seen.in_frames(fixed)


def _turning(K: np.ndarray, T_cam_obj: np.ndarray, px: np.ndarray) -> np.ndarray:
    """(F,) rotation of the object in each frame, relative to the ray of a pixel (F, 2): frames at rest are no proof of a common motion."""
    _, direction = rays_obj(K, T_cam_obj, px)
    step = np.linalg.norm(np.diff(direction, axis=0), axis=1)
    return np.pad(step, (0, 1)) + np.pad(step, (1, 0)) + 1e-9


def _is_near(corners_px: np.ndarray, mask: np.ndarray) -> bool:
    """Whether corners (4, 2) lie in a mask, or at most NEAR_SIDES sides beside it."""
    reach = max(1, round(NEAR_SIDES * float(np.linalg.norm(corners_px - np.roll(corners_px, 1, axis=0), axis=1).mean())))
    height, width = mask.shape
    for x, y in np.round(corners_px).astype(int).tolist():
        column, row = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
        if not mask[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1].any():
            return False
    return True
