"""What a hand's tracked keypoints say about labels: no hand far from the skeleton, no background inside it, and where the arm begins."""

from collections.abc import Iterable

import cv2
import numpy as np

from holdprep.geometry.rigid import interpolate_linear
from holdprep.hand.joints import FINGERS

WRIST, MIDDLE, THUMB = 0, 4, 13  # joints of MANO's order: the wrist, where the middle finger and the thumb begin
FINGER, THICK, PALM = (
    0.09,
    0.11,
    0.14,
)  # of the palm's length: half widths of fingers and thumb, and of what the palm is wider than its joints
PROXIMAL = 2.0  # palm lengths in the first bone of a finger: a foreshortened palm is longer than it looks
SLACK, RAMP = 0.09, 0.10  # of the palm's length: error of keypoints, and the distance over which evidence grows to its bound
MIN_PALM_PX = 8  # smaller hands are no evidence
DRIFT, MAX_BRIDGED = 0.08, 8  # palm lengths a frame that a hand may have moved from interpolated keypoints; maximal distance in frames
OUTSIDE, INSIDE = 4.0, 0.5  # bounds of the evidence
HAND_ENDS, ARM_BEGINS = 0.18, 0.12  # palm lengths past the wrist's joint, where people end a hand's outline (0.1 to 0.3)
ARM_FROM, HALF_ARM = -0.2, 0.6  # palm lengths past the wrist from where an arm is possible, and its largest half width
BENT = 2.5  # growth of the half width of an arm's area by each palm length past the wrist, for any bend of the wrist
FOREARM = 0.1, 0.5, 1.3  # palm lengths past the wrist, and from it at least and at most, where the arm's skin shows its direction
MIN_FOREARM = 0.1  # minimal area of that skin, in squared palm lengths


def palm_length_px(j2d_px: np.ndarray) -> float:
    """Length of the palm in the picture, from the wrist to the middle finger, from 21 keypoints (21, 2) in MANO's order."""
    starts = [chain[0] for chain in FINGERS if chain[0] != THUMB]
    palm = max(float(np.linalg.norm(j2d_px[k] - j2d_px[WRIST])) for k in starts)
    bones = [float(np.linalg.norm(j2d_px[chain[1]] - j2d_px[chain[0]])) for chain in FINGERS if chain[0] != THUMB]
    return max(palm, PROXIMAL * max(bones))


def _is_known(j2d_px: np.ndarray) -> bool:
    return bool(np.isfinite(j2d_px).all()) and palm_length_px(j2d_px) >= MIN_PALM_PX


def limbs(j2d_px: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The hand's limbs (H, W) bool as thick bones and a filled palm; parts outside of the image are left out."""
    size, mask = palm_length_px(j2d_px), np.zeros(shape, np.uint8)
    at = np.clip(np.round(j2d_px), -(2**14), 2**14).astype(np.int32)
    palm = np.array([WRIST, *(chain[0] for chain in FINGERS)])
    cv2.fillConvexPoly(mask, cv2.convexHull(at[palm]), 1)
    cv2.polylines(mask, [cv2.convexHull(at[palm])], True, 1, max(2 * round(PALM * size), 1))
    return (mask > 0) | _fingers(j2d_px, shape)


def _fingers(j2d_px: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The fingers and the thumb (H, W) bool as thick bones."""
    size, mask = palm_length_px(j2d_px), np.zeros(shape, np.uint8)
    at = np.clip(np.round(j2d_px), -(2**14), 2**14).astype(np.int32)
    for chain in FINGERS:
        width = THICK if chain[0] == THUMB else FINGER
        cv2.polylines(mask, [at[list(chain)]], False, 1, max(2 * round(width * size), 1))
    return mask > 0


def beyond_wrist(j2d_px: np.ndarray, shape: tuple[int, int], direction: np.ndarray | None = None) -> np.ndarray:
    """Signed distance (H, W) of pixels from the wrist along the arm's direction, in palm lengths; 0 where it is unknown."""
    past = _along_arm(j2d_px, shape, direction)[0]
    return np.where(_fingers(j2d_px, shape), np.minimum(past, 0), past)


def arm_direction(j2d_px: np.ndarray) -> np.ndarray | None:
    """Unit vector (2,) from the palm to the wrist; None where keypoints are unknown, or the palm is seen along its length."""
    if not _is_known(j2d_px):
        return None
    to_arm = j2d_px[WRIST] - j2d_px[[chain[0] for chain in FINGERS if chain[0] != THUMB]].mean(axis=0)
    length = float(np.linalg.norm(to_arm))
    return None if length < 0.3 * palm_length_px(j2d_px) else to_arm / length


def forearm_direction(j2d_px: np.ndarray, skin: np.ndarray) -> np.ndarray | None:
    """Unit vector (2,) from the wrist along the arm, which may be bent there, from `skin` (H, W) bool; the palm's where none is seen."""
    direction = arm_direction(j2d_px)
    if direction is None:
        return None
    size, (past, across) = palm_length_px(j2d_px), _along_arm(j2d_px, skin.shape)
    away = np.hypot(past, across)
    arm = skin & (past > FOREARM[0]) & (away > FOREARM[1]) & (away < FOREARM[2]) & (across < HALF_ARM + BENT * past)
    ys, xs = np.nonzero(cv2.erode(arm.astype(np.uint8), np.ones((5, 5), np.uint8)))
    if len(ys) < MIN_FOREARM * size**2:
        return direction
    towards = np.array([xs.mean(), ys.mean()]) - j2d_px[WRIST]
    return towards / np.linalg.norm(towards)


def _along_arm(j2d_px: np.ndarray, shape: tuple[int, int], direction: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Distances (H, W) of pixels from the wrist towards the arm, signed, and across, in palm lengths; 0 where the direction is unknown."""
    direction = arm_direction(j2d_px) if direction is None else direction
    if direction is None:
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    ys, xs = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    dx, dy = direction / palm_length_px(j2d_px)
    xs, ys = xs - np.float32(j2d_px[WRIST, 0]), ys - np.float32(j2d_px[WRIST, 1])
    return (xs * dx + ys * dy).astype(np.float32), np.abs(ys * dx - xs * dy).astype(np.float32)


def arm_area(hands_px: Iterable[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Where 21 keypoints (21, 2) of each hand place its arm, bent at the wrist or not: mask (H, W) bool.

    Hands of unknown keypoints, or of unknown direction of the arm, are left out.
    """
    area = np.zeros(shape, bool)
    for j2d_px in hands_px:
        if arm_direction(j2d_px) is not None:
            past, across = _along_arm(j2d_px, shape)
            area |= (past > ARM_FROM) & (across < HALF_ARM + BENT * np.maximum(past, 0))
    return area


def bridged(j2d_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (T, 21, 2) linear in time across frames without, and each frame's distance (T,) in frames from one with keypoints."""
    known = np.isfinite(j2d_px).all(axis=(1, 2))
    if not known.any():
        return j2d_px, np.full(len(j2d_px), np.inf)
    filled = interpolate_linear(j2d_px.reshape(len(j2d_px), -1), known)
    distance = np.abs(np.arange(len(j2d_px))[:, None] - np.flatnonzero(known)).min(axis=1)
    return filled.reshape(j2d_px.shape), distance.astype(np.float64)


def away_evidence(j2d_px: np.ndarray, shape: tuple[int, int], frames: float) -> np.ndarray:
    """Log-evidence (H, W) against a hand far from keypoints (21, 2) of `frames` away in time; zero where that says nothing."""
    if frames > MAX_BRIDGED or not _is_known(j2d_px):
        return np.zeros(shape, np.float32)
    away = cv2.distanceTransform((~limbs(j2d_px, shape)).astype(np.uint8), cv2.DIST_L2, 5) / palm_length_px(j2d_px)
    return -OUTSIDE * np.maximum(_ramp(away - SLACK - DRIFT * frames), _ramp(beyond_wrist(j2d_px, shape) - HAND_ENDS - DRIFT * frames))


def hand_evidence(
    j2d_px: np.ndarray, shape: tuple[int, int], direction: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-evidence (H, W) for hand, background and arm of one hand's keypoints (21, 2); zero everywhere without finite keypoints."""
    zero = np.zeros(shape, np.float32)
    if not _is_known(j2d_px):
        return zero, zero, zero
    size, inside, past = palm_length_px(j2d_px), limbs(j2d_px, shape), beyond_wrist(j2d_px, shape, direction)
    away = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 5) / size
    hand = -OUTSIDE * np.maximum(_ramp(away - SLACK), _ramp(past - HAND_ENDS))
    arm = -OUTSIDE * _ramp(ARM_BEGINS - past)
    return hand, np.where(inside & (past < 0), -np.float32(INSIDE), zero), arm


def _ramp(off: np.ndarray) -> np.ndarray:
    return np.clip(off / RAMP, 0, 1).astype(np.float32)
