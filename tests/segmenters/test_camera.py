"""The background's motion under a turning camera."""

import cv2
import numpy as np
import pytest

from holdprep.geometry.cameras import pinhole_K
from holdprep.segmenters.camera import homographies

SIZE = (320, 240)


@pytest.fixture(scope="module")
def room() -> np.ndarray:
    rng = np.random.default_rng(1)
    layers = sum(cv2.GaussianBlur(rng.normal(size=(SIZE[1], SIZE[0])), (0, 0), s) * s for s in (1.5, 4.0, 10.0))
    return np.clip(120 + 40 * layers / layers.std(), 0, 255).astype(np.uint8)


def turned(degrees: float) -> np.ndarray:
    K = pinhole_K(400.0, *SIZE)
    R, _ = cv2.Rodrigues(np.radians([0.4 * degrees, degrees, 0.3 * degrees]))
    return K @ R @ np.linalg.inv(K)


def test_a_turning_camera_is_followed_past_what_moves_before_it(room):
    truth = [turned(0.5 * (t - 4)) for t in range(9)]
    grey = [cv2.warpPerspective(room, H, SIZE, borderMode=cv2.BORDER_REFLECT) for H in truth]
    labels = [np.zeros(SIZE[::-1], np.uint8) for _ in grey]
    for t, (image, label) in enumerate(zip(grey, labels, strict=True)):
        label[80:170, 60 + 12 * t : 140 + 12 * t] = 1  # a thing with a print that goes its own way
        image[80:170, 60 + 12 * t : 140 + 12 * t] = room[100:190, 20:100]
    found = homographies(grey.__getitem__, labels, 4)
    assert found is not None
    corners = np.array([[[20, 20]], [[300, 20]], [[20, 220]], [[300, 220]]], float)
    for H, true in zip(found, truth, strict=True):
        np.testing.assert_allclose(cv2.perspectiveTransform(corners, H), cv2.perspectiveTransform(corners, true), atol=0.5)


def test_a_bare_wall_and_a_cut_to_another_place_are_not_followed(room):
    nothing = np.zeros(SIZE[::-1], np.uint8)
    assert homographies(lambda _: np.full_like(room, 90), [nothing] * 3, 1) is None
    assert homographies([room, room, np.ascontiguousarray(room[::-1, ::-1])].__getitem__, [nothing] * 3, 1) is None
