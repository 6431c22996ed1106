"""The background of a clip: what is not seen alike is not known, and an arm's colours are not the background's."""

import cv2
import numpy as np

from holdprep.segmenters.classifier import LabelSet
from holdprep.segmenters.knowledge import Clip, Knowledge
from tests.segmenters.test_skeleton import bar, upright_hand

SIZE = (240, 200)
SKIN, ROOM = (120, 150, 210), (140, 120, 60)  # BGR


def frame(rng: np.random.Generator, painted: dict[tuple[int, int, int], np.ndarray]) -> np.ndarray:
    image = np.full((*SIZE, 3), ROOM, np.float32)
    for color, where in painted.items():
        image[where] = color
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def background_evidence(images: list[np.ndarray], labels: list[np.ndarray]) -> np.ndarray:
    label_set = LabelSet(("object",))
    knowledge = Knowledge(Clip(images), {0: labels[0]}, label_set, {})
    knowledge.find_background(labels)
    found = knowledge.like_background(len(images) - 1)
    assert found is not None
    return found


def test_what_masks_miss_of_a_textured_object_is_no_background():
    """The object always covers a part of the room, and its masks lack a piece there, which shows other colours in each frame."""
    rng = np.random.default_rng(0)
    covered, missed = np.s_[60:180, 40:160], np.s_[100:150, 80:130]
    blocks = rng.integers(60, 200, (24, 20, 3)).astype(np.uint8)
    room = cv2.resize(blocks, SIZE[::-1], interpolation=cv2.INTER_NEAREST)  # with corners, by which the camera is static
    images, labels = [], []
    for _ in range(24):
        image = room.copy()
        image[covered] = cv2.resize(rng.integers(0, 255, (8, 8, 3)).astype(np.uint8), (120, 120), interpolation=cv2.INTER_NEAREST)
        label = np.zeros(SIZE, np.uint8)
        label[covered], label[missed] = 1, 0
        images.append(image)
        labels.append(label)
    evidence = background_evidence(images, labels)
    assert (evidence[missed] > 0).mean() < 0.05
    assert np.median(evidence[10:40, 10:190]) > 1


def test_an_arm_without_a_label_gives_the_background_no_color_of_skin():
    rng = np.random.default_rng(0)
    hand, arm = np.zeros(SIZE, bool), bar(SIZE, (101, 100), 20, 25)
    hand[10:100, 76:126] = True
    images = [frame(rng, {SKIN: hand | arm}) for _ in range(3)]
    labels, label_set = np.where(hand, 1, 0).astype(np.uint8), LabelSet(("right",))
    lab = Clip(images).lab(1)
    joints_px = np.repeat(upright_hand()[None], 3, axis=0)
    with_keypoints, without = (
        Knowledge(Clip(images), {0: labels}, label_set, known).evidence(1, (slice(0, SIZE[0]), slice(0, SIZE[1])))
        for known in ({1: joints_px}, {})
    )
    inside = arm & (np.arange(SIZE[0])[:, None] > 150)
    against = with_keypoints[..., 0] - with_keypoints[..., 2]  # background against arm
    assert lab[inside].std(axis=0).max() < 5 and np.median(against[inside]) < -2
    assert np.median((without[..., 0] - without[..., 2])[inside]) > -2
