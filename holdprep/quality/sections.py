"""Cross-sections of the hand model's skin: rings of surface points, defined on the mean shape, valid for any shape and pose."""

import math
from dataclasses import dataclass

import numpy as np

from holdprep.hand.joints import FINGERS, MANO21_TIP_VERTICES
from holdprep.hand.model import HandModel

OWN = 0.5  # minimal skinning weight of the vertices of a finger or the thumb
ANGLES = np.linspace(0, math.pi, 60, endpoint=False)  # of the calliper


@dataclass(frozen=True)
class Section:
    """R points where a plane cuts edges of the mesh: `ids` (R, 2) of the edges' vertices, `share` (R,) of the way to the second one."""

    ids: np.ndarray
    share: np.ndarray

    def points(self, vertices: np.ndarray) -> np.ndarray:
        """The points (R, 3) on a mesh (778, 3)."""
        return vertices[self.ids[:, 0]] + self.share[:, None] * (vertices[self.ids[:, 1]] - vertices[self.ids[:, 0]])


def joints_of(model: HandModel, vertices: np.ndarray) -> np.ndarray:
    """Joints and fingertips (21, 3) in MANO-21 order of a shaped, unposed mesh (778, 3)."""
    return np.concatenate([model.J_regressor.double().numpy() @ vertices, vertices[list(MANO21_TIP_VERTICES)]])


def finger_section(model: HandModel, number: int, bone: int, along: float) -> Section:
    """The section of finger `number` of FINGERS at `along` (0 to 1) of its `bone` (0 to 2), perpendicular to the finger."""
    vertices = model.v_template.double().numpy()
    joints, finger = joints_of(model, vertices), FINGERS[number]
    start, end = joints[finger[bone]], joints[finger[bone + 1]]
    axis = end - joints[finger[bone - 1]] if bone > 0 and along == 0 else end - start
    own = model.weights[:, list(finger[:3])].sum(dim=1).numpy() > OWN
    return cut(vertices, model.faces.numpy()[own[model.faces.numpy()].all(axis=1)], start + along * (end - start), axis)


def palm_section(model: HandModel) -> Section:
    """The palm's section through the knuckles of index and little finger, perpendicular to the palm, without the thumb."""
    vertices = model.v_template.double().numpy()
    joints = joints_of(model, vertices)
    across = joints[FINGERS[0][0]] - joints[FINGERS[2][0]]
    forward = joints[FINGERS[1][0]] - joints[0]
    without_thumb = model.weights[:, list(FINGERS[4][:3])].sum(dim=1).numpy() < OWN
    faces = model.faces.numpy()
    axis = forward - across * (forward @ across) / (across @ across)
    return cut(vertices, faces[without_thumb[faces].all(axis=1)], joints[FINGERS[0][0]], axis)


def cut(vertices: np.ndarray, faces: np.ndarray, origin: np.ndarray, axis: np.ndarray) -> Section:
    """Intersection of the plane through `origin`, perpendicular to `axis`, with the edges of `faces` (F, 3)."""
    edges = np.unique(np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1), axis=0)
    height = ((vertices - origin) @ axis)[edges]
    crossing = (height[:, 0] < 0) != (height[:, 1] < 0)
    edges, height = edges[crossing], height[crossing]
    return Section(edges, height[:, 0] / (height[:, 0] - height[:, 1]))


def widths_m(points: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """(2,) smallest and largest distance between parallel jaws of a calliper on points (R, 3), perpendicular to `axis`."""
    side = np.cross(axis, np.eye(3)[np.argmin(np.abs(axis))])
    across = np.stack([side / np.linalg.norm(side), np.cross(axis, side) / np.linalg.norm(np.cross(axis, side))])
    jaws = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1) @ across
    extents = np.ptp(points @ jaws.T, axis=0)
    return np.array([extents.min(), extents.max()])
