"""The analytic derivatives against automatic ones through smplx, on a file whose pose blend shapes are not zero."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import smplx
import torch
from torch import Tensor

from holdprep.hand import lbs
from holdprep.hand.model import SIDES, ManoParams, export_mano_pkl, load_hand_model
from holdprep.hand.priors import left_jacobian_inverse
from holdprep.io import safeio

FRAMES, VERTICES = 2, torch.arange(0, 778, 11)


@pytest.mark.parametrize("side", SIDES)
def test_derivatives_equal_smplx(side: str, tmp_path: Path):
    """By MANO's own parameters: pose and global rotation as axis-angle, shape, translation; to 1e-6 in float64."""
    export_mano_pkl(tmp_path)
    file, rng = tmp_path / f"MANO_{side.upper()}.pkl", np.random.default_rng(0)
    file.write_bytes(pickle.dumps(safeio.load_pickle(file) | {"posedirs": 5e-3 * rng.normal(size=(778, 3, 135))}))
    layer = smplx.create(str(file), model_type="mano", is_rhand=side == "right", use_pca=False, flat_hand_mean=False, dtype=torch.float64)
    model = load_hand_model(side, tmp_path, dtype=torch.float64)
    pose, betas, transl = (torch.as_tensor(s * rng.normal(size=(FRAMES, n))) for s, n in ((0.6, 48), (1.5, 10), (0.3, 3)))

    def theirs(pose: Tensor, betas: Tensor, transl: Tensor) -> Tensor:
        out = layer(global_orient=pose[:, :3], hand_pose=pose[:, 3:], betas=betas, transl=transl)
        return torch.cat([out.joints[:, :16], out.vertices[:, VERTICES]], dim=1).sum(dim=0)  # frames do not meet: one pass for all

    by_pose, by_betas, by_transl = (x.movedim(2, 0) for x in torch.autograd.functional.jacobian(theirs, (pose, betas, transl)))
    points = lbs.HandPoints.of(model, VERTICES)
    state = lbs.to_state(model, ManoParams(pose[:, :3], pose[:, 3:], betas, transl))
    posed = points.pose(state)
    ids = torch.cat([torch.arange(16), torch.arange(lbs.NUM_JOINTS, len(points.rest))])[None]
    assert float(by_pose.abs().max()) > 0.05
    # a change of axis-angle w turns by its left Jacobian
    full = (pose + torch.cat([torch.zeros(3), model.hand_mean])).unflatten(1, (16, 3))
    turns = torch.einsum("tqajm,tjmi->tqaji", points.rotation_jacobian(posed, ids), torch.linalg.inv(left_jacobian_inverse(full)))
    torch.testing.assert_close(turns.flatten(3), by_pose, atol=1e-6, rtol=0)
    torch.testing.assert_close(points.shape_jacobian(posed, ids), by_betas, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.eye(3).double().expand_as(by_transl), by_transl, atol=1e-6, rtol=0)
