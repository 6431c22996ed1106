"""A hand and its mirror image, for models that mirror each other and for MANO's left shape directions, which do not."""

from dataclasses import replace

import numpy as np
import torch

from holdprep.hand import lbs
from holdprep.hand.mirror import mirrored
from holdprep.hand.model import ManoParams, load_hand_model

RIGHT, LEFT = (load_hand_model(side, dtype=torch.float64) for side in ("right", "left"))
FLIP = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)


def some_params(frames: int = 3) -> ManoParams:
    g = torch.Generator().manual_seed(0)
    return ManoParams(*(s * torch.randn(frames, n, generator=g, dtype=torch.float64) for s, n in ((1, 3), (0.3, 45), (1, 10), (0.3, 3))))


def test_mesh_is_the_mirror_image_both_ways():
    params = some_params()
    other = mirrored(params, RIGHT, LEFT)
    expected = lbs.forward(RIGHT, params)
    found = lbs.forward(LEFT, other)
    np.testing.assert_allclose(found.vertices, expected.vertices * FLIP, atol=1e-9)
    np.testing.assert_allclose(found.joints, expected.joints * FLIP, atol=1e-9)
    back = mirrored(other, LEFT, RIGHT)
    for name in ("global_orient", "hand_pose", "betas", "transl"):
        np.testing.assert_allclose(getattr(back, name), getattr(params, name), atol=1e-8)


def test_left_directions_with_a_wrong_sign_give_the_nearest_shape_and_the_right_wrist():
    as_in_the_file = replace(LEFT, shapedirs=LEFT.shapedirs * FLIP[:, None])
    params = some_params(1)
    flat = replace(params, global_orient=0 * params.global_orient, hand_pose=-RIGHT.hand_mean[None])
    found = mirrored(flat, RIGHT, as_in_the_file)
    target = lbs.forward(RIGHT, flat).vertices * FLIP
    mesh = lbs.forward(as_in_the_file, found)
    np.testing.assert_allclose(mesh.joints[:, 0], (lbs.forward(RIGHT, flat).joints * FLIP)[:, 0], atol=1e-9)

    def error(betas: torch.Tensor) -> float:
        moved = lbs.forward(as_in_the_file, replace(found, betas=betas))
        return float((((moved.vertices - moved.joints[:, :1]) - (target - mesh.joints[:, :1])) ** 2).sum())

    assert error(found.betas) < error(flat.betas)
    for step in torch.eye(10, dtype=torch.float64) * 1e-3:
        assert error(found.betas) < error(found.betas + step)
        assert error(found.betas) < error(found.betas - step)


def test_nan_frames_stay_nan_and_do_not_affect_others():
    params = some_params()
    holes = ManoParams(*(torch.where(torch.tensor([[True], [False], [True]]), x, torch.nan) for x in vars(params).values()))
    found, whole = mirrored(holes, RIGHT, LEFT), mirrored(params, RIGHT, LEFT)
    for name in ("global_orient", "hand_pose", "betas", "transl"):
        assert torch.isnan(getattr(found, name)[1]).all()
        np.testing.assert_allclose(getattr(found, name)[[0, 2]], getattr(whole, name)[[0, 2]], atol=1e-12)
