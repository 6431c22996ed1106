"""The motion of the background under a rotating camera: each frame's homography to one of them."""

from collections.abc import Callable

import cv2
import numpy as np

CORNERS, CORNER_DISTANCE_PX, CLEARANCE_PX = 400, 8, 15  # of the background, their distance from each other, and from any entity
WITHIN_PX, MIN_SHARE, MIN_CORNERS = 1.0, 0.6, 30  # of tracked corners: inlier distance, minimal share and number of inliers
PARTS = 4  # the image is divided into 4 x 4 parts, with the same maximal number of corners in each


def homographies(grey: Callable[[int], np.ndarray], labels: list[np.ndarray], reference: int) -> list[np.ndarray] | None:
    """Homographies (3, 3) from the frame `reference` to each of T; None where the background does not move as one plane.

    `grey` returns a frame (H, W) uint8, `labels` are the T label images (0 is background). Each frame starts from its neighbour's
    homography and is matched with the reference, so that errors do not accumulate.
    """
    corners = _corners(grey(reference), labels[reference])
    if len(corners) < MIN_CORNERS:
        return None
    found: dict[int, np.ndarray] = {reference: np.eye(3)}
    for order in (range(reference + 1, len(labels)), range(reference)[::-1]):
        last = np.eye(3)
        for t in order:
            matched = _match(grey(reference), grey(t), labels[t], corners, last)
            if matched is None:
                return None
            found[t] = last = matched
    return [found[t] for t in range(len(labels))]


def _corners(grey: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Corners (N, 2) of the background, distributed over the image."""
    free = cv2.erode((labels == 0).astype(np.uint8) * 255, np.ones((CLEARANCE_PX, CLEARANCE_PX), np.uint8))
    found = []
    for rows in np.array_split(np.arange(grey.shape[0]), PARTS):
        for columns in np.array_split(np.arange(grey.shape[1]), PARTS):
            part = np.ix_(rows, columns)
            corners = cv2.goodFeaturesToTrack(
                np.ascontiguousarray(grey[part]), CORNERS // PARTS**2, 0.02, CORNER_DISTANCE_PX, mask=np.ascontiguousarray(free[part])
            )
            if corners is not None:
                found.append(corners.reshape(-1, 2) + np.array([columns[0], rows[0]], np.float32))
    return np.concatenate(found) if found else np.zeros((0, 2), np.float32)


def _match(reference: np.ndarray, grey: np.ndarray, labels: np.ndarray, corners: np.ndarray, near: np.ndarray) -> np.ndarray | None:
    """The homography (3, 3) of the reference's corners (N, 2) to a frame, starting from `near`; None with too few inliers."""
    guess = cv2.perspectiveTransform(corners[:, None], near).astype(np.float32)
    moved, status, _ = cv2.calcOpticalFlowPyrLK(
        reference, grey, corners[:, None], guess.copy(), winSize=(21, 21), maxLevel=2, flags=cv2.OPTFLOW_USE_INITIAL_FLOW
    )
    at = np.round(moved[:, 0]).astype(int)
    height, width = grey.shape
    inside = (at >= 0).all(axis=1) & (at[:, 0] < width) & (at[:, 1] < height) & (status.ravel() > 0)
    inside[inside] = labels[at[inside, 1], at[inside, 0]] == 0
    if inside.sum() < MIN_CORNERS:
        return None
    H, agreed = cv2.findHomography(corners[inside], moved[inside, 0], cv2.RANSAC, WITHIN_PX)
    return None if H is None or agreed.mean() < MIN_SHARE else H
