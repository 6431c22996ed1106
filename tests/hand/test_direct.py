"""Registration by a tracker's own parameters: one shape, unchanged wrist, error without parameters."""

import pytest
import torch

from holdprep.errors import HoldprepError
from holdprep.hand import lbs
from holdprep.hand.direct import register_direct
from holdprep.hand.model import ManoParams, load_hand_model


def tracked(frames: int = 6) -> ManoParams:
    g = torch.Generator().manual_seed(0)

    def noise(n: int) -> torch.Tensor:
        return torch.randn(frames, n, generator=g, dtype=torch.float64)

    place = torch.tensor([0.0, 0.0, 0.6]) + 0.02 * noise(3)
    return ManoParams(0.5 * noise(3), 0.1 * noise(45), 0.4 + 0.05 * noise(10), place)


def test_one_shape_and_the_wrist_stays():
    model, params = load_hand_model("right", dtype=torch.float64), tracked()
    params.transl[2] = float("nan")
    mesh = lbs.forward(model, params)
    found = register_direct(model, params, mesh.vertices)
    assert found.is_valid.tolist() == [True, True, False, True, True, True]
    assert found.params.betas.shape == (10,)
    wrists = lbs.forward(model, found.params).joints[:, 0]
    torch.testing.assert_close(wrists[found.is_valid], mesh.joints[found.is_valid, 0])
    assert 0 < float(found.error_m[found.is_valid].mean()) < 2e-3  # shapes differ by a twentieth of a unit


def test_one_shape_per_frame_keeps_the_trackers_shapes():
    model, params = load_hand_model("left", dtype=torch.float64), tracked()
    found = register_direct(model, params, lbs.forward(model, params).vertices, shared_shape=False)
    assert found.params is params
    assert float(found.error_m.max()) < 1e-12


def test_missing_parameters_are_an_error():
    model, params = load_hand_model("right", dtype=torch.float64), tracked(2)
    empty = ManoParams(*(torch.full_like(x, float("nan")) for x in (params.global_orient, params.hand_pose, params.betas, params.transl)))
    with pytest.raises(HoldprepError, match="no MANO parameters in any of 2 frames"):
        register_direct(model, empty, lbs.forward(model, params).vertices)
