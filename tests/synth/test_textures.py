"""Prints differ by seed, repeat by seed, and are as easy or as hard for SIFT as their names say."""

import cv2
import numpy as np
import pytest

from holdprep.synth.textures import KINDS, make_room, make_texture


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_decide(kind: str):
    one, again, other = make_texture(kind, 3), make_texture(kind, 3), make_texture(kind, 4)
    assert one.shape == (1024, 1024, 3)
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, again)
    assert (one != other).mean() > 0.5


def test_features_are_many_on_labels_and_none_on_plain_ones():
    sift = cv2.SIFT_create()
    counts = {kind: len(sift.detect(make_texture(kind, 1))) for kind in KINDS}
    assert counts["label"] > 3000
    assert counts["plain"] == 0


def test_bands_look_alike_from_every_side_and_repeats_after_one_motif():
    bands, repeat = make_texture("bands", 2), make_texture("repeat", 2)
    assert (bands == bands[:, :1]).all()
    np.testing.assert_array_equal(repeat[:, 64:], repeat[:, :-64])


def test_a_room_has_a_table_below_and_is_not_flat():
    room = make_room(np.random.default_rng(0), 800, 600)
    assert room.shape == (600, 800, 3)
    assert room.std(axis=(0, 1)).min() > 10
