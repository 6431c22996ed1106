"""Errors put into good masks are found where they are, and nothing else is."""

import cv2
import numpy as np
import pytest

from holdprep.quality import suspects
from holdprep.quality.mask_changes import mask_changes
from tests.synthetic import make_sequence

H, W, FRAMES = 60, 80, 20


@pytest.fixture(scope="module")
def clip() -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """A textured square and a textured bar that move 2 px a frame over noise; their exact masks."""
    rng = np.random.default_rng(0)
    ground, square, bar = (cv2.GaussianBlur(rng.integers(0, 255, s, np.uint8), (0, 0), 1.2) for s in ((H, W, 3), (20, 20, 3), (20, 9, 3)))
    images, masks = [], {"right": np.zeros((FRAMES, H, W), bool), "object": np.zeros((FRAMES, H, W), bool)}
    for t in range(FRAMES):
        image = ground.copy()
        x = 10 + 2 * t
        image[20:40, x : x + 20], image[20:40, x - 9 : x] = square, bar
        masks["object"][t, 20:40, x : x + 20] = masks["right"][t, 20:40, x - 9 : x] = True
        images.append(image)
    return images, masks


def frames(found: dict[str, dict[str, np.ndarray]]) -> dict[str, list[int]]:
    return {f"{e} {r}": np.flatnonzero(f).tolist() for e, by in found.items() for r, f in by.items() if f.any()}


def damaged(masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {e: m.copy() for e, m in masks.items()}


def test_true_masks_are_not_suspect(clip):
    images, masks = clip
    assert frames(suspects.suspects(masks, images)) == {}
    assert suspects.reclick(suspects.suspects(masks, images)) == {}


def test_true_masks_of_a_rendered_hand_are_not_suspect():
    seq = make_sequence(("right",), frames=12, size=(320, 240), degrees=30)
    assert frames(suspects.suspects(seq.masks, seq.images)) == {}


def test_a_lost_mask_is_found_at_both_ends_of_the_gap(clip):
    images, masks = clip
    bad = damaged(masks)
    bad["object"][6:10] = False
    assert frames(suspects.suspects(bad, images)) == {"object empty": [6, 9]}


def test_an_entity_that_shrinks_away_is_not_lost():
    area = np.array([400, 400, 300, 150, 60, 0, 0, 0, 70, 390])
    assert np.flatnonzero(suspects.vanished(area)).tolist() == []
    area[4] = 120
    assert np.flatnonzero(suspects.vanished(area)).tolist() == [5]


def test_a_leak_to_the_border_is_found(clip):
    images, masks = clip
    bad = damaged(masks)
    bad["right"][8, 40:, 10:20] = True  # ten of 276 border pixels: under the step
    assert "right border" not in frames(suspects.suspects(bad, images))
    bad["right"][8, 40:, 10:30] = True
    assert frames(suspects.suspects(bad, images))["right border"] == [8]


def test_overlap_blames_both(clip):
    images, masks = clip
    bad = damaged(masks)
    bad["right"][5] |= np.roll(masks["right"][5], 3, axis=1)  # three columns of the object
    found = frames(suspects.suspects(bad, images))
    assert found["right overlap"] == found["object overlap"] == [5]


def test_flicker_is_what_motion_does_not_explain(clip):
    images, masks = clip
    iou = mask_changes(masks, images)["object"].iou
    assert np.isnan(iou[0]) and np.nanmin(iou) > 0.9
    still = (masks["right"][0] & masks["right"][4]).sum()
    assert still == 20  # eight of nine columns have changed in four frames, yet the frames follow each other
    bad = damaged(masks)
    bad["object"][12, 20:40] = np.roll(bad["object"][12, 20:40], 12, axis=1)  # same area, elsewhere
    found = suspects.suspects(bad, images)
    assert frames(found)["object flicker"] == [12, 13]
    assert not found["object"]["jump"].any()


def test_neighbouring_suspects_are_one_click():
    flags = {r: np.zeros(30, bool) for r in suspects.REASONS}
    other = {r: np.zeros(30, bool) for r in suspects.REASONS}
    flags["empty"][[3, 6]] = flags["flicker"][[4, 20]] = other["jump"][6] = True
    again = suspects.reclick({"object": flags, "right": other})
    assert again == {6: ["object: mask gone", "right: area jumps"], 20: ["object: flickers"]}


@pytest.fixture(scope="module")
def colored() -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """A red printed square and a skin-coloured bar that move 2 px a frame over a grey room; their exact masks."""
    rng = np.random.default_rng(1)

    def mottled(color: tuple[int, int, int], size: tuple[int, int]) -> np.ndarray:
        return np.clip(np.array(color) + cv2.GaussianBlur(rng.normal(0, 40, (*size, 3)), (0, 0), 1.2), 0, 255).astype(np.uint8)

    ground, square, bar = mottled((130, 130, 125), (120, 160)), mottled((50, 60, 200), (40, 40)), mottled((120, 160, 220), (40, 18))
    images, masks = [], {"right": np.zeros((FRAMES, 120, 160), bool), "object": np.zeros((FRAMES, 120, 160), bool)}
    for t in range(FRAMES):
        image, x = ground.copy(), 20 + 2 * t
        image[40:80, x : x + 40], image[40:80, x - 18 : x] = square, bar
        masks["object"][t, 40:80, x : x + 40] = masks["right"][t, 40:80, x - 18 : x] = True
        images.append(image)
    return images, masks


def test_true_masks_of_coloured_things_are_not_suspect(colored):
    images, masks = colored
    assert frames(suspects.suspects(masks, images)) == {}


def test_a_part_of_the_room_in_the_mask_is_found_where_it_came_in(colored):
    images, masks = colored
    bad = damaged(masks)
    for t in range(6, 12):
        bad["object"][t, 80:95, 20 + 2 * t : 60 + 2 * t] = True
    found = frames(suspects.suspects(bad, images))
    assert found["object gain"] == [6] and "object loss" not in found and not any(name.startswith("right") for name in found)


def test_a_visible_part_that_is_lost_is_found_where_it_went(colored):
    images, masks = colored
    bad = damaged(masks)
    bad["object"][6:12, 66:80] = False  # a third of the object, for six frames
    found = frames(suspects.suspects(bad, images))
    assert found["object loss"] == [6] and "object gain" not in found and not any(name.startswith("right") for name in found)


def test_what_another_entity_covers_is_not_lost(colored):
    images, masks = colored
    bad = damaged(masks)
    for t in range(8, FRAMES):  # the bar comes before the square
        x = 20 + 2 * t
        images = [*images[:t], images[t].copy(), *images[t + 1 :]]
        images[t][40:80, x : x + 14] = images[t][40:80, x - 18 : x - 4]
        bad["right"][t, 40:80, x : x + 14], bad["object"][t, 40:80, x : x + 14] = True, False
    assert "object loss" not in frames(suspects.suspects(bad, images))


def test_a_hole_is_found_and_a_handle_is_not(colored):
    images, masks = colored
    handle = damaged(masks)
    handle["object"][:, 48:56, :] &= np.array([(np.arange(160) < 30 + 2 * t) | (np.arange(160) >= 38 + 2 * t) for t in range(FRAMES)])[
        :, None
    ]
    assert not any("hole" in name for name in frames(suspects.suspects(handle, images)))
    bad = damaged(masks)
    bad["object"][9, 50:65, 46:58] = False
    assert frames(suspects.suspects(bad, images))["object hole"] == [9]
