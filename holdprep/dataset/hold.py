"""Conversion of aligned hands and object (OpenCV camera frame, metres) to HOLD's training data: build/data.npy and hold_fit.aligned.npy.

The trainer's world is OpenGL-like: the camera frame rotated about x by pi, translated by a constant `normalize_shift`, and divided by the
scale of its scene. Rays are sampled inside a sphere around that world's origin.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.spatial.transform import Rotation

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from holdprep.hand.hold_params import numbers, optional
from holdprep.hand.model import SIDES, HandModel, Side
from holdprep.io import safeio

Shift = Literal["origin", "fixed", "paper"]
FLIP = np.diag([1.0, -1.0, -1.0])  # OpenCV axes to OpenGL axes
SCENE_BOUNDING_SPHERE, MAX_RADIUS_RATIO = 6.0, 3.0
PAPER_SHIFT = np.array([-0.0085238, -0.01372686, 0.42570806])
LABELS = {"right": 150, "left": 250, "object": 50}  # the object is drawn last and overwrites the hands
MIN_INSIDE_PCT = 50.0  # minimal share of points in the trainer's ray sphere


@dataclass(frozen=True)
class AlignedHand:
    """One hand of T frames: MANO parameters, hand mean not included; `wrist_template_m` (3,) is the shaped template's wrist."""

    global_orient: np.ndarray
    hand_pose: np.ndarray
    betas: np.ndarray
    transl_m: np.ndarray
    wrist_template_m: np.ndarray


@dataclass(frozen=True)
class AlignedObject:
    """The object of T frames: x_cam_m = R (obj_scale * x_sfm) + transl, x_sfm = norm_mat^-1 x_cano.

    `R_cam_obj` (T, 3, 3), `transl_m` (T, 3), `obj_scale` metres per SfM unit, `points_cano` (N, 3), `norm_mat` (4, 4).
    """

    R_cam_obj: np.ndarray
    transl_m: np.ndarray
    obj_scale: float
    points_cano: np.ndarray
    norm_mat: np.ndarray

    @property
    def points_sfm(self) -> np.ndarray:
        """Points (N, 3) in the SfM frame."""
        inverse = np.linalg.inv(self.norm_mat)
        return self.points_cano @ inverse[:3, :3].T + inverse[:3, 3]

    @property
    def points_cam_m(self) -> np.ndarray:
        """Posed points (T, N, 3) m in the camera frame."""
        return self.obj_scale * self.points_sfm @ np.swapaxes(self.R_cam_obj, 1, 2) + self.transl_m[:, None]


def wrist_template(model: HandModel, betas: np.ndarray) -> np.ndarray:
    """(3,) the wrist joint of the shaped template, the centre of rotation of global_orient."""
    shaped = model.v_template.numpy() + model.shapedirs.numpy() @ betas
    return model.J_regressor.numpy()[0] @ shaped


def normalize_shift(obj: AlignedObject, shift: Shift) -> np.ndarray:
    """(3,) translation of the trainer's world.

    `origin` moves the object to the world's origin, `fixed` is the guide's --no_fixed_shift (1 m in front of it), `paper` the constant of
    the paper.
    """
    if shift == "paper":
        return PAPER_SHIFT.copy()
    centre = FLIP @ np.median(np.median(obj.points_cam_m, axis=1), axis=0)
    return -centre + (np.array([0.0, 0.0, -1.0]) if shift == "fixed" else 0.0)


def rays_report(points_cam_m: Mapping[str, np.ndarray], shift_m: np.ndarray) -> dict[str, float]:
    """Share of each entity in the trainer's ray sphere, `<entity>_in_rays_pct`, the sphere's radius and the camera's distance in m.

    The sphere is centred at the world's origin, with radius max_radius_ratio x |camera centre|; the camera centre is the shift.
    `points_cam_m` maps entities to (T, N, 3).
    """
    radius = MAX_RADIUS_RATIO * float(np.linalg.norm(shift_m))
    report = {"ray_sphere_radius_m": radius, "camera_distance_m": float(np.linalg.norm(shift_m))}
    for entity, points in points_cam_m.items():
        world = points @ FLIP.T + shift_m
        inside = np.linalg.norm(world, axis=-1) < radius
        report[f"{entity}_in_rays_pct"] = 100 * float(inside.mean())
    return report


def check_rays(report: Mapping[str, float], shift: Shift, object_distance_m: float) -> list[str]:
    """Notes where a part of an entity is outside of the trainer's ray sphere; raises HoldprepError where most of it is."""
    notes = []
    for key in (k for k in report if k.endswith("_in_rays_pct")):
        entity, percent = key.removesuffix("_in_rays_pct"), report[key]
        text = (
            f"build.shift={shift}: {percent:.0f} % of the {entity} lies in the trainer's ray sphere (radius {report['ray_sphere_radius_m']:.2f} m, "
            f"object at {object_distance_m:.2f} m)"
        )
        if percent < MIN_INSIDE_PCT:
            raise HoldprepError(f"{text}; {MIN_INSIDE_PCT:.0f} % are needed: use build.shift=origin")
        if percent < 100:
            notes.append(f"{text}: build.shift=origin reaches all of it")
    return notes


def assemble(seq_name: str, K: np.ndarray, hands: Mapping[Side, AlignedHand], obj: AlignedObject, shift_m: np.ndarray) -> dict[str, Any]:
    """The dict of build/data.npy. Hands are rotated to OpenGL axes about their wrist: transl' = flip (T_hip + transl) - T_hip."""
    frames = len(obj.transl_m)
    entities: dict[str, Any] = {side: _hand_entity(hand, shift_m) for side, hand in hands.items()}
    entities["object"] = {
        "obj_scale": float(obj.obj_scale),
        "pts.cano": obj.points_cano.astype(np.float32),
        "norm_mat": obj.norm_mat.astype(np.float32),
        "object_poses": np.concatenate(
            [Rotation.from_matrix(FLIP @ obj.R_cam_obj).as_rotvec(), obj.transl_m @ FLIP.T + shift_m], axis=1
        ).astype(np.float32),
    }
    return {
        "seq_name": seq_name,
        "cameras": _cameras(K, shift_m, frames),
        "scene_bounding_sphere": SCENE_BOUNDING_SPHERE,
        "max_radius_ratio": MAX_RADIUS_RATIO,
        "entities": entities,
        "normalize_shift": shift_m.astype(np.float64),
    }


def _hand_entity(hand: AlignedHand, shift_m: np.ndarray) -> dict[str, np.ndarray]:
    rotation = Rotation.from_matrix(FLIP @ Rotation.from_rotvec(hand.global_orient).as_matrix()).as_rotvec()
    transl = (hand.wrist_template_m + hand.transl_m) @ FLIP.T - hand.wrist_template_m
    return {
        "hand_poses": np.concatenate([rotation, hand.hand_pose], axis=1).astype(np.float32),
        "hand_trans": (transl + shift_m).astype(np.float32),
        "mean_shape": hand.betas.astype(np.float32),
    }


def _cameras(K: np.ndarray, shift_m: np.ndarray, frames: int) -> dict[str, np.ndarray]:
    """world_mat = K [R | t] with R = flip, t = -R shift; scale_mat = diag(s, s, s, 1), s = radius / bounding sphere."""
    world, K4 = np.eye(4), np.eye(4)
    world[:3, :3], world[:3, 3], K4[:3, :3] = FLIP, -FLIP @ shift_m, K
    s = MAX_RADIUS_RATIO * np.linalg.norm(shift_m) / SCENE_BOUNDING_SPHERE
    scale_mat, world_mat = np.diag([s, s, s, 1.0]).astype(np.float32), (K4 @ world).astype(np.float32)
    return {f"{name}_{i}": matrix.copy() for i in range(frames) for name, matrix in (("scale_mat", scale_mat), ("world_mat", world_mat))}


def hold_fit_aligned(
    K: np.ndarray,
    im_paths: Sequence[str],
    hands: Mapping[Side, AlignedHand],
    meshes_m: Mapping[Side, tuple[np.ndarray, np.ndarray]],
    obj: AlignedObject,
) -> dict[str, Any]:
    """The dict of processed/hold_fit.aligned.npy; `meshes_m`: each hand's vertices (T, 778, 3) and joints (T, 21, 3), camera frame."""
    f32 = np.float32
    out: dict[str, Any] = {}
    for side, hand in hands.items():
        vertices, joints = meshes_m[side]
        out[side] = {
            "j3d": joints.astype(f32),
            "j3d.ra": (joints - joints[:, :1]).astype(f32),
            "v3d": vertices.astype(f32),
            "v2d": project(vertices, K).astype(f32),
            "j2d": project(joints, K).astype(f32),
            "hand_rot": hand.global_orient.astype(f32),
            "hand_pose": hand.hand_pose.astype(f32),
            "hand_beta": hand.betas.astype(f32),
            "hand_transl": hand.transl_m.astype(f32),
            "im_paths": list(im_paths),
            "K": K.astype(f32),
        }
    o2w = np.tile(np.eye(4), (len(obj.transl_m), 1, 1))
    o2w[:, :3, :3], o2w[:, :3, 3] = obj.R_cam_obj, obj.transl_m
    points = obj.points_cam_m
    out["object"] = {
        "j3d": points.astype(f32),
        "j2d": project(points, K).astype(f32),
        "obj_scale": np.array([obj.obj_scale], f32),
        "o2w_all": o2w.astype(f32),
        "K": K.astype(f32),
        "im_paths": list(im_paths),
    }
    return out


def read_aligned(path: Path) -> dict[str, Any]:
    """hold_fit.aligned.npy: by hand rotation, pose, shape and translation, with the mesh `v3d` where it is stored; and the object.

    Raises HoldprepError in one line for other content.
    """
    content = safeio.load_npy(path)
    sides = [side for side in SIDES if isinstance(content, Mapping) and side in content]
    if not sides or "object" not in content:
        held = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
        raise HoldprepError(f"{path} holds {held[:200]}: a hand and the object are needed; run stage=align mode=ho again")
    found: dict[str, Any] = {}
    for side in sides:
        hand = content[side]
        frames = np.shape(hand.get("hand_transl", 0))[:1] if isinstance(hand, Mapping) else ()
        shapes = {
            "hand_rot": [(*frames, 3)],
            "hand_pose": [(*frames, 45)],
            "hand_beta": [(10,), (*frames, 10)],
            "hand_transl": [(*frames, 3)],
        }
        shapes |= {key: [(*frames, 778, 3)] for key in optional(hand, "v3d")}
        found[side] = {key: numbers(path, hand, key, *shape) for key, shape in shapes.items()}
    frames = np.shape(content["object"].get("o2w_all", 0))[:1] if isinstance(content["object"], Mapping) else ()
    shapes = {"o2w_all": [(*frames, 4, 4)], "obj_scale": [(), (1,)], "K": [(3, 3)]}
    found["object"] = {key: numbers(path, content["object"], key, *shape) for key, shape in shapes.items()}
    return found


def merge_masks(masks: Mapping[str, np.ndarray]) -> np.ndarray:
    """The label image (H, W) uint8 of one frame's masks (H, W) bool: 0 background, 50 object over 150 right and 250 left."""
    label = np.zeros(next(iter(masks.values())).shape, np.uint8)
    for entity, value in LABELS.items():
        if entity in masks:
            label[masks[entity]] = value
    return label


def unusable_frames(label_images: Sequence[np.ndarray], sides: Sequence[Side]) -> list[int]:
    """Frames on which the trainer crashes: for one of the hands, neither it nor the object has a pixel.

    Input are label images, or their values.
    """
    bad = []
    for t, label in enumerate(label_images):
        present = set(np.unique(label).tolist())
        if any(not present & {LABELS[side], LABELS["object"]} for side in sides):
            bad.append(t)
    return bad
