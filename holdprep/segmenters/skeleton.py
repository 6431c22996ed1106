"""What a hand's tracked keypoints say about labels: no hand far from the skeleton, no background inside it, and where the arm begins."""

import cv2
import numpy as np

from holdprep.hand.joints import FINGERS

WRIST, MIDDLE, THUMB = 0, 4, 13  # joints of MANO's order: the wrist, where the middle finger and the thumb begin
FINGER, THICK, PALM = (
    0.09,
    0.11,
    0.14,
)  # of the palm's length: half widths of fingers and thumb, and of what the palm is wider than its joints
PROXIMAL = 2.0  # palm lengths in the first bone of a finger: a foreshortened palm is longer than it looks
SLACK, RAMP = 0.09, 0.10  # of the palm's length: error of keypoints, and the distance over which evidence grows to its bound
OUTSIDE, INSIDE = 4.0, 0.5  # bounds of the evidence
HAND_ENDS, ARM_BEGINS = 0.18, 0.12  # palm lengths past the wrist's joint, where people end a hand's outline (0.1 to 0.3)


def palm_length_px(j2d_px: np.ndarray) -> float:
    """Length of the palm in the picture, from the wrist to the middle finger, from 21 keypoints (21, 2) in MANO's order."""
    starts = [chain[0] for chain in FINGERS if chain[0] != THUMB]
    palm = max(float(np.linalg.norm(j2d_px[k] - j2d_px[WRIST])) for k in starts)
    bones = [float(np.linalg.norm(j2d_px[chain[1]] - j2d_px[chain[0]])) for chain in FINGERS if chain[0] != THUMB]
    return max(palm, PROXIMAL * max(bones))


def limbs(j2d_px: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The hand's limbs (H, W) bool as thick bones and a filled palm; parts outside of the image are left out."""
    size, mask = palm_length_px(j2d_px), np.zeros(shape, np.uint8)
    at = np.clip(np.round(j2d_px), -(2**14), 2**14).astype(np.int32)
    palm = np.array([WRIST, *(chain[0] for chain in FINGERS)])
    cv2.fillConvexPoly(mask, cv2.convexHull(at[palm]), 1)
    cv2.polylines(mask, [cv2.convexHull(at[palm])], True, 1, max(2 * round(PALM * size), 1))
    for chain in FINGERS:
        width = THICK if chain[0] == THUMB else FINGER
        cv2.polylines(mask, [at[list(chain)]], False, 1, max(2 * round(width * size), 1))
    return mask > 0


def beyond_wrist(j2d_px: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Signed distance (H, W) of pixels from the wrist towards the arm, in palm lengths."""
    to_arm = j2d_px[WRIST] - j2d_px[[chain[0] for chain in FINGERS if chain[0] != THUMB]].mean(axis=0)
    length = float(np.linalg.norm(to_arm))
    size = palm_length_px(j2d_px)
    if length < 0.3 * size:  # seen along the palm: its direction in the picture is not known
        return np.zeros(shape, np.float32)
    ys, xs = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    direction = to_arm / length
    return ((xs - j2d_px[WRIST, 0]) * direction[0] + (ys - j2d_px[WRIST, 1]) * direction[1]).astype(np.float32) / np.float32(size)


def hand_evidence(j2d_px: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-evidence (H, W) for hand, background and arm of one hand's keypoints (21, 2); zero everywhere without finite keypoints."""
    zero = np.zeros(shape, np.float32)
    if not np.isfinite(j2d_px).all() or palm_length_px(j2d_px) < 8:
        return zero, zero, zero
    size, inside, past = palm_length_px(j2d_px), limbs(j2d_px, shape), beyond_wrist(j2d_px, shape)
    away = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 5) / size
    hand = -OUTSIDE * np.maximum(_ramp(away - SLACK), _ramp(past - HAND_ENDS))
    arm = -OUTSIDE * _ramp(ARM_BEGINS - past)
    return hand, np.where(inside & (past < 0), -np.float32(INSIDE), zero), arm


def _ramp(off: np.ndarray) -> np.ndarray:
    return np.clip(off / RAMP, 0, 1).astype(np.float32)
