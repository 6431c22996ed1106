"""Verification of a pair's matches: a pair of which most matches are wrong gives no matches at all."""

from pathlib import Path

import numpy as np
import pytest

from holdprep.object import colmap
from holdprep.object.colmap import Crop
from tests.object.clouds import KnownFeatures, cloud

PAIR = ("00", "04")  # 22 degrees apart


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("wrong", "num_right"), [(0.0, 300), (0.2, 240), (0.6, 0), (1.0, 0)])
def test_a_pair_keeps_its_right_matches_or_none(wrong: float, num_right: int, seed: int, tmp_path: Path) -> None:
    scene = cloud((320.0, 240.0), num_points=300, radius_px=40.0)
    crop = Crop.around(scene.masks, 2.0)
    colmap.write_crops(tmp_path, crop, scene.images, scene.masks, scene.names)
    rng = np.random.default_rng(seed)
    matches = np.tile(np.arange(300)[:, None], (1, 2))
    at = rng.permutation(300)[: int(wrong * 300)]
    matches[at, 1] = rng.permutation(matches[at, 1])
    a, b = PAIR
    source = KnownFeatures(scene.source.keypoints_px, {a: {b: matches}})
    source.extract(tmp_path, crop, scene.K, 1)
    source.match(tmp_path, [PAIR], 4.0, 0, 1)
    found = colmap.read_features(tmp_path, crop).matches[a].get(b, np.zeros((0, 2), int))
    assert abs(len(found) - num_right) <= 0.1 * num_right
    assert (found[:, 0] == found[:, 1]).sum() >= 0.95 * num_right
