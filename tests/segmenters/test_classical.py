"""Outlines on key frames are carried through a clip with known masks."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from holdprep.errors import HoldprepError
from holdprep.segmenters import propagation
from holdprep.segmenters.classical import enlarge, propagate
from holdprep.segmenters.classical import outline as outline_one
from holdprep.segmenters.classifier import Probabilities
from holdprep.segmenters.prompts import EntityPrompt
from tests.synthetic import make_sequence

FRAMES = 9


@pytest.fixture(scope="module")
def seq():
    return make_sequence(("right",), frames=FRAMES, size=(320, 240), degrees=30)


def outline(mask: np.ndarray) -> EntityPrompt:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    rough = [cv2.approxPolyDP(c, 3.0, True)[:, 0].astype(float) for c in contours if cv2.contourArea(c) > 30]
    return EntityPrompt(polygons=tuple(p for p in rough if len(p) >= 3))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_masks_follow_hand_and_object(seq):
    prompts = {t: {e: outline(m[t]) for e, m in seq.masks.items()} for t in (0, FRAMES - 1)}
    found = propagate(seq.images, prompts)
    assert set(found) == {"right", "object"}
    assert not (found["right"] & found["object"]).any()
    for entity, masks in seq.masks.items():
        assert min(iou(found[entity][t], masks[t]) for t in range(FRAMES)) > 0.85


def test_work_size_is_smaller_than_the_picture(seq):
    big = [cv2.resize(im, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) for im in seq.images[:3]]
    prompt = outline(seq.masks["object"][0])
    scaled = EntityPrompt(polygons=tuple(2 * p for p in prompt.polygons))
    found = propagate(big, {0: {"object": scaled}}, work_side=320)["object"]
    truth = cv2.resize(seq.masks["object"][2].astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST) > 0
    assert found.shape == (3, 480, 640)
    assert iou(found[2], truth) > 0.8  # one key frame, and a hand without an outline of its own


def test_boxes_and_clicks_outline_too(seq):
    mask = seq.masks["object"][0]
    ys, xs = np.nonzero(mask)
    box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
    inside = np.array([[np.median(xs), np.median(ys)]])
    found = propagate(seq.images[:1], {0: {"object": EntityPrompt(box=box, positive=inside)}})["object"]
    assert iou(found[0], mask) > 0.6


@pytest.mark.parametrize("color", [(60, 60, 200), (60, 180, 60)])
@pytest.mark.parametrize("is_drawn", [True, False])
def test_a_thin_handle_stays(color, is_drawn):
    image = np.full((160, 200, 3), (130, 130, 125), np.uint8)
    body, handle = np.s_[40:110, 40:100], np.s_[72:78, 100:160]
    image[body], image[handle] = (60, 60, 200), color
    image = np.clip(cv2.GaussianBlur(image, (0, 0), 0.8) + np.random.default_rng(0).normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    truth = np.zeros((160, 200), bool)
    truth[body] = truth[handle] = True
    clicked = EntityPrompt(box=(40.0, 40.0, 160.0, 110.0), positive=np.array([[70.0, 75.0], [135.0, 75.0]]))
    found = propagate([image], {0: {"object": outline(truth) if is_drawn else clicked}})["object"][0]
    assert found[handle].mean() > 0.95 and iou(found, truth) > 0.98


def test_prompts_outside_the_picture_are_refused(seq):
    far = EntityPrompt(polygons=(np.array([[900.0, 900], [950, 900], [950, 950]]),))
    with pytest.raises(HoldprepError, match="outline nothing"):
        propagate(seq.images[:2], {0: {"object": far}})


def test_a_key_frame_that_says_nothing_of_the_hand_keeps_it(seq):
    last = FRAMES - 1
    prompts = {0: {e: outline(m[0]) for e, m in seq.masks.items()}, last: {"object": outline(seq.masks["object"][last])}}
    found = propagate(seq.images, prompts)
    assert iou(found["right"][last], seq.masks["right"][last]) > 0.75
    gone = propagate(seq.images, {**prompts, last: {**prompts[last], "right": EntityPrompt(absent=True)}})
    assert not gone["right"][last].any()


def test_a_click_beside_takes_a_leak_back(seq):
    truth, image = seq.masks["object"][0], seq.images[0]
    ys, xs = np.nonzero(truth)
    leaky = truth.copy()
    leaky[: max(ys.min() - 4, 1), xs.min() : xs.max()] = True  # all that is above the object
    click = np.array([[np.mean([xs.min(), xs.max()]), ys.min() / 2]])
    found = outline_one(image, {"object": EntityPrompt(negative=click)}, {"object": leaky, "right": seq.masks["right"][0]})
    assert iou(found["object"], truth) > iou(leaky, truth)
    assert not found["object"][int(click[0, 1]), int(click[0, 0])]
    assert iou(found["right"], seq.masks["right"][0]) > 0.75
    assert not (found["right"] & found["object"]).any()


def test_one_picture_by_itself_is_the_key_frame(seq):
    prompts = {e: outline(m[0]) for e, m in seq.masks.items()}
    found, clip = outline_one(seq.images[0], prompts, {}), propagate(seq.images[:2], {0: prompts})
    for entity in prompts:
        np.testing.assert_array_equal(found[entity], clip[entity][0])


def test_labels_are_enlarged_smoothly():
    ys, xs = np.mgrid[:60, :80]
    labels = np.where(xs >= 60, 1, np.where(np.hypot(xs - 30, ys - 30) < 20, 2, 0)).astype(np.uint8)
    ys, xs = np.mgrid[:180, :240]  # a small picture's pixel (x, y) has its middle at 3 x + 1
    found = enlarge(labels, (180, 240))
    assert iou(found == 2, np.hypot(xs - 91, ys - 91) < 60) > 0.98 and iou(found == 1, xs >= 180) > 0.98


def test_boxes_that_overlap_share_their_pixels_whatever_their_order(seq):
    def box(mask: np.ndarray) -> EntityPrompt:
        ys, xs = np.nonzero(mask)
        return EntityPrompt(box=(float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())))

    boxes = {e: box(m[0]) for e, m in seq.masks.items()}
    found = outline_one(seq.images[0], {e: boxes[e] for e in ("object", "right")}, {})
    other = outline_one(seq.images[0], {e: boxes[e] for e in ("right", "object")}, {})
    for entity, truth in seq.masks.items():
        assert iou(found[entity], truth[0]) > 0.7
        np.testing.assert_array_equal(found[entity], other[entity])


def test_clicks_on_the_hand_are_not_the_objects(seq):
    ys, xs = np.nonzero(seq.masks["right"][0])
    point = np.array([[float(xs[len(xs) // 2]), float(ys[len(ys) // 2])]])
    whole = EntityPrompt(box=(1.0, 1.0, 318.0, 238.0), positive=_middle(seq.masks["object"][0]))
    found = outline_one(seq.images[0], {"object": whole, "right": EntityPrompt(positive=point)}, {})
    assert not found["object"][int(point[0, 1]), int(point[0, 0])]


def _middle(mask: np.ndarray) -> np.ndarray:
    y, x = np.unravel_index(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5).argmax(), mask.shape)
    return np.array([[float(x), float(y)]])


def turning_scene(frames: int = 10, size: tuple[int, int] = (320, 240), finger_px: int = 0):
    """BGR images and masks: a bare arm with a hand comes up before a room; a box that hid the hand goes aside; the camera turns a little.

    Nothing in the image shows where the hand begins, and between hand and box the room comes into sight. A finger reaches `finger_px`
    past the box's other side.
    """
    width, height = size
    rng = np.random.default_rng(3)

    def mottled(color: tuple[int, int, int], amount: float, sigma: float) -> np.ndarray:
        layer = cv2.GaussianBlur(rng.normal(size=(2 * height, 2 * width, 1)), (0, 0), sigma)
        return np.clip(np.array(color) + amount * layer[..., None] / layer.std(), 0, 255)

    room, skin, print_ = mottled((120, 125, 110), 14, 3), mottled((110, 140, 200), 6, 5), mottled((170, 60, 40), 30, 2)
    images, masks = [], {"right": [], "object": []}
    for t in range(frames):
        x, y = round(2.0 * np.sin(t)), round(1.5 * np.cos(t))  # the room's place
        image = room[20 + y : 20 + y + height, 20 + x : 20 + x + width].copy()
        up, aside = 3 * t, 4 * t
        limb, hand, box = (np.zeros((height, width), bool) for _ in range(3))
        limb[110 - up :, 140:190] = True
        hand[110 - up : 180 - up, 140:190] = True
        box[80 - up : 160 - up, 95 - aside : 155 - aside] = True
        hand[110 - up : 126 - up, 95 - aside - finger_px : 95 - aside] = True
        rows = np.arange(height) + up
        image[limb | hand] = skin[rows][:, :width][limb | hand]
        image[box] = print_[rows][:, aside : aside + width][box]
        noisy = cv2.GaussianBlur(image, (0, 0), 0.5) + rng.normal(0, 2, image.shape)
        images.append(np.clip(noisy, 0, 255).astype(np.uint8))
        masks["right"].append(hand & ~box)
        masks["object"].append(box)
    return images, {e: np.stack(m) for e, m in masks.items()}


def test_the_wrist_keeps_its_place_on_a_bare_arm():
    images, truth = turning_scene()
    found = propagate(images, {0: {e: outline(m[0]) for e, m in truth.items()}})
    for entity, masks in truth.items():
        assert min(iou(found[entity][t], masks[t]) for t in range(len(images))) > 0.9


def test_skin_farther_along_the_arm_is_no_hand():
    images, truth = turning_scene(16)
    found = propagate(images, {0: {e: outline(m[0]) for e, m in truth.items()}})["right"]
    for t in range(len(images)):
        assert not found[t][180 - 3 * t + 12 :].any()  # below the wrist


def test_a_finger_without_an_outline_is_found_in_the_other_frames():
    images, truth = turning_scene(12, finger_px=22)
    _, x_px = np.mgrid[: truth["right"].shape[1], : truth["right"].shape[2]]
    drawn = truth["right"][0] & (x_px > 95)
    found = propagate(images, {0: {"right": outline(drawn), "object": outline(truth["object"][0])}})
    assert not found["right"][0][:, :90].any()  # what is clicked holds
    for t in range(3, 12):
        assert iou(found["right"][t], truth["right"][t]) > 0.95 and iou(found["object"][t], truth["object"][t]) > 0.95


def test_a_long_clip_keeps_little_of_each_frame(monkeypatch: pytest.MonkeyPatch):
    # one direction after the other: most frames wait, and the peak does not depend on how two threads share the cores
    monkeypatch.setattr(propagation, "ThreadPoolExecutor", lambda _: ThreadPoolExecutor(1))

    def peak_bytes(frames: int) -> int:
        images, truth = turning_scene(frames)
        prompts = {t: {e: outline(m[t]) for e, m in truth.items()} for t in (0, frames - 1)}
        tracemalloc.start()
        propagate(images, prompts)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    grown = (peak_bytes(18) - peak_bytes(10)) / 8 / (320 * 240)
    assert grown < 12  # bytes a pixel: 3 of labels and two masks, 6 of probabilities that wait for the other direction


def test_probabilities_take_a_byte_a_label_within_their_region():
    region = (slice(5, 25), slice(10, 40))
    given = np.random.default_rng(0).dirichlet(np.ones(4), (20, 30))
    kept = Probabilities.of(given, region)
    assert kept.of_labels.nbytes == 20 * 30 * 3
    whole = kept.whole((60, 80))
    np.testing.assert_allclose(whole[region], given, atol=1.5 / 255 + 1e-6)
    np.testing.assert_allclose(whole.sum(axis=-1), 1, atol=1e-6)
    assert (np.delete(whole[..., 0].ravel(), np.ravel_multi_index(np.mgrid[region], (60, 80)).ravel()) == 1).all()


def test_a_click_on_the_arm_makes_it_hand():
    images, truth = turning_scene(1)
    click = np.array([[165.0, 215.0]])
    known = {e: m[0] for e, m in truth.items()}
    found = outline_one(images[0], {"right": EntityPrompt(positive=click)}, known)
    assert found["right"][215, 165] and iou(found["object"], known["object"]) > 0.9
