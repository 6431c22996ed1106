"""Clicks become prompts and masks, can be undone, and survive saving."""

import threading

import cv2
import numpy as np
import pytest

from holdprep.errors import HoldprepError
from holdprep.segmenters.option import PromptedSegmenter
from holdprep.segmenters.prompts import EntityPrompt
from holdprep.ui.clicks import ClickSession
from holdprep.viz.overlay import COLORS

SIZE, FRAMES = (40, 60), 6


def fill(box: tuple[float, ...]) -> np.ndarray:
    x1, y1, x2, y2 = (round(v) for v in box)
    mask = np.zeros(SIZE, bool)
    mask[y1 : y2 + 1, x1 : x2 + 1] = True
    return mask


def outline(image, prompts, known) -> dict[str, np.ndarray]:
    """A segmenter that fills boxes, and takes a column of 3 px at a negative click away."""
    found = dict(known)
    for entity, prompt in prompts.items():
        mask = np.zeros(SIZE, bool) if prompt.absent else fill(prompt.box) if prompt.box else known.get(entity, np.zeros(SIZE, bool)).copy()
        for x, _ in [] if prompt.negative is None else prompt.negative:
            mask[:, int(x) - 1 : int(x) + 2] = False
        found[entity] = mask
    return found


def propagate(images, prompts, progress) -> dict[str, np.ndarray]:
    """Every frame gets the first key frame's masks, moved down by one row a frame; tells two steps of progress."""
    first = min(prompts)
    masks = outline(images[first], prompts[first], {})
    with progress(total=2, disable=True) as bar:
        bar.update()
        bar.update()
    return {e: np.stack([np.roll(m, t - first, axis=0) for t in range(FRAMES)]) for e, m in masks.items()}


@pytest.fixture
def session() -> ClickSession:
    images = [np.full((*SIZE, 3), t, np.uint8) for t in range(FRAMES)]
    hand = np.stack([fill((50, 0, 59, 9))] * FRAMES)
    return ClickSession(images, PromptedSegmenter(outline, propagate), {}, {"right": hand})


def area(session: ClickSession, t: int, label: int) -> int:
    return int((session.labels(t) == label).sum())


def test_a_box_shows_its_mask_at_once_and_keeps_the_others(session):
    session.edit(2, "object", "box", (10, 5, 19, 14))
    assert (area(session, 2, 3), area(session, 2, 1), area(session, 3, 3)) == (100, 100, 0)
    assert session.prompts == {2: {"object": EntityPrompt(box=(10, 5, 19, 14))}}


def test_a_box_may_be_dragged_from_any_corner_and_a_little_beyond_the_picture(session):
    session.edit(0, "object", "box", (61, 30, 40, -2))
    assert session.prompts[0]["object"].box == (40, 0, 59, 30)


def test_clicks_gather_and_undo_takes_them_back_one_by_one(session):
    session.edit(1, "object", "box", (10, 5, 19, 14))
    session.edit(1, "object", "negative", (12, 8))
    session.edit(1, "object", "negative", (16, 8))
    session.edit(1, "object", "positive", (11, 8))
    assert area(session, 1, 3) == 40
    prompt = session.prompts[1]["object"]
    assert (prompt.negative.tolist(), prompt.positive.tolist()) == ([[12, 8], [16, 8]], [[11, 8]])
    areas = []
    while session.undo() is not None:
        areas.append(area(session, 1, 3))
    assert areas == [40, 70, 100, 0] and session.prompts == {}


def test_an_entity_may_be_absent_or_cleared(session):
    session.edit(1, "right", "absent")
    assert area(session, 1, 1) == 0 and session.prompts[1]["right"].absent
    session.edit(1, "right", "box", (0, 0, 4, 4))
    assert area(session, 1, 1) == 25 and not session.prompts[1]["right"].absent
    session.edit(1, "right", "clear")
    assert area(session, 1, 1) == 100 and session.prompts == {}


def test_propagated_masks_replace_the_old_and_key_frames_correct_them(session):
    session.edit(0, "object", "box", (10, 5, 19, 14))
    session.propagate()
    session.wait()
    assert not session.progress.running and session.progress.share == 1
    assert [area(session, t, 3) for t in range(FRAMES)] == [100] * FRAMES and area(session, 3, 1) == 0
    assert session.labels(4)[9:19, 10:20].all()
    session.edit(4, "object", "negative", (12, 10))  # a click alone corrects the propagated mask
    assert area(session, 4, 3) == 70
    session.undo()
    assert area(session, 4, 3) == 100


@pytest.mark.parametrize("edits", [[("positive", (12, 8))], [("negative", (12, 8)), ("negative", (16, 8))], [("clear", ())]])
def test_a_key_frame_edited_during_propagation_keeps_its_edit(session, edits):
    go, started = threading.Event(), threading.Event()

    def slow(images, prompts, progress):
        started.set()
        go.wait(10)
        return propagate(images, prompts, progress)

    session.segmenter = PromptedSegmenter(outline, slow)
    session.edit(0, "object", "box", (10, 5, 19, 14))
    session.edit(0, "object", "positive", (11, 8))
    session.propagate()
    assert started.wait(10)
    for action, at in edits:
        session.edit(0, "object", action, at)
    area_before = area(session, 0, 3)
    go.set()
    session.wait()
    assert not session.progress.running and session.progress.error is None
    assert area(session, 0, 3) == (area_before if edits[0][0] != "clear" else 100)  # without clicks, the propagated mask is shown
    session.edit(0, "object", "negative", (18, 8))
    session.propagate()
    session.wait()
    assert session.progress.share == 1 and session.progress.error is None


def test_what_is_clicked_during_propagation_stays(session):
    go, started = threading.Event(), threading.Event()

    def slow(images, prompts, progress):
        started.set()
        go.wait(10)
        return propagate(images, prompts, progress)

    session.segmenter = PromptedSegmenter(outline, slow)
    session.edit(0, "object", "box", (10, 5, 19, 14))
    session.propagate()
    assert started.wait(10) and session.progress.running
    with pytest.raises(HoldprepError, match="already"):
        session.propagate()
    session.edit(3, "object", "box", (0, 0, 3, 4))
    go.set()
    session.wait()
    assert (area(session, 3, 3), area(session, 2, 3)) == (20, 100)


def test_a_failed_propagation_says_why_and_changes_nothing(session):
    def broken(images, prompts, progress):
        raise HoldprepError("too dark")

    session.segmenter = PromptedSegmenter(outline, broken)
    with pytest.raises(HoldprepError, match="nothing has been clicked"):
        session.propagate()
    session.edit(0, "object", "box", (10, 5, 19, 14))
    session.propagate()
    session.wait()
    assert session.progress.error == "too dark" and not session.progress.running
    assert area(session, 0, 3) == 100


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ((0, "object", "positive", (300, 4)), "outside the image of 60 x 40"),
        ((0, "object", "positive", (3,)), "needs 2 numbers"),
        ((0, "object", "box", (3, 3, 4, 30)), "smaller than 3 pixels"),
        ((0, "object", "box", (3, 3, float("nan"), 30)), "needs 4 numbers"),
        ((9, "object", "absent"), "no frame 9"),
        ((0, "foot", "absent"), "no entity foot"),
    ],
)
def test_wrong_edits_are_refused_and_leave_nothing(session, edit, words):
    with pytest.raises(HoldprepError, match=words):
        session.edit(*edit)
    assert session.prompts == {} and session.undo() is None


def test_an_edit_that_the_segmenter_refuses_is_taken_back(session):
    def refuses(image, prompts, known):
        raise HoldprepError("covers nothing")

    session.segmenter = PromptedSegmenter(refuses, propagate)
    with pytest.raises(HoldprepError, match="covers nothing"):
        session.edit(2, "object", "box", (10, 5, 19, 14))
    assert session.prompts == {} and area(session, 2, 1) == 100


def test_the_overlay_is_tinted_inside_and_clear_outside(session):
    session.edit(2, "object", "box", (10, 5, 19, 14))
    picture = cv2.imdecode(np.frombuffer(session.overlay(2), np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (*SIZE, 4)
    assert picture[0, 0].tolist() == [0, 0, 0, 0]
    assert picture[9, 14].tolist() == [*COLORS["object"], 107]
    assert picture[5, 14].tolist() == [*COLORS["object"], 255]
    assert picture[4, 55, :3].tolist() == list(COLORS["right"])
