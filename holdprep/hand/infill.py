"""Detection of outlier frames, and infill of frames without a valid hand from neighbouring frames."""

import numpy as np
import roma
import torch
from scipy.stats import median_abs_deviation
from torch import Tensor

from holdprep.errors import HoldprepError
from holdprep.geometry.rigid import interpolate_linear, interpolate_rotations
from holdprep.hand import lbs
from holdprep.hand.model import HandModel, ManoParams

ERROR_FLOOR_M, VOLUME_FLOOR, MOTION_FLOOR_M = (
    5e-4,
    0.01,
    0.01,
)  # smaller deviations are not outliers, however small the variation of the other frames


def infill(params: ManoParams, is_valid: Tensor) -> ManoParams:
    """Parameters with frames outside `is_valid` (T,) filled: rotations by SLERP, translation linearly, ends constant; others unchanged.

    A shape per frame (T, 10) is filled with the mean of the five nearest valid frames. Raises HoldprepError without a valid frame.
    """
    known = is_valid.numpy().astype(bool)
    if not known.any():
        raise HoldprepError(f"infill: none of {len(known)} frames has a valid hand: check the overlays of hand_pose")
    pose = torch.cat([params.global_orient, params.hand_pose], dim=1).nan_to_num().reshape(-1, 16, 3)
    rotations = roma.rotvec_to_rotmat(pose).numpy()
    filled = torch.stack([torch.from_numpy(interpolate_rotations(rotations[:, k], known)) for k in range(16)], dim=1)
    pose = torch.where(is_valid.bool()[:, None, None], pose, roma.rotmat_to_rotvec(filled).to(pose)).flatten(1)
    transl = torch.from_numpy(interpolate_linear(params.transl.numpy(), known)).to(params.transl)
    betas = params.betas if params.betas.ndim == 1 else _nearest_mean(params.betas, known)
    return ManoParams(pose[:, :3], pose[:, 3:], betas, transl)


def outliers(model: HandModel, params: ManoParams, error_m: Tensor, is_valid: Tensor, *, z: float = 6.0) -> Tensor:
    """(T,) bool: valid frames with fit error, mesh volume or deviation from neighbouring positions beyond `z` standard deviations.

    Standard deviations are 1.4826 times the median absolute deviation over valid frames, each with a lower bound.
    """
    bad = torch.zeros_like(is_valid, dtype=torch.bool)
    at = torch.nonzero(is_valid)[:, 0]
    if len(at) < 5:
        return bad
    meshes = (lbs.forward(model, _rows(params, part)) for part in at.split(lbs.AT_ONCE))
    volume, centroid = (
        torch.cat(x) for x in zip(*((_volume(m.vertices, model.faces).log(), m.joints.mean(dim=1)) for m in meshes), strict=True)
    )
    before, after = torch.cat([centroid[1:2], centroid[:-1]]), torch.cat([centroid[1:], centroid[-2:-1]])
    span = (at - torch.cat([at[1:2], at[:-1]])).abs() + (torch.cat([at[1:], at[-2:-1]]) - at).abs()
    motion = (centroid - (before + after) / 2).norm(dim=1) / span
    found = _beyond(error_m[at], z, ERROR_FLOOR_M) | _beyond(volume, z, VOLUME_FLOOR, both=True) | _beyond(motion, z, MOTION_FLOOR_M)
    bad[at[found]] = True
    return bad


def _rows(params: ManoParams, rows: Tensor) -> ManoParams:
    betas = params.betas if params.betas.ndim == 1 else params.betas[rows]
    return ManoParams(params.global_orient[rows], params.hand_pose[rows], betas, params.transl[rows])


def _beyond(values: Tensor, z: float, floor: float, both: bool = False) -> Tensor:
    off = values - values.median()
    sigma = max(float(median_abs_deviation(values.numpy(), scale="normal")), floor)
    return (off.abs() if both else off) > z * sigma


def _volume(vertices: Tensor, faces: Tensor) -> Tensor:
    """(T,) volume of the mesh by signed tetrahedra from the centroid, which also closes the open wrist."""
    centred = vertices - vertices.mean(dim=1, keepdim=True)
    a, b, c = (centred[:, faces[:, i]] for i in range(3))
    return (torch.linalg.cross(b, c) * a).sum(dim=-1).sum(dim=1).abs() / 6


def _nearest_mean(betas: Tensor, known: np.ndarray) -> Tensor:
    at = torch.from_numpy(known.nonzero()[0])
    order = (torch.arange(len(betas))[:, None] - at).abs().argsort(dim=1, stable=True)[:, :5]
    mean = betas[at[order]].mean(dim=1)
    return torch.where(torch.from_numpy(known)[:, None], betas, mean)
