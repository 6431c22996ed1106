"""Ground truth of a sequence: this project's file format, and readers of two data sets.

The data sets' conventions are converted here: results are in OpenCV camera axes, metres and MANO-21 order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from scipy.spatial.transform import Rotation

from holdprep.errors import HoldprepError, listed
from holdprep.geometry.rigid import from_rt, invert
from holdprep.hand import lbs
from holdprep.hand.model import SIDES, HandModel, ManoParams, Side
from holdprep.io import safeio

_FLIP = np.diag([1.0, -1.0, -1.0])  # between OpenGL's and OpenCV's camera axes
_HAND_FIELDS = ("vertices_m", "joints_m")
_PARAMS = ("global_orient", "hand_pose", "betas", "transl")
_OPTIONAL = ("T_cam_obj", "object_vertices_m", "object_faces", "segments", "contact")
_SAME_HAND_M = 0.005  # joints of the same parameters in the same model differ by much less, in another model by centimetres
_LID_RAD = np.radians(5.0)  # an articulated object whose lid moves less is treated as rigid
_FAR_M = 1e4
_VIEWS = 9  # of ARCTIC: the egocentric camera, undistorted, and eight fixed ones


@dataclass(frozen=True)
class HandTruth:
    """One true hand over T frames in the camera frame; NaN rows where it is absent or unknown.

    `params` MANO's parameters, float64 tensors; `vertices_m` (T, 778, 3); `joints_m` (T, 21, 3) in MANO-21 order.
    """

    params: ManoParams | None = None
    vertices_m: np.ndarray | None = None
    joints_m: np.ndarray | None = None


@dataclass(frozen=True)
class GroundTruth:
    """Ground truth of T frames with unique `names`; unknown values are None, or NaN rows.

    `image_size` (width, height) of the images of `K` (3, 3); `distortion` is COLMAP's SIMPLE_RADIAL k, 0 without;
    `T_cam_obj` (T, 4, 4) rigid and metric; `object_vertices_m` (V, 3) and `object_faces` (F, 3) in the object's frame.
    `segments` (T,) are numbers of the grasps, `contact` (T,) bool is true where a hand touches the object.
    Raises HoldprepError where two frames have the same name or an array has not T frames.
    """

    names: list[str]
    image_size: tuple[int, int]
    K: np.ndarray
    distortion: float = 0.0
    T_cam_obj: np.ndarray | None = None
    object_vertices_m: np.ndarray | None = None
    object_faces: np.ndarray | None = None
    hands: dict[Side, HandTruth] = field(default_factory=dict)
    grasp: str = ""
    segments: np.ndarray | None = None
    contact: np.ndarray | None = None

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            twice = next(n for n in self.names if self.names.count(n) > 1)
            raise HoldprepError(f"the ground truth names frame {twice} twice: every frame needs its own name")
        per_frame: dict[str, Any] = {"T_cam_obj": self.T_cam_obj, "segments": self.segments, "contact": self.contact}
        for side, hand in self.hands.items():
            per_frame |= {f"{side}.{key}": getattr(hand, key) for key in _HAND_FIELDS}
        for key, value in per_frame.items():
            if value is not None and len(value) != len(self.names):
                raise HoldprepError(f"the ground truth holds {len(self.names)} frames, but its {key} has {len(value)}")


def save_truth(path: Path, truth: GroundTruth) -> None:
    """Write the ground truth as one .npz of plain arrays, atomically."""
    arrays: dict[str, Any] = {"names": np.array(truth.names, dtype=str), "image_size": np.array(truth.image_size), "K": truth.K}
    arrays |= {"distortion": np.float64(truth.distortion), "grasp": np.array(truth.grasp)}
    arrays |= {key: getattr(truth, key) for key in _OPTIONAL if getattr(truth, key) is not None}
    for side, hand in truth.hands.items():
        arrays |= {f"{side}.{key}": getattr(hand, key) for key in _HAND_FIELDS if getattr(hand, key) is not None}
        if hand.params is not None:
            arrays |= {f"{side}.{key}": getattr(hand.params, key).detach().numpy() for key in _PARAMS}
    with safeio.atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def load_truth(path: Path) -> GroundTruth:
    """Read a file of `save_truth`. Raises HoldprepError where it is missing, of another format or without a required key."""
    if not path.exists():
        raise HoldprepError(f"ground truth {path} does not exist")
    if path.is_file() and not safeio.is_zip(path):
        raise HoldprepError(f"{path} is not a ground truth file (a .npz of plain arrays)")
    arrays = safeio.load_npz(path)
    for key in ("names", "image_size", "K"):
        _entry(arrays, key, path)
    hands = {side: _hand(arrays, side) for side in SIDES if any(key.startswith(f"{side}.") for key in arrays)}
    try:
        return _of_arrays(arrays, hands)
    except HoldprepError as error:
        raise HoldprepError(f"{path}: {error}") from None


def _of_arrays(arrays: Mapping[str, Any], hands: dict[Side, HandTruth]) -> GroundTruth:
    return GroundTruth(
        names=arrays["names"].tolist(),
        image_size=(int(arrays["image_size"][0]), int(arrays["image_size"][1])),
        K=arrays["K"],
        distortion=float(arrays.get("distortion", 0.0)),
        hands=hands,
        grasp=str(arrays.get("grasp", "")),
        **{key: arrays[key] for key in _OPTIONAL if key in arrays},
    )


def _hand(arrays: Mapping[str, np.ndarray], side: Side) -> HandTruth:
    known = {key: arrays.get(f"{side}.{key}") for key in (*_HAND_FIELDS, *_PARAMS)}
    params = [known[key] for key in _PARAMS]
    mano = None if any(p is None for p in params) else ManoParams(*(torch.as_tensor(p) for p in params))
    return HandTruth(mano, known["vertices_m"], known["joints_m"])


def _entry(data: Any, key: str, path: Path) -> Any:
    if not isinstance(data, Mapping) or key not in data:
        raise HoldprepError(f"{path} has no {key!r}: is it a ground truth file of the kind that was requested?")
    return data[key]


def read_ho3d(folder: Path, models: Mapping[Side, HandModel] | None = None, ycb: Path | None = None) -> GroundTruth:
    """A sequence of HO-3D v2 or v3: `folder`/meta/*.pkl, one per frame and named like it. Hampali et al., HOnnotate, CVPR 2020.

    The data set's camera axes are OpenGL's (x right, y up, z backwards): rotated here by diag(1, -1, -1). Its `handJoints3D` are in
    MANO-21 order (joint_order.png of its repository; `jointsMapManoToSimple` of its vis_HO3D.py is OPENPOSE_FROM_MANO21 here); only its
    fingertips index to little are other vertices, 333, 444, 555, 672, at distances of millimetres.
    Its `handPose` includes the hand's mean pose (flat_hand_mean=True there), which is subtracted here.

    With the right hand's model (MANO's own), parameters and mesh are known too, and the joints are the model's; `ycb` is the folder
    of the YCB models, or its parent. Values missing in a frame's file are NaN; the evaluation split has no hand.
    Raises HoldprepError where a key is missing or the model is not the one that the joints were made with.
    """
    files = sorted((folder / "meta").glob("*.pkl"))
    if not files:
        raise HoldprepError(f"{folder / 'meta'} holds no .pkl: give the folder of one HO-3D sequence")
    frames = {file: safeio.load_pickle(file) for file in files}
    cameras = _rows(frames, "camMat", 9)
    known = np.isfinite(cameras).all(axis=1)
    if not known.any():
        raise HoldprepError(f"none of the {len(files)} files of {folder / 'meta'} has a camera: there is nothing to compare with")
    objects = {str(name) for file, frame in frames.items() if (name := _entry(frame, "objName", file)) is not None}
    vertices, faces = (None, None) if ycb is None else _ycb_mesh(ycb, objects, folder)
    return GroundTruth(
        names=[file.stem for file in files],
        image_size=(640, 480),
        K=cameras[known][0].reshape(3, 3),
        T_cam_obj=from_rt(_FLIP @ _matrices(_rows(frames, "objRot", 3)), _rows(frames, "objTrans", 3) @ _FLIP),
        object_vertices_m=vertices,
        object_faces=faces,
        hands={"right": _ho3d_hand(frames, models, folder)},
    )


def _ho3d_hand(frames: Mapping[Path, Any], models: Mapping[Side, HandModel] | None, folder: Path) -> HandTruth:
    joints_gl = _rows(frames, "handJoints3D", 63).reshape(-1, 21, 3)
    joints = joints_gl @ _FLIP
    if not models or "right" not in models or not np.isfinite(joints).any():
        return HandTruth(joints_m=joints)
    pose = _rows(frames, "handPose", 48)
    flips = np.broadcast_to(_FLIP, (len(pose), 3, 3))
    orient, transl = _transform_hand(flips, pose[:, :3], _rows(frames, "handTrans", 3), joints_gl[:, 0], joints[:, 0])
    mean = models["right"].hand_mean.double().numpy()
    return _posed(models["right"], (orient, pose[:, 3:] - mean, _rows(frames, "handBeta", 10), transl), joints, folder)


def _rows(frames: Mapping[Path, Any], key: str, size: int) -> np.ndarray:
    """(T, size): one row per file, NaN where the file has None or another number of values."""
    values = [_entry(frame, key, file) for file, frame in frames.items()]
    fits = [value is not None and np.size(value) == size for value in values]
    return np.stack([np.asarray(v, np.float64).ravel() if fit else np.full(size, np.nan) for v, fit in zip(values, fits, strict=True)])


def _ycb_mesh(ycb: Path, objects: set[str], folder: Path) -> tuple[np.ndarray, np.ndarray]:
    if len(objects) != 1:
        raise HoldprepError(f"{folder / 'meta'} names {len(objects)} objects where one was expected: {listed(objects) or 'none'}")
    name = objects.pop()
    file = next((f for sub in ("", "models") if (f := ycb / sub / name / "textured_simple.obj").is_file()), None)
    if file is None:
        raise HoldprepError(f"{ycb / name / 'textured_simple.obj'} does not exist: give the folder of the YCB-Video 3D models")
    mesh = trimesh.load_mesh(file, process=False)
    return np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces)


def read_arctic(
    file: Path, view: int, image_size: tuple[int, int], first: int = 1, models: Mapping[Side, HandModel] | None = None
) -> GroundTruth:
    """One view of a processed ARCTIC sequence (`processed_seqs/<subject>/<sequence>.npy`). Fan et al., ARCTIC, CVPR 2023.

    `view` 0 is the egocentric camera without its distortion, 1..8 the fixed ones; `image_size` is that of the view's images. Frame i
    is image number i + `first` (the subject's `ioi_offset` in the data set's misc.json), named with five digits as there.
    Camera and extrinsics are not in the file: K is computed from points and their projections, the camera's pose from points in both
    frames; both are exact. Hands and objects that the file marks as outside of the image are NaN.
    `T_cam_obj` is that of the object's base. The mesh is there if the file was made with --export_verts: base and lid, or the base
    alone where the lid opens by more than 5 degrees. With `models` (MANO's own), meshes of hands are computed where the file has none.
    Raises HoldprepError where a key is missing, the view does not exist or a model is not the one that the joints were made with.
    """
    if not 0 <= view < _VIEWS:
        raise HoldprepError(f"ARCTIC has no view {view}: 0 is the egocentric camera, 1 to 8 are the fixed ones")
    data = safeio.load_npy(file)
    world, cam, px, params = (_entry(data, key, file) for key in ("world_coord", "cam_coord", "2d", "params"))
    keys = ("joints.right", "joints.left", "kp3d", "bbox3d")
    points_world = np.concatenate([_array(world, key, file) for key in keys], axis=1)
    points_cam = np.concatenate([_array(cam, key, file)[:, view] for key in keys], axis=1)
    points_px = np.concatenate([_array(px, key, file)[:, view] for key in keys], axis=1)
    if not all((np.abs(points) < _FAR_M).all() for points in (points_world, points_cam)):  # false for NaN
        raise HoldprepError(f"{file}: coordinates that are not finite, or beyond {_FAR_M:g} m: is it damaged?")
    T_cam_world = rigid_fit(points_world, points_cam)
    T_world_obj = from_rt(_matrices(_array(params, "obj_rot", file)), _array(params, "obj_trans", file) / 1000)  # stored in mm
    T_cam_obj = T_cam_world @ T_world_obj
    seen = _array(cam, "is_valid", file)[:, view] > 0
    vertices, faces = _arctic_mesh(world, cam, params, T_cam_obj, view, file)
    hands = {side: _arctic_hand(side, data, T_cam_world, view, models, file) for side in SIDES}
    return GroundTruth(
        names=[f"{i + first:05d}" for i in range(len(T_cam_obj))],
        image_size=image_size,
        K=solve_K(points_cam, points_px),
        T_cam_obj=np.where(seen[:, None, None], T_cam_obj, np.nan),
        object_vertices_m=vertices,
        object_faces=faces,
        hands=hands,
    )


def _arctic_hand(
    side: Side, data: Any, T_cam_world: np.ndarray, view: int, models: Mapping[Side, HandModel] | None, file: Path
) -> HandTruth:
    world, cam, params = data["world_coord"], data["cam_coord"], data["params"]
    joints = _array(cam, f"joints.{side}", file)[:, view]
    rot, pose, betas, transl = (_array(params, f"{key}_{side[0]}", file) for key in ("rot", "pose", "shape", "trans"))
    orient, transl = _transform_hand(T_cam_world[:, :3, :3], rot, transl, _array(world, f"joints.{side}", file)[:, 0], joints[:, 0])
    valid = _array(cam, f"{side}_valid", file)[:, view] > 0
    known = tuple(np.where(valid[:, None], value, np.nan) for value in (orient, pose, betas, transl))
    joints = np.where(valid[:, None, None], joints, np.nan)
    if f"verts.{side}" in cam:
        return HandTruth(_mano(known), np.where(valid[:, None, None], _array(cam, f"verts.{side}", file)[:, view], np.nan), joints)
    return _posed(models[side], known, joints, file) if models and side in models else HandTruth(_mano(known), None, joints)


def _arctic_mesh(
    world: Any, cam: Any, params: Any, T_cam_obj: np.ndarray, view: int, file: Path
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    if "verts.object" not in cam:
        return None, None
    lid = _array(params, "obj_arti", file).ravel()
    median_frame = int(np.argsort(lid)[len(lid) // 2])
    count = int(_array(world, "v_len", file).ravel()[0])
    vertices = _array(cam, "verts.object", file)[median_frame, view, :count]  # padded to the data set's largest object, like the faces
    T = invert(T_cam_obj[median_frame])
    faces = _array(world, "f", file)[0, : int(_array(world, "f_len", file).ravel()[0])].astype(np.int64)
    if np.ptp(lid) > _LID_RAD:
        is_base = _array(world, "parts_ids", file)[0, :count] == 2  # 1 is the lid
        faces = faces[is_base[faces].all(axis=1)]
        used, numbers = np.unique(faces, return_inverse=True)
        vertices, faces = vertices[used], numbers.reshape(faces.shape)
    return vertices @ T[:3, :3].T + T[:3, 3], faces


def _array(data: Any, key: str, path: Path) -> np.ndarray:
    return np.asarray(_entry(data, key, path), np.float64)


def solve_K(points_cam: np.ndarray, points_px: np.ndarray) -> np.ndarray:
    """Intrinsics (3, 3) without skew, by least squares from points (..., 3) and their pixels (..., 2)."""
    K = np.eye(3)
    usable = (points_cam[..., 2] > 1e-3) & np.isfinite(points_px).all(axis=-1)
    xy = points_cam[usable][:, :2] / points_cam[usable][:, 2:]
    for axis in (0, 1):
        K[axis, axis], K[axis, 2] = np.polyfit(xy[:, axis], points_px[usable][:, axis], 1)
    return K


def rigid_fit(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rigid transforms (T, 4, 4) from source to target points (T, N, 3), by least squares: Kabsch, Acta Cryst. A32, 1976."""
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (source, target))
    U, _, Vt = np.linalg.svd(np.swapaxes(b, 1, 2) @ a)
    U[..., -1] *= np.sign(np.linalg.det(U @ Vt))[:, None]
    R = U @ Vt
    return from_rt(R, target.mean(axis=1) - (R @ source.mean(axis=1)[..., None])[..., 0])


def _matrices(rotvec: np.ndarray) -> np.ndarray:
    """Rotation matrices (T, 3, 3) of rotation vectors (T, 3); NaN stays NaN."""
    known = np.isfinite(rotvec).all(axis=1)
    R = np.full((len(rotvec), 3, 3), np.nan)
    R[known] = Rotation.from_rotvec(rotvec[known]).as_matrix()
    return R


def _transform_hand(
    R: np.ndarray, orient: np.ndarray, transl: np.ndarray, wrist: np.ndarray, wrist_cam: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """MANO's orientation and translation (T, 3) after a rigid motion with rotations R (T, 3, 3) that moves the wrist to `wrist_cam` (T, 3).

    MANO rotates about the shaped template's wrist, wrist - transl, which does not depend on the motion.
    """
    rotated = R @ _matrices(orient)
    known = np.isfinite(rotated).all(axis=(1, 2))
    result = np.full_like(orient, np.nan)
    result[known] = Rotation.from_matrix(rotated[known]).as_rotvec()
    return result, wrist_cam - (wrist - transl)


def _mano(params: tuple[np.ndarray, ...]) -> ManoParams:
    orient, pose, betas, transl = (torch.as_tensor(p) for p in params)
    return ManoParams(orient, pose, betas, transl)


def _posed(model: HandModel, params: tuple[np.ndarray, ...], joints_m: np.ndarray, path: Path) -> HandTruth:
    """Mesh and joints of the model for the parameters; raises HoldprepError where its 16 joints differ from the file's (T, 21, 3)."""
    mano = _mano(params)
    mesh = lbs.forward(model.to(torch.float64), mano)
    joints = mesh.joints.numpy()
    apart = np.linalg.norm(joints[:, :16] - joints_m[:, :16], axis=2)
    if np.isfinite(apart).any() and np.nanmax(apart) > _SAME_HAND_M:
        raise HoldprepError(
            f"{path} was made with another hand model than this {model.name} {model.side} hand: joints differ by up to "
            f"{1000 * np.nanmax(apart):.0f} mm (limit {1000 * _SAME_HAND_M:.0f}); set hand_model.path to MANO's files"
        )
    return HandTruth(mano, mesh.vertices.numpy(), joints)
