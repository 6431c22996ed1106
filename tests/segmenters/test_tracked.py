"""Keypoints of a hand are evidence only where they are those of the prompted hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from holdprep.segmenters import tracked
from holdprep.segmenters.prompts import EntityPrompt

IMAGES = [np.zeros((120, 160, 3), np.uint8)] * 4


@pytest.fixture
def tracker(monkeypatch):
    """A tracker that finds a hand in the middle of a picture, a quarter as high as it; it records the pictures that it was given."""
    given = []

    def track_hand(images, side, settings):
        given.extend(images)
        height, width = images[0].shape[:2]
        spread = np.random.default_rng(0).uniform(-height / 8, height / 8, (len(images), 21, 2))
        return SimpleNamespace(j2d_px=spread + np.array([width / 2, height / 2]))

    monkeypatch.setattr(tracked, "track_hand", track_hand)
    return given


def hand(box: tuple[float, float, float, float]) -> dict[str, EntityPrompt]:
    return {"right": EntityPrompt(box=box)}


def test_the_hand_in_its_box_is_kept(tracker):
    found = tracked.track_prompted(IMAGES, "right", {1: hand((60, 40, 100, 80))})
    assert np.isfinite(found).all()


def test_another_hand_than_in_most_boxes_is_left_out(tracker):
    elsewhere = hand((0, 0, 30, 30))
    assert np.isnan(tracked.track_prompted(IMAGES, "right", {0: elsewhere, 1: elsewhere, 2: hand((60, 40, 100, 80))})).all()
    once = tracked.track_prompted(IMAGES, "right", {0: elsewhere, 1: hand((60, 40, 100, 80)), 2: hand((60, 40, 100, 80))})
    assert np.isnan(once[0]).all() and np.isfinite(once[1:]).all()


def test_an_absent_hand_has_no_keypoints(tracker):
    found = tracked.track_prompted(IMAGES, "right", {2: {"right": EntityPrompt(absent=True)}})
    assert np.isnan(found[2]).all() and np.isfinite(found[[0, 1, 3]]).all()


def test_one_picture_is_searched_around_the_box_and_keypoints_are_the_whole_pictures(tracker):
    found = tracked.track_prompted(IMAGES[:1], "right", {0: hand((90, 60, 110, 80))})
    assert tracker[0].shape == (40, 40, 3)
    assert np.abs(found[0] - [100, 70]).max() <= 5
