import numpy as np
import torch

from holdprep.hand.joints import (
    BONES_MANO21,
    MANO21_FROM_OPENPOSE,
    MANO21_NAMES,
    MANO21_TIP_VERTICES,
    OPENPOSE_FROM_MANO21,
    WRIST_RING,
    to_mano21,
)

OPENPOSE_NAMES = ["wrist"] + [
    f"{finger}{part}" for finger in ("thumb", "index", "middle", "ring", "little") for part in ("1", "2", "3", "_tip")
]


def test_names_follow_both_orders():
    assert [MANO21_NAMES[j] for j in OPENPOSE_FROM_MANO21] == OPENPOSE_NAMES
    assert [OPENPOSE_NAMES[j] for j in MANO21_FROM_OPENPOSE] == list(MANO21_NAMES)


def test_to_mano21_undoes_the_openpose_order_for_arrays_and_tensors():
    mano = np.random.default_rng(0).normal(size=(2, 21, 3))
    openpose = mano[:, list(OPENPOSE_FROM_MANO21)]
    np.testing.assert_array_equal(to_mano21(openpose), mano)
    assert torch.equal(to_mano21(torch.from_numpy(openpose)), torch.from_numpy(mano))


def test_bones_are_a_tree_within_each_finger():
    children = [child for _, child in BONES_MANO21]
    assert sorted(children) == list(range(1, 21))
    for parent, child in BONES_MANO21:
        finger = MANO21_NAMES[child].rstrip("123").removesuffix("_tip")
        assert MANO21_NAMES[parent] == "wrist" or MANO21_NAMES[parent].startswith(finger)
        assert (MANO21_NAMES[parent] == "wrist") == MANO21_NAMES[child].endswith("1")


def test_named_vertices_are_distinct_ids_of_the_mesh():
    assert len(set(WRIST_RING)) == 16
    assert len(set(MANO21_TIP_VERTICES)) == 5
    assert not set(WRIST_RING) & set(MANO21_TIP_VERTICES)
    assert max(WRIST_RING + MANO21_TIP_VERTICES) < 778
