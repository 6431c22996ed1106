"""OpenPose files of several people, and third numbers that are no confidence."""

import json
from pathlib import Path

import numpy as np
import pytest

from holdprep.hand.trackers import keypoints, people
from tests.hand.trackers.known import NAMES, SIZE
from tests.hand.trackers.test_keypoints import ORDER, joints


def person(px: np.ndarray, confidence: float = 0.9) -> dict[str, list[float]]:
    rows = np.concatenate([px, np.full((21, 1), confidence)], axis=1)
    return {"hand_right_keypoints_2d": rows.ravel().tolist(), "hand_left_keypoints_2d": [0.0] * 63}


@pytest.mark.parametrize("with_masks", [True, False])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_hand_at_its_mask_and_last_place_is_used(tmp_path: Path, with_masks: bool, place: int):
    px = np.repeat(joints()[1][:1, ORDER], 3, axis=0) + np.array([0, 8, 16])[:, None, None]  # it moves by a few pixels a frame
    masks = []
    for t, name in enumerate(NAMES):
        others = [person(px[t] + [-150 + 60 * t, 40], 0.9 if with_masks else 0.5), person(px[t] * 0.5 + [20, 200 - 90 * t], 0.6)]
        shown = [*others[:place], person(px[t]), *others[place:]]
        (tmp_path / f"{name}_keypoints.json").write_text(json.dumps({"people": shown if t != 1 else shown[::-1]}))
        low, high = px[t].min(axis=0).astype(int), px[t].max(axis=0).astype(int)
        mask = np.zeros(SIZE[::-1], bool)
        mask[low[1] : high[1], low[0] : high[0]] = True
        masks.append(mask)
    tracks, notes = keypoints.read(tmp_path, NAMES, SIZE, {"right": masks} if with_masks else None)
    np.testing.assert_allclose(tracks["right"].j2d_px[:, ORDER], px)
    assert [note for note in notes if "3 of 3 frames show several people" in note]


def test_the_choice_is_of_the_whole_clip():
    """A first frame without a mask is decided by those after it."""
    hand = np.concatenate([np.random.default_rng(0).uniform(0, 40, (21, 2)), np.ones((21, 1))], axis=1)
    here, there = np.add(hand, [10, 10, 0]), np.add(hand, [300, 10, 0])
    mask = np.zeros((200, 400), bool)
    mask[10:50, 300:340] = True
    assert people.nearest([[here, there], [there, here], [], [here, there]], [np.zeros_like(mask), mask, mask, mask]) == [1, 0, 0, 1]
    assert people.nearest([], None) == []


@pytest.mark.parametrize("third", [np.linspace(0, -0.1, 21), np.linspace(-40, 30, 21), np.full(21, 1.5)])
@pytest.mark.parametrize("kind", ["json", "npz"])
def test_a_third_number_outside_0_to_1_is_no_confidence(tmp_path: Path, third: np.ndarray, kind: str):
    px = joints()[1][:, ORDER]
    rows = np.concatenate([px, np.broadcast_to(third[:, None], (3, 21, 1))], axis=2)
    path = tmp_path / f"hands.{kind}"
    if kind == "npz":
        np.savez(path, **{"j2d.right": rows})
    else:
        path.write_text(json.dumps({name: {"right": rows[t].tolist()} for t, name in enumerate(NAMES)}))
    tracks, notes = keypoints.read(path, NAMES, SIZE)
    assert (tracks["right"].confidence == 1).all()
    np.testing.assert_allclose(tracks["right"].j2d_px, joints()[1])
    assert [note for note in notes if "no confidence" in note and "outside 0..1" in note]


def test_a_confidence_stays_one(tmp_path: Path):
    px = joints()[1][:, ORDER]
    rows = np.concatenate([px, np.full((3, 21, 1), 0.25)], axis=2)
    rows[:, 3, 2] = 1.0002  # rounding
    np.savez(tmp_path / "hands.npz", **{"j2d.right": rows})
    tracks, notes = keypoints.read(tmp_path / "hands.npz", NAMES, SIZE)
    assert sorted(set(tracks["right"].confidence.ravel())) == [0.25, 1.0] and notes == []
