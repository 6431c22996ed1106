"""Reading of a build as by HOLD's trainer, to verify that it reproduces the alignment."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from holdprep.hand import lbs
from holdprep.hand.model import HandModel, ManoParams, Side


def decompose(P: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K (3, 3), rotation (3, 3) world to camera, and camera centre (3,) of a projection (3, 4), as in the trainer's loader."""
    K, R, centre, *_ = cv2.decomposeProjectionMatrix(P)
    return K / K[2, 2], R, (centre[:3] / centre[3])[:, 0]


def project_build(data: Mapping[str, Any], models: Mapping[Side, HandModel]) -> dict[str, np.ndarray]:
    """Pixels (T, N, 2) of every entity of a data.npy: hand vertices and object points, posed and projected in the trainer's world."""
    cameras, entities = data["cameras"], data["entities"]
    scale = 1.0 / float(cameras["scale_mat_0"][0, 0])
    posed: dict[str, np.ndarray] = {side: _hand(entities[side], models[side], scale) for side in models if side in entities}
    posed["object"] = _object(entities["object"], scale)
    return {entity: _project(points, cameras) for entity, points in posed.items()}


def _hand(entity: Mapping[str, np.ndarray], model: HandModel, scale: float) -> np.ndarray:
    def tensor(x: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.asarray(x), dtype=torch.float32)

    poses = tensor(entity["hand_poses"])
    params = ManoParams(poses[:, :3], poses[:, 3:], tensor(entity["mean_shape"]), tensor(entity["hand_trans"]))
    return scale * lbs.forward(model.to(torch.float32), params).vertices.numpy()


def _object(entity: Mapping[str, Any], scale: float) -> np.ndarray:
    """scene_scale x [R | t] x obj_scale x norm_mat^-1 x pts.cano."""
    poses = np.asarray(entity["object_poses"], np.float32)
    denorm = np.linalg.inv(np.asarray(entity["norm_mat"], np.float32))
    points = np.asarray(entity["pts.cano"], np.float32) @ denorm[:3, :3].T + denorm[:3, 3]
    R = Rotation.from_rotvec(poses[:, :3]).as_matrix().astype(np.float32)
    return scale * (np.float32(entity["obj_scale"]) * points @ np.swapaxes(R, 1, 2) + poses[:, None, 3:])


def _project(points_world: np.ndarray, cameras: Mapping[str, np.ndarray]) -> np.ndarray:
    pixels = []
    for i, points in enumerate(points_world):
        P = (np.asarray(cameras[f"world_mat_{i}"], np.float32) @ np.asarray(cameras[f"scale_mat_{i}"], np.float32))[:3, :4]
        K, R, centre = decompose(P)
        uvw = (points - centre) @ R.T @ K.T
        pixels.append(uvw[:, :2] / uvw[:, 2:])
    return np.stack(pixels)
